// (N, C, H, W) -> (N, C * H * W).
#include "convert.h"

namespace sparse_ops {
namespace program {
namespace {

// Flattened values are planar ones, seen as lines.
class Flattening : public Ready {
 public:
  Flattening(const RowSparseKernels& kernels, const Spec& in)
      : planar_{in.shape, kPlanar, 0}, conversion_(ready_to_convert(kernels, in, planar_)) {}

  void run(const View* in, const View& out, float* scratch) const override {
    conversion_->run(in, View{planar_, out.data, out.block_step}, scratch);
  }

 private:
  const Spec planar_;
  const std::unique_ptr<Ready> conversion_;
};

class FlattenStep : public Step {
 public:
  explicit FlattenStep(const Parts& parts) : kernels_(parts.kernels) {}

  Shape infer(const std::vector<Shape>& in) const override {
    const Shape& x = in[0];
    int64_t features = 0;
    const bool fits = !__builtin_mul_overflow(x.c, x.h, &features) &&
                      !__builtin_mul_overflow(features, x.w, &features);
    STD_TORCH_CHECK(fits, "flatten: ", x.c, " x ", x.h, " x ", x.w, " values are out of range");
    return {2, x.n, features, 1, 1};
  }

  std::unique_ptr<Ready> ready(const std::vector<Spec>& in, const Spec& out) const override {
    STD_TORCH_CHECK(out.order == kPlanar, "flatten: the output must be planar");
    return std::make_unique<Flattening>(kernels_, in[0]);
  }

 private:
  const RowSparseKernels& kernels_;
};

}  // namespace

std::unique_ptr<Step> make_flatten(const Parts& parts) {
  return std::make_unique<FlattenStep>(parts);
}

}  // namespace program
}  // namespace sparse_ops
