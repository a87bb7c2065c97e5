// Sparse linear layers as steps. The order of additions is the same for any batch.
#include "../cpu/second_cache.h"
#include "linear.h"

namespace sparse_ops {
namespace program {
namespace {

// Up to this batch, rows are read one entry at a time for all; beyond it x is turned, the batch
// innermost.
constexpr int64_t kFew = 4;
// Floats of x that are turned at once.
int64_t most_in_panel() { return second_cache() / 2; }
// Rows whose results are written together.
constexpr int64_t kTile = 64;

int64_t up(int64_t value, int64_t step) { return (value + step - 1) / step; }

class Sparse : public Ready {
 public:
  Sparse(const GivenLinear& given, int64_t batch)
      : sizes_(given.sizes), crow_(given.weights.crow), col_(given.weights.col), batch_(batch) {
    const std::optional<Tensor>& values = given.weights.values;
    if (values) values_.assign(data(*values), data(*values) + values->numel());
    if (given.weights.bias)
      bias_.assign(data(*given.weights.bias), data(*given.weights.bias) + sizes_.out);
    const int64_t threads = torch::stable::get_num_threads();
    // One entry of x for a row, four, or whole lines of the batch.
    lines_ = 0;
    width_ = batch == 1 ? 1 : 4;
    if (batch > kFew) {
      const int64_t most = std::clamp<int64_t>(most_in_panel() / (sizes_.in * kLanes), 1,
                                               sizes_.kernels.tiles->most_lines);
      const int64_t all = up(batch, kLanes);
      lines_ = up(all, up(all, most));
      width_ = lines_ * kLanes;
    }
    panel_ = batch == 1 ? 0 : up(sizes_.in * width_, kLanes) * kLanes;
    results_ = kTile * width_;
    dense_ = lines_ ? kTile * kLanes : 0;
    const int64_t work = static_cast<int64_t>(values_.size()) * up(batch, 4);
    shares_ = std::clamp<int64_t>(work / (kGrain / 8), 1, std::min(threads, up(sizes_.out, kTile)));
  }

  int64_t scratch() const override { return panel_ + shares_ * (results_ + dense_); }

  void run(const View* in, const View& out, float* scratch) const override {
    const int64_t step = lines_ ? width_ : std::max<int64_t>(1, batch_);
    for (int64_t first = 0; first < batch_; first += step) {
      const int64_t count = std::min(step, batch_ - first);
      const float* x = in[0].data + first * in[0].block_step;
      if (batch_ > 1) {
        turn(x, in[0].block_step, count, scratch);
        x = scratch;
      }
      torch::stable::parallel_for(0, shares_, 1, [&](int64_t s0, int64_t s1) {
        for (int64_t s = s0; s < s1; ++s)
          multiply(x, in, out, first, count, sizes_.out * s / shares_,
                   sizes_.out * (s + 1) / shares_, scratch + panel_ + s * (results_ + dense_));
      });
    }
  }

 private:
  // `count` rows of x side by side, zeros where there are none.
  void turn(const float* x, int64_t step, int64_t count, float* to) const {
    if (!lines_) {
      for (int64_t k = 0; k < sizes_.in; ++k)
        for (int64_t b = 0; b < width_; ++b)
          to[k * width_ + b] = b < count ? x[b * step + k] : 0.0f;
      return;
    }
    for (int64_t line = 0; line < lines_; ++line) {
      const int64_t filled = std::clamp<int64_t>(count - line * kLanes, 0, kLanes);
      const float* rows = x + line * kLanes * step;
      if (filled == kLanes) {
        sizes_.kernels.interleave(sizes_.in, rows, step, 1, to + line * kLanes, width_);
        continue;
      }
      alignas(64) float some[kLanes * kTile] = {};
      for (int64_t k = 0; k < sizes_.in; k += kTile) {
        const int64_t length = std::min(kTile, sizes_.in - k);
        for (int64_t l = 0; l < filled; ++l)
          std::copy_n(rows + l * step + k, length, some + l * kTile);
        sizes_.kernels.interleave(length, some, kTile, 1, to + k * width_ + line * kLanes, width_);
      }
    }
  }

  // Rows [from, to) of the weight, for rows [first, first + count) of the batch.
  void multiply(const float* x, const View* in, const View& out, int64_t first, int64_t count,
                int64_t from, int64_t to, float* results) const {
    const TileKernels& tiles = *sizes_.kernels.tiles;
    const EndKernels& ends = sizes_.kernels.ends[kFloat];
    const View* added = sizes_.residual ? in + 1 : nullptr;
    for (int64_t o = from; o < to; o += kTile) {
      const int64_t rows = std::min(kTile, to - o);
      const SparseWork work = {o,           o + rows,       crow_.data(),
                               col_.data(), values_.data(), bias_.empty() ? nullptr : bias_.data()};
      if (lines_)
        tiles.sparse_lines(static_cast<int>(lines_), work, x, results);
      else
        (width_ == 1 ? tiles.sparse_one : tiles.sparse_four)(work, x, results);
      for (int64_t b = 0; b < count; b += kLanes) {
        float* y = out.data + (first + b) * out.block_step + o;
        const float* more = added ? added->data + (first + b) * added->block_step + o : nullptr;
        if (lines_ && count - b >= kLanes) {
          float* dense = results + results_;
          sizes_.kernels.separate(rows, results + b, width_, dense, kTile);
          ends.put(kLanes, rows, dense, kTile, more, added ? added->block_step : 0, y,
                   out.block_step, sizes_.activation);
          continue;
        }
        for (int64_t i = 0; i < std::min(kLanes, count - b); ++i)
          ends.write(rows, results + b + i, width_, more ? more + i * added->block_step : nullptr,
                     1, y + i * out.block_step, 1, sizes_.activation);
      }
    }
  }

  const LinearSizes sizes_;
  const std::vector<int32_t> crow_, col_;
  std::vector<float> values_, bias_;
  int64_t batch_, lines_, width_, panel_, results_, dense_, shares_;
};

}  // namespace

std::unique_ptr<Ready> ready_sparse_linear(const GivenLinear& given, int64_t batch) {
  return std::make_unique<Sparse>(given, batch);
}

}  // namespace program
}  // namespace sparse_ops
