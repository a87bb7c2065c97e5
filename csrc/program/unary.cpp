// Functions of one number.
#include "values.h"

namespace sparse_ops {
namespace program {
namespace {

// How long one number takes, in floats that are moved meanwhile.
int64_t cost_of(int64_t function) {
  switch (function) {
    case kSiLU:
    case kGELU:
    case kGELUTanh:
    case kSigmoid:
    case kTanh:
    case kELU:
    case kMish:
    case kSoftplus:
    case kExp:
      return 6;
    default:
      return 1;
  }
}

struct Unary : Step, Ready {
  explicit Unary(const Parts& parts) : kernels(*parts.kernels.steps) {
    check_parts(parts, "unary", 3, 0);
    function = parts.attributes[0];
    STD_TORCH_CHECK(function >= kReLU && function <= kReciprocal, "no function has the number ",
                    function);
    first = number_from(parts.attributes[1]);
    second = number_from(parts.attributes[2]);
  }

  Shape infer(const std::vector<Shape>& in) const override {
    check_inputs(in.size(), "unary", 1);
    check_shape(in[0], "unary", false);
    return in[0];
  }

  std::unique_ptr<Ready> ready(const std::vector<Spec>& in, const Spec& out) const override {
    check_orders(in, out, "unary");
    return std::make_unique<Unary>(*this);
  }

  void run(const View* in, const View& out, float*) const override {
    const int64_t cost = cost_of(function);
    if (in->spec.halo == 0 && out.spec.halo == 0) {
      // Blocks have no gaps: their planes may be cut anywhere.
      constexpr int64_t piece = 4096;
      const int64_t length = out.spec.block(), pieces = (length + piece - 1) / piece;
      share(
          out.spec.blocks() * pieces, cost * std::min(piece, length), [&](int64_t i0, int64_t i1) {
            for (int64_t i = i0; i < i1; ++i) {
              const int64_t block = i / pieces, at = i % pieces * piece;
              const Lines line = {
                  1, std::min(piece, length - at),           in->data + block * in->block_step + at,
                  0, out.data + block * out.block_step + at, 0};
              kernels.unary(line, function, first, second);
            }
          });
      return;
    }
    for_each_lines(
        out, cost * out.spec.line(), [&](int64_t block, int64_t plane, int64_t top, int64_t end) {
          kernels.unary(lines_of(*in, out, block, plane, top, end), function, first, second);
        });
  }

  const StepKernels& kernels;
  int64_t function;
  float first, second;
};

}  // namespace

std::unique_ptr<Step> make_unary(const Parts& parts) { return std::make_unique<Unary>(parts); }

}  // namespace program
}  // namespace sparse_ops
