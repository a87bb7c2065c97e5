// What linear layers as steps have in common.
//
//   linear.cpp         attributes and constants, checked
//   linear_dense.cpp   tiles of units of outputs
//   linear_sparse.cpp  rows of a sparse matrix
#pragma once
#include <algorithm>

#include "conv.h"

namespace sparse_ops {
namespace program {

struct LinearSizes {
  const RowSparseKernels& kernels;
  Form form;
  int64_t out, in;
  Activation activation;
  bool residual;

  explicit LinearSizes(const Parts& parts);
};

// Weights by units of kLanes outputs, see TurnedWeights.
struct TurnedLinear {
  int64_t units, step;
  Memory values, bias;

  TurnedLinear(const LinearSizes& sizes, const Weights& weights);
};

// A weight, and what was made of it for any batch.
struct GivenLinear {
  LinearSizes sizes;
  Weights weights;
  mutable std::mutex mutex;
  mutable std::shared_ptr<const TurnedLinear> known;

  GivenLinear(const LinearSizes& sizes, Weights weights)
      : sizes(sizes), weights(std::move(weights)) {}
  std::shared_ptr<const TurnedLinear> turned() const {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!known) known = std::make_shared<const TurnedLinear>(sizes, weights);
    return known;
  }
};

std::unique_ptr<Ready> ready_dense_linear(const GivenLinear& given, int64_t batch);
std::unique_ptr<Ready> ready_sparse_linear(const GivenLinear& given, int64_t batch);

}  // namespace program
}  // namespace sparse_ops
