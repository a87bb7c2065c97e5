// Pooling to a size.
#include "windows.h"

namespace sparse_ops {
namespace program {
namespace {

// Window i of `count` is [floor(i * size / count), ceil((i + 1) * size / count)).
Side windows(int64_t size, int64_t count) {
  Side side;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = i * size / count, last = ((i + 1) * size + count - 1) / count;
    side.first.push_back(static_cast<int32_t>(first));
    side.last.push_back(static_cast<int32_t>(last));
    side.count.push_back(static_cast<float>(last - first));
  }
  return side;
}

struct AdaptivePool : Step {
  explicit AdaptivePool(const Parts& parts) : kernels(*parts.kernels.steps) {
    check_parts(parts, "adaptive_pool", 3, 0);
    const std::vector<int64_t>& a = parts.attributes;
    STD_TORCH_CHECK(a[0] == 0 || a[0] == 1, "pooling must be of mode 0 or 1, got ", a[0]);
    most = a[0] == 0;
    height = a[1];
    width = a[2];
    STD_TORCH_CHECK(height >= 1 && width >= 1 && height < (1 << 24) && width < (1 << 24),
                    "adaptive pooling must be to a size of 1 to 2^24, got ", height, " x ", width);
  }

  Shape infer(const std::vector<Shape>& in) const override {
    check_inputs(in.size(), "adaptive_pool", 1);
    check_shape(in[0], "adaptive_pool", true);
    Shape out = in[0];
    out.h = height;
    out.w = width;
    return checked(out, "adaptive_pool");
  }

  std::unique_ptr<Ready> ready(const std::vector<Spec>& in, const Spec& out) const override {
    check_orders(in, out, "adaptive_pool");
    return std::make_unique<Pool>(kernels, most, windows(in[0].shape.h, height),
                                  windows(in[0].shape.w, width));
  }

  const StepKernels& kernels;
  bool most;
  int64_t height, width;
};

}  // namespace

std::unique_ptr<Step> make_adaptive_pool(const Parts& parts) {
  return std::make_unique<AdaptivePool>(parts);
}

}  // namespace program
}  // namespace sparse_ops
