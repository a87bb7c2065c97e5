// Images that are sets of channels, one for each phase of a larger image's lines and pixels, as
// that image: the last step of a transposed convolution.
#include "values.h"

namespace sparse_ops {
namespace program {
namespace {

constexpr int64_t kMost = int64_t{1} << 24;

struct Interleave : Step, Ready {
  explicit Interleave(const Parts& parts) : kernels(*parts.kernels.steps) {
    check_parts(parts, "interleave", 4, 0);
    for (int i = 0; i < 2; ++i) {
      stride[i] = parts.attributes[i];
      cut[i] = parts.attributes[2 + i];
      STD_TORCH_CHECK(stride[i] >= 1 && stride[i] < kMost, "interleave must be by 1 to 2^24, got ",
                      stride[i]);
      STD_TORCH_CHECK(cut[i] >= 0 && cut[i] < stride[i], "interleave by ", stride[i],
                      " must cut off 0 to ", stride[i] - 1, ", got ", cut[i]);
    }
  }

  Shape infer(const std::vector<Shape>& in) const override {
    check_inputs(in.size(), "interleave", 1);
    check_shape(in[0], "interleave", true);
    const int64_t phases = stride[0] * stride[1];
    STD_TORCH_CHECK(in[0].c % phases == 0, "interleave of ", phases,
                    " phases must read a multiple of as many channels, got ", in_words(in[0]));
    Shape out = in[0];
    out.c /= phases;
    out.h = out.h * stride[0] - cut[0];
    out.w = out.w * stride[1] - cut[1];
    return checked(out, "interleave");
  }

  std::unique_ptr<Ready> ready(const std::vector<Spec>& in, const Spec& out) const override {
    check_orders(in, out, "interleave");
    STD_TORCH_CHECK(out.order != kChannels, "interleave must be planar, or of images innermost");
    return std::make_unique<Interleave>(*this);
  }

  void run(const View* in, const View& out, float*) const override {
    const bool plane = out.spec.order == kPlanar;
    const int64_t channels = out.spec.shape.c, width = out.spec.shape.w, line = out.spec.line();
    const int64_t step = channels * in->spec.plane();
    for_each_lines(out, line, [&](int64_t block, int64_t channel, int64_t top, int64_t end) {
      float* to = out.inside(block, channel);
      for (int64_t l = top; l < end; ++l) {
        const int64_t phase = l % stride[0] * stride[1];
        const float* from =
            in->inside(block, phase * channels + channel) + l / stride[0] * in->spec.line();
        kernels.interleave(plane, stride[1], width, from, step, to + l * line);
      }
    });
  }

  const StepKernels& kernels;
  int64_t stride[2], cut[2];
};

}  // namespace

std::unique_ptr<Step> make_interleave(const Parts& parts) {
  return std::make_unique<Interleave>(parts);
}

}  // namespace program
}  // namespace sparse_ops
