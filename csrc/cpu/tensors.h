// Tensors that came from Python, checked before anything is read: a call can come from anywhere, so
// shapes, types and every index are looked at here, whatever Python has checked already.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "row_sparse.h"

namespace sparse_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Numbers = std::vector<int64_t>;

// The dispatcher is not asked for what is there already: that would be most of a small layer's
// time.
inline Tensor as_contiguous(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

inline Tensor floats(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.is_cpu() && t.scalar_type() == ScalarType::Float, name,
                  " must be float32 on the CPU");
  return as_contiguous(t);
}

inline std::optional<Tensor> floats(const std::optional<Tensor>& t, const char* name,
                                    int64_t length) {
  if (!t) return std::nullopt;
  STD_TORCH_CHECK(t->numel() == length, name, " must have ", length, " values, got ", t->numel());
  return floats(*t, name);
}

inline Tensor indices(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.is_cpu() && t.scalar_type() == ScalarType::Int && t.dim() == 1, name,
                  " must be int32 (*) on the CPU");
  return as_contiguous(t);
}

inline const float* data(const Tensor& t) { return t.const_data_ptr<float>(); }
inline const float* data(const std::optional<Tensor>& t) { return t ? data(*t) : nullptr; }
inline const int32_t* index_data(const Tensor& t) { return t.const_data_ptr<int32_t>(); }

inline bool all_below(const RowSparseKernels& kernels, const int32_t* index, int64_t count,
                      int64_t limit) {
  return count == 0 || (limit >= 1 && kernels.in_range(index, count, limit));
}

inline void check_below(const RowSparseKernels& kernels, const Tensor& index, const char* name,
                        int64_t limit) {
  STD_TORCH_CHECK(all_below(kernels, index_data(index), index.numel(), limit), name,
                  " must be in [0, ", limit, ")");
}

// Pointers into `last` entries: from 0 to last, never falling.
inline void check_pointers(const Tensor& pointers, const char* name, int64_t last) {
  const int32_t* p = index_data(pointers);
  const int64_t count = pointers.numel();
  bool good = count > 0 && p[0] == 0 && p[count - 1] == last;
  for (int64_t i = 0; good && i + 1 < count; ++i) good = p[i] <= p[i + 1];
  STD_TORCH_CHECK(good, name, " must go from 0 to ", last, " and never fall");
}

// From a number of _activation.py: the kind, and above it the bits of the slope.
inline Activation activation_from(int64_t number) {
  const int32_t kind = static_cast<int32_t>(number);
  float slope;
  const int32_t bits = static_cast<int32_t>(number >> 32);
  std::memcpy(&slope, &bits, sizeof slope);
  const bool leaky = kind == kLeakyReLU && std::isfinite(slope);
  const bool plain = kind >= kNone && kind <= kGELUTanh && bits == 0;
  STD_TORCH_CHECK(leaky || plain, "no activation has the number ", number);
  return {static_cast<ActivationKind>(kind), slope};
}

}  // namespace sparse_ops
