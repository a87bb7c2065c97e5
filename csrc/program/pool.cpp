// Pooling by windows of one size.
#include "windows.h"

namespace sparse_ops {
namespace program {
namespace {

// The output's size along a side. With ceil_mode the last window begins inside the image or its
// padding before it.
int64_t pooled_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding, bool ceil_mode) {
  const int64_t room = size + 2 * padding - kernel + (ceil_mode ? stride - 1 : 0);
  if (room < 0) return 0;
  const int64_t count = room / stride + 1;
  return ceil_mode && (count - 1) * stride >= size + padding ? count - 1 : count;
}

Side windows(int64_t size, int64_t count, int64_t kernel, int64_t stride, int64_t padding,
             bool count_padding) {
  Side side;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = i * stride - padding, last = std::min(first + kernel, size + padding);
    const int64_t inside = std::max<int64_t>(first, 0), end = std::min(last, size);
    side.first.push_back(static_cast<int32_t>(inside));
    side.last.push_back(static_cast<int32_t>(end));
    side.count.push_back(static_cast<float>(count_padding ? last - first : end - inside));
  }
  return side;
}

struct PoolStep : Step {
  explicit PoolStep(const Parts& parts) : kernels(*parts.kernels.steps) {
    check_parts(parts, "pool", 9, 0);
    const std::vector<int64_t>& a = parts.attributes;
    STD_TORCH_CHECK(a[0] == 0 || a[0] == 1, "pooling must be of mode 0 or 1, got ", a[0]);
    most = a[0] == 0;
    for (int i = 0; i < 2; ++i) {
      kernel[i] = a[1 + i];
      stride[i] = a[3 + i];
      padding[i] = a[5 + i];
      STD_TORCH_CHECK(
          kernel[i] >= 1 && kernel[i] < kMost && stride[i] >= 1 && stride[i] < kMost &&
              padding[i] >= 0 && padding[i] <= kernel[i] / 2,
          "pooling must have a kernel and a stride from 1 on, padding up to half of the "
          "kernel, got ",
          kernel[i], ", ", stride[i], ", ", padding[i]);
    }
    ceil_mode = a[7] != 0;
    count_include_pad = a[8] != 0;
  }

  Shape infer(const std::vector<Shape>& in) const override {
    check_inputs(in.size(), "pool", 1);
    check_shape(in[0], "pool", true);
    Shape out = in[0];
    out.h = pooled_size(in[0].h, kernel[0], stride[0], padding[0], ceil_mode);
    out.w = pooled_size(in[0].w, kernel[1], stride[1], padding[1], ceil_mode);
    STD_TORCH_CHECK(out.h >= 1 && out.w >= 1, "pooling by ", kernel[0], " x ", kernel[1],
                    " must read larger images, got ", in_words(in[0]));
    return checked(out, "pool");
  }

  std::unique_ptr<Ready> ready(const std::vector<Spec>& in, const Spec& out) const override {
    check_orders(in, out, "pool");
    const Shape &from = in[0].shape, &to = out.shape;
    return std::make_unique<Pool>(
        kernels, most, windows(from.h, to.h, kernel[0], stride[0], padding[0], count_include_pad),
        windows(from.w, to.w, kernel[1], stride[1], padding[1], count_include_pad));
  }

  static constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  const StepKernels& kernels;
  bool most, ceil_mode, count_include_pad;
  int64_t kernel[2], stride[2], padding[2];
};

}  // namespace

std::unique_ptr<Step> make_pool(const Parts& parts) { return std::make_unique<PoolStep>(parts); }

}  // namespace program
}  // namespace sparse_ops
