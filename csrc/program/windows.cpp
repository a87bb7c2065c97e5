#include "windows.h"

namespace sparse_ops {
namespace program {

Pool::Pool(const StepKernels& kernels, bool most, Side lines, Side pixels)
    : kernels_(kernels), most_(most), lines_(std::move(lines)), pixels_(std::move(pixels)) {
  const std::vector<int32_t>&left = pixels_.first, &right = pixels_.last;
  // The longest run of windows that are as wide and as far apart.
  const int64_t width = static_cast<int64_t>(left.size());
  for (int64_t p = 0; p < width;) {
    const int64_t stride = p + 1 < width ? left[p + 1] - left[p] : 1;
    int64_t end = p + 1;
    while (end < width && right[end] - left[end] == right[p] - left[p] &&
           left[end] - left[end - 1] == stride)
      ++end;
    if (end - p > steady_end_ - steady_ && stride >= 1) {
      steady_ = p;
      steady_end_ = end;
      stride_ = stride;
    }
    // The last of a run may be the first of the next.
    p = std::max(p + 1, end - 1);
  }
}

void Pool::run(const View* in, const View& out, float*) const {
  WindowWork all = {};
  all.most = most_;
  all.width = out.spec.shape.w;
  all.left = pixels_.first.data();
  all.right = pixels_.last.data();
  all.columns = pixels_.count.data();
  all.steady = steady_;
  all.steady_end = steady_end_;
  all.stride = stride_;
  all.from_step = in->spec.line();
  all.to_step = out.spec.line();
  const bool plane = out.spec.order == kPlanar;
  // About as many pixels as windows have in the mean.
  const int64_t read = in->spec.plane() / out.spec.shape.h, cost = read + 2 * out.spec.line();
  for_each_lines(out, cost, [&](int64_t block, int64_t p, int64_t top, int64_t end) {
    WindowWork work = all;
    work.lines = end - top;
    work.top = lines_.first.data() + top;
    work.bottom = lines_.last.data() + top;
    work.rows = lines_.count.data() + top;
    work.from = in->inside(block, p);
    work.to = out.inside(block, p) + top * out.spec.line();
    (plane ? kernels_.plane_windows : kernels_.windows)(work);
  });
}

}  // namespace program
}  // namespace sparse_ops
