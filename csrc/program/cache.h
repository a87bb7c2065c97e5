// What is prepared of programs, kept between calls.
#pragma once
#include "memory.h"

namespace sparse_ops {
namespace program {

// A program for inputs of one size, in pieces.
struct Plan {
  std::vector<Shape> outputs;
  int64_t batch, piece;  // images of all, and of all pieces but the last
  std::shared_ptr<const Layout> layout, last;
};

// The plan for these inputs: a kept one, if one was made of the same program, the same constants
// (by their memory, sizes and some of their values), inputs of these sizes, and as many threads.
// Else it is
// made, and the one that was used longest ago may go.
std::shared_ptr<const Plan> plan_for(const RowSparseKernels& kernels,
                                     const std::vector<Tensor>& inputs, const Tensor& program,
                                     const std::vector<Tensor>& constants);

// The plan that is kept of the program of this number for such inputs; null if there is none, or
// more programs than one have it. What constants are now is not asked.
std::shared_ptr<const Plan> known_plan(const RowSparseKernels& kernels,
                                       const std::vector<Tensor>& inputs, int64_t number);

// A new one, kept nowhere. A batch of 0 is planned as one of 1.
std::shared_ptr<const Plan> new_plan(const RowSparseKernels& kernels,
                                     const std::shared_ptr<const Program>& program,
                                     const std::vector<Shape>& inputs);

// How many plans are kept.
int64_t kept_plans();

// Forgets what is kept of a program.
void release(int64_t number);

}  // namespace program
}  // namespace sparse_ops
