// Windows of pooling, whatever their sizes.
#pragma once
#include "values.h"

namespace sparse_ops {
namespace program {

// The windows along one side: [first[i], last[i]), and how many numbers a mean is said to be of.
struct Side {
  std::vector<int32_t> first, last;
  std::vector<float> count;
};

// Pools the windows of two sides.
class Pool : public Ready {
 public:
  Pool(const StepKernels& kernels, bool most, Side lines, Side pixels);
  void run(const View* in, const View& out, float*) const override;

 private:
  const StepKernels& kernels_;
  const bool most_;
  const Side lines_, pixels_;
  int64_t steady_ = 0, steady_end_ = 0, stride_ = 1;
};

}  // namespace program
}  // namespace sparse_ops
