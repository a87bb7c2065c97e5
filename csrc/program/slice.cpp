// Channels out of more.
#include "lanes.h"

namespace sparse_ops {
namespace program {
namespace {

struct Slice : Step, Ready {
  explicit Slice(const Parts& parts) : kernels(*parts.kernels.steps) {
    check_parts(parts, "slice", 2, 0);
    first = parts.attributes[0];
    count = parts.attributes[1];
    STD_TORCH_CHECK(first >= 0 && count >= 1,
                    "slice must have a first channel from 0 and at least one, "
                    "got ",
                    first, " and ", count);
  }

  Shape infer(const std::vector<Shape>& in) const override {
    check_inputs(in.size(), "slice", 1);
    check_shape(in[0], "slice", false);
    STD_TORCH_CHECK(first <= in[0].c - count, "slice of ", count, " channels from ", first,
                    " on must read as many, got ", in_words(in[0]));
    Shape out = in[0];
    out.c = count;
    return out;
  }

  std::unique_ptr<Ready> ready(const std::vector<Spec>& in, const Spec& out) const override {
    check_orders(in, out, "slice");
    return std::make_unique<Slice>(*this);
  }

  void run(const View* in, const View& out, float*) const override {
    if (small_planes(*in, out)) return copy_small_planes(*in, first, out, 0, count);
    for_each_lines(out, out.spec.line(),
                   [&](int64_t block, int64_t plane, int64_t top, int64_t end) {
                     copy_channels(kernels, *in, first, out, 0, block, plane, top, end);
                   });
  }

  const StepKernels& kernels;
  int64_t first, count;
};

}  // namespace

std::unique_ptr<Step> make_slice(const Parts& parts) { return std::make_unique<Slice>(parts); }

}  // namespace program
}  // namespace sparse_ops
