// What is prepared of programs, kept between calls; and the arenas that they run in.
#pragma once
#include <mutex>

#include "../cpu/scratch.h"
#include "memory.h"

namespace sparse_ops {
namespace program {

// A program for inputs of one size, in pieces.
struct Plan {
  std::vector<Shape> outputs;
  int64_t batch, piece;  // images of all, and of all pieces but the last
  std::shared_ptr<const Layout> layout, last;
};

// The plan for these inputs: a kept one, if one was made of the same program, the same constants (by
// their memory, sizes and some of their values), inputs of these sizes, and as many threads. Else it is
// made, and the one that was used longest ago may go.
std::shared_ptr<const Plan> plan_for(const RowSparseKernels& kernels,
                                     const std::vector<Tensor>& inputs, const Tensor& program,
                                     const std::vector<Tensor>& constants);

// A new one, kept nowhere. A batch of 0 is planned as one of 1.
std::shared_ptr<const Plan> new_plan(const RowSparseKernels& kernels,
                                     const std::shared_ptr<const Program>& program,
                                     const std::vector<Shape>& inputs);

// How many plans are kept.
int64_t kept_plans();

// Forgets what is kept of a program.
void release(int64_t number);

// Memory for one call.
struct Arena {
  std::unique_ptr<Scratch<float>> memory;
  int64_t floats = 0;
  std::vector<View> views, in;
};

// An arena of at least `floats`, which no other call has; it goes back at the end. Throws bad_alloc.
class Lease {
 public:
  explicit Lease(int64_t floats);
  ~Lease();
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  Arena& arena() { return *arena_; }

 private:
  std::unique_ptr<Arena> arena_;
};

}  // namespace program
}  // namespace sparse_ops
