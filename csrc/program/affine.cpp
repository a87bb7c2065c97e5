// A factor and a shift for each channel.
#include "values.h"

namespace sparse_ops {
namespace program {
namespace {

// A copy, filled up to whole blocks of channels.
std::vector<float> copied(const Tensor* constant, const char* name, float otherwise) {
  if (!constant) return {};
  STD_TORCH_CHECK(constant->dim() == 1, name, " must be (C), got ", constant->dim(), " dimensions");
  const Tensor t = floats(*constant, name);
  const int64_t count = t.numel();
  std::vector<float> values((count + kLanes - 1) / kLanes * kLanes, otherwise);
  std::copy_n(data(t), count, values.begin());
  return values;
}

struct Affine : Step, Ready {
  explicit Affine(const Parts& parts) : kernels(*parts.kernels.steps) {
    check_parts(parts, "affine", 1, 2);
    activation = activation_from(parts.attributes[0]);
    const Tensor *first = parts.constants[0], *second = parts.constants[1];
    scale = copied(first, "scale", 1);
    shift = copied(second, "shift", 0);
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
    const Spec& spec = out.spec;
    if (spec.order == kPlanar && spec.shape.h == 1 && spec.shape.w == 1 && spec.halo == 0 &&
        in->spec.halo == 0) {
      // Planes of one number are joined to lines of channels.
      share(spec.blocks(), channels, [&](int64_t i0, int64_t i1) {
        const Lines lines = {i1 - i0, channels, in->data + i0 * in->block_step, in->block_step,
                             out.data + i0 * out.block_step, out.block_step};
        kernels.affine(lines, scale.data(), shift.data(), false, activation);
      });
      return;
    }
    for_each_lines(out, spec.line(), [&](int64_t block, int64_t plane, int64_t top, int64_t end) {
      const Lines lines = lines_of(*in, out, block, plane, top, end);
      if (spec.order == kChannels) {
        kernels.affine(lines, scale.data() + plane * kLanes, shift.data() + plane * kLanes, true,
                       activation);
        return;
      }
      float factors[kLanes], shifts[kLanes];
      std::fill_n(factors, kLanes, scale[plane]);
      std::fill_n(shifts, kLanes, shift[plane]);
      kernels.affine(lines, factors, shifts, true, activation);
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
