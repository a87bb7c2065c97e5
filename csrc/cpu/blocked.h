// Operators on images that are blocked: (blocks, channels, height + 2 * halo, width + 2 * halo,
// kLanes), float32 and contiguous, kLanes images innermost. The halo around the images is zeros,
// from which convolutions read their padding.
#pragma once
#include "tensors.h"

namespace sparse_ops {

// x (N, C, H, W), contiguous or channels last -> blocked; images that are missing in the last block
// are zeros.
Tensor to_blocked(const RowSparseKernels& kernels, const Tensor& x, int64_t halo);

// The first `batch` images of x -> (batch, C, H, W).
Tensor from_blocked(const RowSparseKernels& kernels, const Tensor& x, int64_t halo, int64_t batch,
                    bool channels_last);

// Groups of filters that read the same values of x, at offsets that are the same for every output
// pixel:
//
//     y[b, f, l, p, i] = activation(bias[f] + residual[b, f, l, p, i]
//         + sum_j  weight[f, j] * x[b].flatten()[offsets[j] + (l * stride_l * W' + p * stride_p) *
//         16 + i])
//
// W' being x's last size but one, of y and of the residual the parts inside their halos.
// starts (groups + 1): where each group's offsets begin; kSpareOffsets entries follow the last
// group's. rows (groups): how many filters it has, 1 to kernels.max_rows. filters: which they are,
// each once. values: for each group (offsets, rows).
Tensor blocked_conv2d(const RowSparseKernels& kernels, const Tensor& x, const Tensor& starts,
                      const Tensor& rows, const Tensor& filters, const Tensor& offsets,
                      const Tensor& values, const std::optional<Tensor>& bias,
                      const std::optional<Tensor>& residual, const Numbers& out_size,
                      const Numbers& stride, int64_t out_halo, int64_t residual_halo,
                      int64_t activation);

// max_pool2d, or avg_pool2d without padding, of what is inside the halo.
Tensor blocked_pool2d(const RowSparseKernels& kernels, const Tensor& x, bool most,
                      const Numbers& kernel, const Numbers& stride, const Numbers& padding,
                      int64_t halo, int64_t out_halo);

// A blocked tensor, and the part of it inside the halo.
struct Blocks {
  int64_t blocks, channels, height, width, halo;
  int64_t step;  // from a block to the next: more than its size in a part of the channels of others

  Blocks(const Tensor& t, const char* name, int64_t halo);
  Blocks(int64_t blocks, int64_t channels, int64_t height, int64_t width, int64_t halo);

  int64_t line() const { return (width + 2 * halo) * kLanes; }
  int64_t plane() const { return (height + 2 * halo) * line(); }
  int64_t size() const { return channels * plane(); }
  // Of a block's channel, its first value inside the halo.
  int64_t inside(int64_t b, int64_t c) const {
    return b * step + c * plane() + halo * (line() + kLanes);
  }
  Tensor empty(const Tensor& like) const;
  // Zeros above or beneath the lines [top, end) of a plane, if they are its ends, and beside each.
  void clear(float* inside, int64_t top, int64_t end) const;
};

}  // namespace sparse_ops
