// One step on ordinary tensors: what tests of the steps call.
#pragma once
#include "program.h"

namespace sparse_ops {

// Lays the inputs, (N, C, H, W) or (N, C), out in the orders and with the halos asked for, runs a
// step of that kind on them and gives back what it wrote as (N, C, H, W) or (N, C). 10 more than an
// order: the value is a part of a larger one. 20 more, for inputs of a concatenation: it is where
// it will be in the output already. Memory that stands for nothing is NaN, halos are zeros, and
// must be in the output. A constant without dimensions is one that is left out.
Tensor test_step(const RowSparseKernels& kernels, const std::vector<Tensor>& inputs,
                 const Numbers& orders, const Numbers& halos, int64_t out_order, int64_t out_halo,
                 int64_t kind, const Numbers& attributes, const std::vector<Tensor>& constants);

}  // namespace sparse_ops
