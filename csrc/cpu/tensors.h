// Tensors that came from Python, checked before anything is read: a call can come from anywhere, so
// shapes, types and every index are looked at here, whatever Python has checked already.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <string>
#include <vector>

#include "row_sparse.h"

namespace sparse_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Numbers = std::vector<int64_t>;

// The dispatcher is not asked for what is there already: that would be most of a small layer's time.
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

// Whether all are in [0, limit). The sign bit of i | (limit - 1 - i) is set for those that are not: no
// comparison, so that every instruction set does several at once.
inline bool all_below(const int32_t* index, int64_t count, int64_t limit) {
  if (limit > INT32_MAX) limit = INT32_MAX;
  const uint32_t last = static_cast<uint32_t>(limit - 1);
  uint32_t bad = count && limit < 1 ? ~0u : 0u;
  for (int64_t k = 0; k < count; ++k) {
    const uint32_t value = static_cast<uint32_t>(index[k]);
    bad |= value | (last - value);
  }
  return !(bad >> 31);
}

inline void check_below(const Tensor& index, const char* name, int64_t limit) {
  STD_TORCH_CHECK(all_below(index_data(index), index.numel(), limit), name, " must be in [0, ",
                  limit, ")");
}

// Pointers into `last` entries: from 0 to last, never falling.
inline void check_pointers(const Tensor& pointers, const char* name, int64_t last) {
  const int32_t* p = index_data(pointers);
  const int64_t count = pointers.numel();
  bool good = count > 0 && p[0] == 0 && p[count - 1] == last;
  for (int64_t i = 0; good && i + 1 < count; ++i) good = p[i] <= p[i + 1];
  STD_TORCH_CHECK(good, name, " must go from 0 to ", last, " and never fall");
}

inline Activation activation_from(int64_t number) {
  STD_TORCH_CHECK(number >= kNone && number <= kGELUTanh, "no activation has the number ", number);
  return static_cast<Activation>(number);
}

}  // namespace sparse_ops
