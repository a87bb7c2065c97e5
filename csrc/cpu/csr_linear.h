// The torch side of csr_linear on the CPU: checks, memory, threads.
#pragma once
#include "tensors.h"

namespace sparse_ops {

// (batch, out_features): `out`, whose rows may be any distance apart, if that is given.
Tensor csr_linear(const RowSparseKernels& kernels, const Tensor& x, const Tensor& crow,
                  const Tensor& col, const Tensor& values, const std::optional<Tensor>& bias,
                  const std::optional<Tensor>& residual, int64_t activation,
                  const std::optional<Tensor>& out);

// (dx, dvalues); what is not needed comes back empty.
std::tuple<Tensor, Tensor> csr_linear_backward(const RowSparseKernels& kernels, const Tensor& dy,
                                               const Tensor& x, const Tensor& crow,
                                               const Tensor& col, const Tensor& values, bool need_x,
                                               bool need_values);

}  // namespace sparse_ops
