// The torch side of the sparse convolutions on the CPU: checks, memory, threads.
#pragma once
#include "tensors.h"

namespace sparse_ops {

// periodic_conv2d and csr_conv2d: filter o keeps the columns of class o mod (number of classes).
// x is float32, float16 or bfloat16, and so are y and the residual; values and bias are, too, or
// float32. Writes to `out`, if there is one, and gives it back.
Tensor row_sparse_conv2d(const RowSparseKernels& kernels, const Tensor& x, const Tensor& crow,
                         const Tensor& col, const Tensor& values, const std::optional<Tensor>& bias,
                         const std::optional<Tensor>& residual, const Numbers& shape,
                         const Numbers& stride, const Numbers& padding, const Numbers& dilation,
                         int64_t groups, int64_t activation, const std::optional<Tensor>& out);

// (dx, dvalues) of the same, of float32; what is not needed comes back empty.
std::tuple<Tensor, Tensor> row_sparse_conv2d_backward(
    const RowSparseKernels& kernels, const Tensor& dy, const Tensor& x, const Tensor& crow,
    const Tensor& col, const Tensor& values, const Numbers& shape, const Numbers& stride,
    const Numbers& padding, const Numbers& dilation, int64_t groups, bool need_x, bool need_values);

Tensor channel_pruned_conv2d(const RowSparseKernels& kernels, const Tensor& x, const Tensor& values,
                             const Tensor& out_channels, const Tensor& in_channels,
                             const std::optional<Tensor>& bias,
                             const std::optional<Tensor>& residual, const Numbers& shape,
                             const Numbers& stride, const Numbers& padding, const Numbers& dilation,
                             int64_t activation, const std::optional<Tensor>& y);

}  // namespace sparse_ops
