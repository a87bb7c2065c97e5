// Images that a convolution reads and writes: tensors of float32, float16 or bfloat16, planar or
// with the channels innermost, and for what is written also a part of the channels of a larger
// tensor.
#pragma once
#include <array>

#include "panel.h"
#include "tensors.h"

namespace sparse_ops {

// (N, C, H, W).
using Size = std::array<int64_t, 4>;

// What a convolution reads, in torch's layout or turned into it.
struct Images {
  Tensor tensor;
  Element type;
  bool channels_last;

  // Raises unless t is of a type that there is; of `like`, if that is given.
  Images(const Tensor& t, const char* name, std::optional<Element> like = std::nullopt);

  // In the layout of what they are added to.
  void turn(bool channels_last);
  Layout layout() const;
  Source data() const { return {static_cast<const char*>(tensor.const_data_ptr()), type}; }
};

// What a convolution writes (N, O, H', W'): `out` if that is given, else a new tensor in x's
// layout.
struct Output {
  Tensor y;
  Layout layout;
  std::optional<Images> residual;

  Output(const Images& x, const Size& size, const std::optional<Tensor>& added,
         const std::optional<Tensor>& out);

  // Raises if `out` was given and lies over a contiguous tensor that is read: over indices, say,
  // that have been checked.
  void apart_from(const std::optional<Tensor>& read, const char* name) const;

  Target data() { return {static_cast<char*>(y.mutable_data_ptr()), type_}; }
  Source added() const { return residual ? residual->data() : Source{nullptr, type_}; }
  Layout added_layout() const { return residual ? residual->layout() : Layout{}; }

 private:
  void take(const Tensor& out, const Size& size);

  Element type_;
  int64_t written_ = 0;  // bytes of `out`
};

// A tensor of float32, or of `type`, as float32.
Tensor widened(const RowSparseKernels& kernels, const Tensor& t, const char* name, Element type);
std::optional<Tensor> widened(const RowSparseKernels& kernels, const std::optional<Tensor>& t,
                              const char* name, Element type, int64_t length);

}  // namespace sparse_ops
