// Values in another order or with another halo; also what flatten and the runner use.
#pragma once
#include "program.h"

namespace sparse_ops {
namespace program {

// What can also read a channels_last tensor in place of its planar input.
class ReadsLast {
 public:
  virtual ~ReadsLast() = default;
  // x (N, H, W, C), contiguous.
  virtual void run_last(const float* x, const View& out) const = 0;
};

// The copy of a value into another of the same shape. A ReadsLast unless `out` is planar.
std::unique_ptr<Ready> ready_to_convert(const RowSparseKernels& kernels, const Spec& in,
                                        const Spec& out);

}  // namespace program
}  // namespace sparse_ops
