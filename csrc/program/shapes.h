// What Python expects of a program's outputs: sizes as formulas of the inputs' sizes.
#pragma once
#include "program.h"

namespace sparse_ops {
namespace program {

// Raises unless the formulas are well formed (ops/_program_shapes.py) and give the sizes of
// `outputs`.
void check_shapes(const Numbers& formulas, const std::vector<Tensor>& inputs,
                  const std::vector<Shape>& outputs);

}  // namespace program
}  // namespace sparse_ops
