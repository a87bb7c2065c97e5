// A number around images; where a side is negative, less of them.
#include "values.h"

namespace sparse_ops {
namespace program {
namespace {

struct Pad : Step, Ready {
  explicit Pad(const Parts& parts) {
    check_parts(parts, "pad", 5, 0);
    for (int i = 0; i < 4; ++i) {
      sides[i] = parts.attributes[i];
      STD_TORCH_CHECK(sides[i] > -kMost && sides[i] < kMost, "pad must be by less than 2^24, got ",
                      sides[i]);
    }
    value = number_from(parts.attributes[4]);
  }

  Shape infer(const std::vector<Shape>& in) const override {
    check_inputs(in.size(), "pad", 1);
    check_shape(in[0], "pad", true);
    Shape out = in[0];
    for (int i = 0; i < 4; ++i)
      STD_TORCH_CHECK(sides[i] >= 0 || -sides[i] < (i < 2 ? in[0].w : in[0].h), "pad by ", sides[i],
                      " must read larger images, got ", in_words(in[0]));
    out.w += sides[0] + sides[1];
    out.h += sides[2] + sides[3];
    return checked(out, "pad");
  }

  std::unique_ptr<Ready> ready(const std::vector<Spec>& in, const Spec& out) const override {
    check_orders(in, out, "pad");
    return std::make_unique<Pad>(*this);
  }

  void run(const View* in, const View& out, float*) const override {
    const int64_t lanes = out.spec.lanes(), width = out.spec.shape.w;
    const int64_t height = in->spec.shape.h, top_side = sides[2];
    // Pixels [left, right) are those of the input.
    const int64_t left = std::max<int64_t>(0, sides[0]);
    const int64_t right = std::min(width, sides[0] + in->spec.shape.w);
    for_each_lines(out, out.spec.line(),
                   [&](int64_t block, int64_t plane, int64_t top, int64_t end) {
                     for (int64_t l = top; l < end; ++l) {
                       float* to = out.inside(block, plane) + l * out.spec.line();
                       const int64_t y = l - top_side;
                       if (y < 0 || y >= height) {
                         std::fill_n(to, width * lanes, value);
                         continue;
                       }
                       std::fill_n(to, left * lanes, value);
                       const float* from = in->inside(block, plane) + y * in->spec.line();
                       std::memcpy(to + left * lanes, from + (left - sides[0]) * lanes,
                                   sizeof(float) * static_cast<size_t>((right - left) * lanes));
                       std::fill(to + right * lanes, to + width * lanes, value);
                     }
                   });
  }

  static constexpr int64_t kMost = 1 << 24;
  int64_t sides[4];  // left, right, top, bottom
  float value;
};

}  // namespace

std::unique_ptr<Step> make_pad(const Parts& parts) { return std::make_unique<Pad>(parts); }

}  // namespace program
}  // namespace sparse_ops
