// How convolutions of blocked images go over cells of pixels and parts of filters.
#pragma once
#include <algorithm>

#include "blocked_conv.h"

namespace sparse_ops {

// Asks for what the next cell reads and the one before it did not, a part at a time: while that is
// computed.
class Ahead {
 public:
  // `after` may be null.
  Ahead(const BlockedImages& images, const float* from, const Cell& now, const Cell* after,
        int64_t parts)
      : channel_(images.x.plane()), line_(images.x.line()) {
    if (!after) return;
    const Cell& next = *after;
    const int64_t last = (next.lines - 1) * images.stride_l + images.reach_l;
    const bool under = next.block == now.block && next.left == now.left && next.top > now.top;
    const int64_t known = under ? (now.lines - 1) * images.stride_l + images.reach_l -
                                      (next.top - now.top) * images.stride_l
                                : 0;
    first_ = from + images.origin(next) + std::max<int64_t>(0, known) * line_;
    width_ = (next.width - 1) * images.stride_p + images.reach_p;
    lines_ = std::max<int64_t>(0, last - std::max<int64_t>(0, known));
    left_ = images.x.channels * lines_;
    share_ = (left_ + parts - 1) / parts;
  }
  void some() {
    for (int64_t i = 0; i < share_ && left_ > 0; ++i, --left_) {
      const float* p = first_ + at_ / lines_ * channel_ + at_ % lines_ * line_;
      for (int64_t w = 0; w < width_; ++w) __builtin_prefetch(p + w * kLanes, 0, 2);
      ++at_;
    }
  }

 private:
  const float* first_ = nullptr;
  int64_t channel_, line_, width_ = 0, lines_ = 0, left_ = 0, share_ = 0, at_ = 0;
};

// About how many multiply-accumulates are worth a thread.
constexpr int64_t kGrainOfCells = 1 << 19;

// Calls work(cell, the next one or null, first, end) for all cells and parts of filters [first,
// end), on all threads. `cost` is that of the parts before, for each and the end; with few cells a
// thread, they are dealt out, too.
template <class Work>
void deal_out(const Cells& cells, const Blocks& y, const std::vector<int64_t>& cost, Work work) {
  const int64_t threads = torch::stable::get_num_threads(), count = y.blocks * cells.count();
  const int64_t parts = static_cast<int64_t>(cost.size()) - 1;
  const int64_t shares =
      threads == 1 || count >= 8 * threads ? 1 : std::min(parts, (4 * threads + count - 1) / count);
  const auto bound = [&](int64_t i) {
    return std::lower_bound(cost.begin(), cost.end(), cost[parts] * i / shares) - cost.begin();
  };
  const int64_t all = y.blocks * y.height * y.width * kLanes * cost[parts];
  const int64_t grain =
      std::max<int64_t>(1, shares * count * kGrainOfCells / std::max<int64_t>(1, all));
  torch::stable::parallel_for(0, shares * count, grain, [&](int64_t i0, int64_t i1) {
    for (int64_t i = i0; i < i1; ++i) {
      const Cell cell = cells.at(i % count);
      const bool goes_on = i + 1 < i1 && (i + 1) % count != 0;
      const Cell next = goes_on ? cells.at((i + 1) % count) : cell;
      const int64_t first = bound(i / count), end = bound(i / count + 1);
      if (first < end) work(cell, goes_on ? &next : nullptr, first, end);
    }
  });
}

}  // namespace sparse_ops
