// Softmax along the channels, and its logarithm.
#include <cmath>

#include "values.h"

namespace sparse_ops {
namespace program {
namespace {

struct Softmax : Step, Ready {
  explicit Softmax(const Parts& parts) : kernels(*parts.kernels.steps) {
    check_parts(parts, "softmax", 1, 0);
    logarithm = parts.attributes[0] != 0;
  }

  Shape infer(const std::vector<Shape>& in) const override {
    check_inputs(in.size(), "softmax", 1);
    STD_TORCH_CHECK(in[0].rank == 2, "softmax must read (N, C), got ", in_words(in[0]));
    check_shape(in[0], "softmax", false);
    return in[0];
  }

  std::unique_ptr<Ready> ready(const std::vector<Spec>& in, const Spec& out) const override {
    check_orders(in, out, "softmax");
    return std::make_unique<Softmax>(*this);
  }

  void run(const View* in, const View& out, float*) const override {
    const int64_t channels = out.spec.shape.c;
    share(out.spec.blocks(), 8 * channels, [&](int64_t i0, int64_t i1) {
      for (int64_t i = i0; i < i1; ++i) {
        const float* from = in->data + i * in->block_step;
        float* to = out.data + i * out.block_step;
        const Lines line = {1, channels, logarithm ? from : to, 0, to, 0};
        // No exponential is over one, and one of them is one.
        const float most = kernels.greatest(channels, from);
        const double sum = kernels.exponentials(channels, from, most, logarithm ? nullptr : to);
        if (logarithm) {
          kernels.unary(line, kAddNumber, -most, 0);
          const Lines again = {1, channels, to, 0, to, 0};
          kernels.unary(again, kAddNumber, static_cast<float>(-std::log(sum)), 0);
        } else {
          kernels.unary(line, kMulNumber, static_cast<float>(1 / sum), 0);
        }
      }
    });
  }

  const StepKernels& kernels;
  bool logarithm;
};

}  // namespace

std::unique_ptr<Step> make_softmax(const Parts& parts) { return std::make_unique<Softmax>(parts); }

}  // namespace program
}  // namespace sparse_ops
