// PReLU: what is below zero times a slope, one for each channel or one for all.
#include "channel_numbers.h"

namespace sparse_ops {
namespace program {
namespace {

struct PReLU : Step, Ready {
  explicit PReLU(const Parts& parts) : kernels(*parts.kernels.steps) {
    check_parts(parts, "prelu", 0, 1);
    STD_TORCH_CHECK(parts.constants[0], "prelu must have slopes");
    slopes = numbers_of_channels(parts.constants[0], "slopes", 0);
    channels = parts.constants[0]->numel();
  }

  Shape infer(const std::vector<Shape>& in) const override {
    check_inputs(in.size(), "prelu", 1);
    check_shape(in[0], "prelu", false);
    STD_TORCH_CHECK(channels == 1 || in[0].c == channels, "prelu must read ", channels,
                    " channels, got ", in_words(in[0]));
    return in[0];
  }

  std::unique_ptr<Ready> ready(const std::vector<Spec>& in, const Spec& out) const override {
    check_orders(in, out, "prelu");
    return std::make_unique<PReLU>(*this);
  }

  void run(const View* in, const View& out, float*) const override {
    over_channels(*in, out, out.spec.shape.c, [&](const Lines& lines, Which which, int64_t first) {
      float filled[kLanes];
      if (channels == 1) {
        which = Which::kOne;
        first = 0;
      }
      kernels.prelu(lines, numbers_for(slopes, which, first, filled), which != Which::kAll);
    });
  }

  const StepKernels& kernels;
  std::vector<float> slopes;
  int64_t channels;
};

}  // namespace

std::unique_ptr<Step> make_prelu(const Parts& parts) { return std::make_unique<PReLU>(parts); }

}  // namespace program
}  // namespace sparse_ops
