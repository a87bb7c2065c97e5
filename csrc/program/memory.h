// A program for inputs of one size: what each value is, and where it lies.
#pragma once
#include "convert.h"
#include "parse.h"

namespace sparse_ops {
namespace program {

// Where the memory of a value is: in the arena, an input or an output.
struct Place {
  enum Where { kArena, kInput, kOutput } where;
  // The number of the input or of the output; in the arena: the number of the piece of memory.
  int64_t index;
  // From its first value, in floats.
  int64_t first;
  int64_t block_step;
};

// A step that is prepared; null if what it writes is there already.
struct Prepared {
  const Call* call;
  std::unique_ptr<Ready> ready;
  const ReadsLast* reads_last;  // the same object, where it can
  int64_t scratch;              // where in the arena its scratch memory starts
};

// An output that is copied from a value.
struct Copy {
  int64_t output, value;
};

struct Layout {
  std::shared_ptr<const Program> program;
  std::vector<Spec> specs;    // of all values
  std::vector<Place> places;  // likewise
  Numbers offsets;            // in the arena, of its pieces of memory
  std::vector<Prepared> steps;
  std::vector<Copy> copies;
  std::vector<bool> takes_last;  // for each input: whether it may have its channels innermost
  int64_t arena;                 // how many floats
};

// The sizes of all values; raises where steps cannot have inputs of these sizes.
std::vector<Shape> shapes_for(const Program& program, const std::vector<Shape>& inputs);

// Prepares all steps and places all values. `inputs` have images.
std::shared_ptr<const Layout> layout_for(const RowSparseKernels& kernels,
                                         std::shared_ptr<const Program> program,
                                         const std::vector<Shape>& inputs);

}  // namespace program
}  // namespace sparse_ops
