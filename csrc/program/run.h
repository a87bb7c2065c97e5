// The operators on programs.
#pragma once
#include "../cpu/tensors.h"

namespace sparse_ops {
namespace program {

// The outputs of a program, new tensors. `shapes`, if not empty, is what Python expects of their
// sizes (ops/_program_shapes.py); raises if that is not so.
std::vector<Tensor> run_program(const RowSparseKernels& kernels, const std::vector<Tensor>& inputs,
                                const Tensor& program, const std::vector<Tensor>& constants,
                                const Numbers& shapes);

// The same by the program's number alone, if it has run for inputs of these sizes before and is
// still prepared for them: with the constants that it had then. Else nothing.
std::vector<Tensor> rerun_program(const RowSparseKernels& kernels,
                                  const std::vector<Tensor>& inputs, int64_t number);

// (repeats, steps), float64: how many ms each step took of each run.
Tensor profile_program(const RowSparseKernels& kernels, const std::vector<Tensor>& inputs,
                       const Tensor& program, const std::vector<Tensor>& constants,
                       int64_t repeats);

// What a program would be for inputs of `sizes` (rank, n, c, h, w of each), (1 + values, 8), int64:
//     bytes of the arena, pieces, images of a piece, images of the last piece, steps, 0, 0, 0
//     for each value, in a piece: rank, n, c, h, w, bytes, offset in the arena in bytes or -1,
//     readers
Tensor describe_program(const RowSparseKernels& kernels, const Tensor& program,
                        const std::vector<Tensor>& constants, const Numbers& sizes);

// For tests: from now on, arenas and outputs begin as NaN.
void poison_programs(bool on);

}  // namespace program
}  // namespace sparse_ops
