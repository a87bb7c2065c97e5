// Channels of several values, one after the other.
#include "lanes.h"

namespace sparse_ops {
namespace program {
namespace {

struct Concat : Step, Ready {
  explicit Concat(const Parts& parts) : kernels(*parts.kernels.steps) {
    check_parts(parts, "concat", 0, 0);
  }

  Shape infer(const std::vector<Shape>& in) const override {
    STD_TORCH_CHECK(!in.empty(), "concat must have inputs, got none");
    Shape out = in[0];
    check_shape(out, "concat", false);
    for (size_t i = 1; i < in.size(); ++i) {
      const Shape &a = in[0], &b = in[i];
      STD_TORCH_CHECK(a.rank == b.rank && a.n == b.n && a.h == b.h && a.w == b.w,
                      "concat must read values that differ in their channels only, got ",
                      in_words(a), " and ", in_words(b));
      check_shape(b, "concat", false);
      out.c += b.c;
    }
    return checked(out, "concat");
  }

  std::unique_ptr<Ready> ready(const std::vector<Spec>& in, const Spec& out) const override {
    check_orders(in, out, "concat");
    auto step = std::make_unique<Concat>(*this);
    int64_t channel = 0;
    for (const Spec& spec : in) {
      step->starts.push_back(channel);
      channel += spec.shape.c;
    }
    step->starts.push_back(channel);
    return step;
  }

  // Whether an input is a part of the output, and so needs no copy.
  bool is_there(const View& in, const View& out, size_t i) const {
    const int64_t lanes = out.spec.order == kChannels ? kLanes : 1;
    return starts[i] % lanes == 0 && in.spec.halo == out.spec.halo &&
           in.data == out.data + starts[i] / lanes * out.spec.plane();
  }

  void run(const View* in, const View& out, float*) const override {
    const size_t count = starts.size() - 1;
    std::vector<size_t> moved;
    int64_t channels = 0;
    bool small = true;
    for (size_t i = 0; i < count; ++i) {
      if (is_there(in[i], out, i)) continue;
      moved.push_back(i);
      channels += starts[i + 1] - starts[i];
      small = small && small_planes(in[i], out);
    }
    if (moved.empty()) return;
    if (small) {
      for (const size_t i : moved)
        copy_small_planes(in[i], 0, out, starts[i], starts[i + 1] - starts[i]);
      return;
    }
    // Only planes that an input which moves has a channel of.
    const int64_t lanes = out.spec.order == kChannels ? kLanes : 1;
    const int64_t height = out.spec.shape.h;
    std::vector<int64_t> planes;
    for (const size_t i : moved)
      for (int64_t p = starts[i] / lanes; p * lanes < starts[i + 1]; ++p)
        if (planes.empty() || planes.back() != p) planes.push_back(p);
    const int64_t each = static_cast<int64_t>(planes.size());
    share(out.spec.blocks() * each * height, out.spec.line(), [&](int64_t first, int64_t last) {
      while (first < last) {
        const int64_t block = first / height / each, plane = planes[first / height % each];
        const int64_t top = first % height, end = std::min(height, top + last - first);
        // In the order of their channels: what stands behind an input is written by the next.
        for (const size_t i : moved)
          if (starts[i] < (plane + 1) * lanes && starts[i + 1] > plane * lanes)
            copy_channels(kernels, in[i], 0, out, starts[i], block, plane, top, end);
        clear_halo(out, block, plane, top, end);
        first += end - top;
      }
    });
  }

  const StepKernels& kernels;
  // Of each input, the channel of the output where it begins; and where the last ends.
  std::vector<int64_t> starts;
};

}  // namespace

std::unique_ptr<Step> make_concat(const Parts& parts) { return std::make_unique<Concat>(parts); }

}  // namespace program
}  // namespace sparse_ops
