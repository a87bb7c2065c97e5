// Two values, number by number; or a value and one number for each of its planes.
#include "values.h"

namespace sparse_ops {
namespace program {
namespace {

// A number of a value with images of one pixel; of a value of one image, that of any.
float number_at(const View& v, int64_t n, int64_t c) {
  const Spec& s = v.spec;
  if (s.shape.n == 1) n = 0;
  switch (s.order) {
    case kImages:
      return v.inside(n / kLanes, c)[n % kLanes];
    case kChannels:
      return v.inside(n, c / kLanes)[c % kLanes];
    default:
      return *v.inside(n, c);
  }
}

// The kLanes numbers for a plane of `out`; where a lane stands for nothing, zero.
void numbers_for(const View& gate, const Spec& out, int64_t block, int64_t plane, float* numbers) {
  for (int64_t l = 0; l < kLanes; ++l) {
    const int64_t n = out.order == kImages ? block * kLanes + l : block;
    const int64_t c = out.order == kChannels ? plane * kLanes + l : plane;
    numbers[l] = n < out.shape.n && c < out.shape.c ? number_at(gate, n, c) : 0;
  }
}

struct Binary : Step, Ready {
  explicit Binary(const Parts& parts) : kernels(*parts.kernels.steps) {
    check_parts(parts, "binary", 2, 0);
    STD_TORCH_CHECK(parts.attributes[0] >= kAdd && parts.attributes[0] <= kMinimum,
                    "no operator has the number ", parts.attributes[0]);
    by = static_cast<Operator>(parts.attributes[0]);
    activation = activation_from(parts.attributes[1]);
  }

  Shape infer(const std::vector<Shape>& in) const override {
    check_inputs(in.size(), "binary", 2);
    check_shape(in[0], "binary", false);
    const Shape &a = in[0], &b = in[1];
    check_shape(b, "binary", false);
    const bool gate = (b.n == a.n || b.n == 1) && b.c == a.c && b.h == 1 && b.w == 1 &&
                      (a.rank == 4 || b.rank == 2);
    STD_TORCH_CHECK(same(a, b) || gate, "the second input must be ", in_words(a),
                    ", or one number for each of its planes, got ", in_words(b));
    return a;
  }

  std::unique_ptr<Ready> ready(const std::vector<Spec>& in, const Spec& out) const override {
    check_orders({in[0]}, out, "binary");
    const Shape &a = in[0].shape, &b = in[1].shape;
    auto step = std::make_unique<Binary>(*this);
    step->all = b.n == a.n && b.h == a.h && b.w == a.w && in[1].order == out.order;
    // Planes of one number are joined to lines of channels.
    step->along = a.h == 1 && a.w == 1 && out.order == kPlanar && in[1].order == kPlanar &&
                  in[0].halo == 0 && in[1].halo == 0 && out.halo == 0;
    STD_TORCH_CHECK(step->all || step->along || (b.h == 1 && b.w == 1),
                    "binary must have inputs and output in one order, got ", in_words(in[1].order),
                    " and ", in_words(out.order));
    return step;
  }

  void run(const View* in, const View& out, float*) const override {
    if (along) return run_along(in, out);
    const View &a = in[0], &b = in[1];
    const int64_t cost = 2 * out.spec.line() + (all ? 0 : kLanes);
    for_each_lines(out, cost, [&](int64_t block, int64_t plane, int64_t top, int64_t end) {
      Lines lines = lines_of(a, out, block, plane, top, end);
      if (!all) {
        float numbers[kLanes];
        numbers_for(b, out.spec, block, plane, numbers);
        kernels.binary(lines, numbers, 0, true, by, activation);
        return;
      }
      if (lines.lines == 1 && b.spec.halo != 0) {
        // The first input and the output have no gaps between lines, but the second has.
        lines.lines = end - top;
        lines.length /= lines.lines;
      }
      kernels.binary(lines, b.inside(block, plane) + top * b.spec.line(), b.spec.line(), false, by,
                     activation);
    });
  }

  void run_along(const View* in, const View& out) const {
    const int64_t channels = out.spec.shape.c;
    share(out.spec.blocks(), 2 * channels, [&](int64_t i0, int64_t i1) {
      for (int64_t i = i0; i < i1; ++i) {
        const Lines line = {
            1, channels, in[0].data + i * in[0].block_step, 0, out.data + i * out.block_step, 0};
        const int64_t other = in[1].spec.shape.n == 1 ? 0 : i;
        kernels.binary(line, in[1].data + other * in[1].block_step, 0, false, by, activation);
      }
    });
  }

  const StepKernels& kernels;
  Operator by;
  Activation activation;
  bool all = false, along = false;
};

}  // namespace

std::unique_ptr<Step> make_binary(const Parts& parts) { return std::make_unique<Binary>(parts); }

}  // namespace program
}  // namespace sparse_ops
