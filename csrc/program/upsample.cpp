// Images made larger by whole numbers, as torch does it.
#include "values.h"

namespace sparse_ops {
namespace program {
namespace {

// Which line or pixel of the input comes before each of the output, which after it, and how much
// the latter weighs.
struct Between {
  std::vector<int32_t> before, after;
  std::vector<float> weight;
};

Between nearest(int64_t size, int64_t scale) {
  // Torch's arithmetic, which is not always that of whole numbers.
  const float step = static_cast<float>(1.0 / static_cast<double>(scale));
  Between side;
  for (int64_t i = 0; i < size * scale; ++i)
    side.before.push_back(static_cast<int32_t>(
        std::min(static_cast<int64_t>(static_cast<float>(i) * step), size - 1)));
  return side;
}

Between linear(int64_t size, int64_t scale, bool align_corners) {
  Between side;
  const int64_t count = size * scale;
  const double step = !align_corners ? 1.0 / static_cast<double>(scale)
                      : count > 1 ? static_cast<double>(size - 1) / static_cast<double>(count - 1)
                                  : 0.0;
  for (int64_t i = 0; i < count; ++i) {
    const double at = align_corners ? step * static_cast<double>(i)
                                    : std::max(0.0, step * (static_cast<double>(i) + 0.5) - 0.5);
    const int64_t before = std::min(static_cast<int64_t>(at), size - 1);
    side.before.push_back(static_cast<int32_t>(before));
    side.after.push_back(static_cast<int32_t>(std::min(before + 1, size - 1)));
    side.weight.push_back(
        static_cast<float>(std::min(std::max(at - static_cast<double>(before), 0.0), 1.0)));
  }
  return side;
}

struct Upsample : Step, Ready {
  explicit Upsample(const Parts& parts) : kernels(*parts.kernels.steps) {
    check_parts(parts, "upsample", 4, 0);
    const std::vector<int64_t>& a = parts.attributes;
    STD_TORCH_CHECK(a[0] == 0 || a[0] == 1, "upsample must be of mode 0 or 1, got ", a[0]);
    bilinear = a[0] == 1;
    for (int i = 0; i < 2; ++i) {
      scale[i] = a[1 + i];
      STD_TORCH_CHECK(scale[i] >= 1 && scale[i] < (1 << 24), "upsample must be by 1 to 2^24, got ",
                      scale[i]);
    }
    align_corners = a[3] != 0;
  }

  Shape infer(const std::vector<Shape>& in) const override {
    check_inputs(in.size(), "upsample", 1);
    check_shape(in[0], "upsample", true);
    Shape out = in[0];
    out.h *= scale[0];
    out.w *= scale[1];
    return checked(out, "upsample");
  }

  std::unique_ptr<Ready> ready(const std::vector<Spec>& in, const Spec& out) const override {
    check_orders(in, out, "upsample");
    auto step = std::make_unique<Upsample>(*this);
    const Shape& s = in[0].shape;
    step->lines = bilinear ? linear(s.h, scale[0], align_corners) : nearest(s.h, scale[0]);
    step->pixels = bilinear ? linear(s.w, scale[1], align_corners) : nearest(s.w, scale[1]);
    return step;
  }

  void run(const View* in, const View& out, float*) const override {
    const bool plane = out.spec.order == kPlanar;
    const int64_t width = out.spec.shape.w, step = in->spec.line(), to_step = out.spec.line();
    for_each_lines(out, (bilinear ? 4 : 1) * to_step,
                   [&](int64_t block, int64_t p, int64_t top, int64_t end) {
                     const float* from = in->inside(block, p);
                     float* to = out.inside(block, p) + top * to_step;
                     for (int64_t l = top; l < end; ++l, to += to_step) {
                       const float* upper = from + lines.before[l] * step;
                       if (bilinear)
                         kernels.blend(plane, width, pixels.before.data(), pixels.after.data(),
                                       pixels.weight.data(), upper, from + lines.after[l] * step,
                                       lines.weight[l], to);
                       else if (l > top && lines.before[l] == lines.before[l - 1])
                         std::memcpy(to, to - to_step,
                                     sizeof(float) * static_cast<size_t>(width * out.spec.lanes()));
                       else
                         kernels.repeat(plane, width, pixels.before.data(), upper, to);
                     }
                   });
  }

  const StepKernels& kernels;
  bool bilinear, align_corners;
  int64_t scale[2];
  Between lines, pixels;
};

}  // namespace

std::unique_ptr<Step> make_upsample(const Parts& parts) {
  return std::make_unique<Upsample>(parts);
}

}  // namespace program
}  // namespace sparse_ops
