// A factor and a shift for each channel.
#include "channel_numbers.h"

namespace sparse_ops {
namespace program {
namespace {

struct Affine : Step, Ready {
  explicit Affine(const Parts& parts) : kernels(*parts.kernels.steps) {
    check_parts(parts, "affine", 1, 2);
    activation = activation_from(parts.attributes[0]);
    const Tensor *first = parts.constants[0], *second = parts.constants[1];
    scale = numbers_of_channels(first, "scale", 1);
    shift = numbers_of_channels(second, "shift", 0);
    STD_TORCH_CHECK(first || second, "affine must have a scale or a shift");
    channels = (first ? first : second)->numel();
    STD_TORCH_CHECK(!first || !second || first->numel() == second->numel(), "shift must have ",
                    channels, " values as scale has, got ", (second ? second : first)->numel());
    if (!first) scale.assign(shift.size(), 1);
    if (!second) shift.assign(scale.size(), 0);
  }

  Shape infer(const std::vector<Shape>& in) const override {
    check_inputs(in.size(), "affine", 1);
    check_shape(in[0], "affine", false);
    STD_TORCH_CHECK(in[0].c == channels, "affine must read ", channels, " channels, got ",
                    in_words(in[0]));
    return in[0];
  }

  std::unique_ptr<Ready> ready(const std::vector<Spec>& in, const Spec& out) const override {
    check_orders(in, out, "affine");
    return std::make_unique<Affine>(*this);
  }

  void run(const View* in, const View& out, float*) const override {
    over_channels(*in, out, channels, [&](const Lines& lines, Which which, int64_t first) {
      float factors[kLanes], shifts[kLanes];
      kernels.affine(lines, numbers_for(scale, which, first, factors),
                     numbers_for(shift, which, first, shifts), which != Which::kAll, activation);
    });
  }

  const StepKernels& kernels;
  Activation activation;
  std::vector<float> scale, shift;
  int64_t channels;
};

}  // namespace

std::unique_ptr<Step> make_affine(const Parts& parts) { return std::make_unique<Affine>(parts); }

}  // namespace program
}  // namespace sparse_ops
