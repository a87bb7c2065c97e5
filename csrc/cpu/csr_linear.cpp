#include "csr_linear.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "linear_panel.h"

namespace sparse_ops {
namespace {

// From this batch on, x is turned so that the batch stands in the vectors; under it, each row gathers.
constexpr int64_t kPanelFrom = 5;
constexpr int64_t kTile = 16;

struct SparseRows {
  int64_t rows;
  const int32_t* crow;
  const int32_t* col;
  const float* values;
};

struct Sparse : SparseRows {
  Sparse(const Tensor& crow_tensor, const Tensor& col_tensor, const Tensor& values_tensor)
      : SparseRows{crow_tensor.numel() - 1, index_data(crow_tensor), index_data(col_tensor),
             data(values_tensor)} {
    STD_TORCH_CHECK(rows >= 1, "crow_indices must have at least 2 entries");
    check_pointers(crow_tensor, "crow_indices", col_tensor.numel());
    STD_TORCH_CHECK(values_tensor.dim() == 1 && values_tensor.numel() == col_tensor.numel(),
                    "values must be (", col_tensor.numel(), "), got ", values_tensor.numel());
  }
};

std::vector<int32_t> multiples(int64_t count, int64_t step) {
  STD_TORCH_CHECK(count * step < std::numeric_limits<int32_t>::max(),
                  "batch times features must be under 2^31");
  std::vector<int32_t> offsets(count);
  for (int64_t i = 0; i < count; ++i) offsets[i] = static_cast<int32_t>(i * step);
  return offsets;
}

struct Output {
  const float* bias;
  const float* residual;
  Activation activation;
  float* y;
};

// y (batch, rows) = activation(x Wᵀ + bias + residual), by slabs of the batch and stretches of columns.
// False if a column is not in [0, features): nothing is read through an index not checked.
bool multiply(const RowSparseKernels& kernels, const SparseRows& w, const float* x, int64_t batch,
              int64_t features, const Output& out) {
  constexpr int64_t kRows = 384;
  const BatchPanel panel(kernels, x, batch, features);
  const Slabs& slabs = panel.slabs;
  const int64_t per_row = w.crow[w.rows] / w.rows + 1;
  const int64_t grain = std::max<int64_t>(kTile, 16384 / (per_row * slabs.lines));
  std::atomic<bool> good{true};
  torch::stable::parallel_for(0, w.rows, grain, [&](int64_t o0, int64_t o1) {
    const int64_t most = std::min(kRows, o1 - o0);
    const Scratch<float> sums(most * slabs.widest());
    const Scratch<int32_t> cursors(most);
    for (int64_t o = o0; o < o1; o += most) {
      const int64_t count = std::min(most, o1 - o);
      if (!all_below(kernels, w.col + w.crow[o], w.crow[o + count] - w.crow[o], features)) {
        good = false;
        return;
      }
      for (int64_t slab = 0; slab < slabs.count; ++slab) {
        std::copy_n(w.crow + o, count, cursors.get());
        const int64_t pieces = stretches(features, slabs.units(slab) * kLanes);
        for (int64_t i = 0; i < pieces; ++i)
          kernels.stretch(static_cast<int>(slabs.units(slab)),
                          {count, w.crow + o + 1, cursors.get(), w.col, w.values,
                           features * (i + 1) / pieces, panel.slab(slab), sums.get(),
                           out.bias ? out.bias + o : nullptr, i == 0, i + 1 == pieces,
                           out.residual ? kNone : out.activation});
        slabs.turn_back(kernels, slab, count, sums.get(), out.y + o, w.rows);
      }
      if (out.residual)
        kernels.finish(batch, count, w.rows, out.residual + o, out.y + o, out.activation);
    }
  });
  return good;
}

}  // namespace

Tensor csr_linear(const RowSparseKernels& kernels, const Tensor& x_, const Tensor& crow_,
                  const Tensor& col_, const Tensor& values_, const std::optional<Tensor>& bias_,
                  const std::optional<Tensor>& residual_, int64_t activation_number) {
  const Tensor x = floats(x_, "x"), values = floats(values_, "values");
  const Tensor crow = indices(crow_, "crow_indices"), col = indices(col_, "col_indices");
  STD_TORCH_CHECK(x.dim() == 2, "x must be (batch, in_features)");
  const Sparse w(crow, col, values);
  const auto bias = floats(bias_, "bias", w.rows);
  const Activation activation = activation_from(activation_number);
  const int64_t batch = x.size(0), features = x.size(1);
  const auto residual = floats(residual_, "residual", batch * w.rows);
  STD_TORCH_CHECK(!residual || (residual->dim() == 2 && residual->size(1) == w.rows),
                  "residual must be (", batch, ", ", w.rows, ")");
  // With a residual, the kernels leave the activation to what adds it.
  const Activation inner = residual ? kNone : activation;
  Tensor y = torch::stable::new_empty(x, {batch, w.rows});
  float* yd = y.mutable_data_ptr<float>();
  const float* xd = data(x);
  const int64_t grain = std::max<int64_t>(16, 16384 / std::max<int64_t>(1, col.numel() / w.rows + 1));
  if (batch == 0) return y;

  if (batch < kPanelFrom) {
    std::atomic<bool> good{true};
    // Two to four rows of x go side by side, so that each index is read once for all.
    const Scratch<float> turned(batch > 1 ? features * 4 : 0);
    for (int64_t i = 0; batch > 1 && i < features; ++i)
      for (int64_t b = 0; b < 4; ++b)
        turned.get()[i * 4 + b] = b < batch ? xd[b * features + i] : 0.0f;
    torch::stable::parallel_for(0, w.rows, grain, [&](int64_t first, int64_t last) {
      for (int64_t o0 = first; o0 < last; o0 += kTile) {
        const int64_t o1 = std::min(o0 + kTile, last);
        // Nothing is read through an index that has not been checked.
        if (!all_below(kernels, w.col + w.crow[o0], w.crow[o1] - w.crow[o0], features)) {
          good = false;
          return;
        }
        if (batch == 1) {
          kernels.gather(o0, o1, w.crow, w.col, w.values, data(bias), xd, yd + o0, inner);
        } else {
          float results[kTile * 4];
          kernels.gather4(o0, o1, w.crow, w.col, w.values, data(bias), turned.get(), results, inner);
          for (int64_t b = 0; b < batch; ++b)
            for (int64_t o = o0; o < o1; ++o) yd[b * w.rows + o] = results[(o - o0) * 4 + b];
        }
        if (residual)
          kernels.finish(batch, o1 - o0, w.rows, data(residual) + o0, yd + o0, activation);
      }
    });
    STD_TORCH_CHECK(good, "col_indices must be in [0, ", features, ")");
    return y;
  }

  const Output out = {data(bias), data(residual), activation, yd};
  STD_TORCH_CHECK(multiply(kernels, w, xd, batch, features, out),
                  "col_indices must be in [0, ", features, ")");
  return y;
}

std::tuple<Tensor, Tensor> csr_linear_backward(const RowSparseKernels& kernels, const Tensor& dy_,
                                               const Tensor& x_, const Tensor& crow_,
                                               const Tensor& col_, const Tensor& values_,
                                               bool need_x, bool need_values) {
  const Tensor dy = floats(dy_, "dy"), x = floats(x_, "x"), values = floats(values_, "values");
  const Tensor crow = indices(crow_, "crow_indices"), col = indices(col_, "col_indices");
  const Sparse w(crow, col, values);
  STD_TORCH_CHECK(x.dim() == 2, "x must be (batch, in_features)");
  const int64_t batch = x.size(0), features = x.size(1), nnz = col.numel();
  STD_TORCH_CHECK(dy.dim() == 2 && dy.size(0) == batch && dy.size(1) == w.rows, "dy must be (",
                  batch, ", ", w.rows, ")");
  check_below(kernels, col, "col_indices", features);
  Tensor dx = need_x ? torch::stable::empty_like(x) : torch::stable::new_empty(x, {0});
  Tensor dvalues = torch::stable::new_zeros(values, {need_values ? nnz : 0});
  if (batch == 0) return {dx, dvalues};

  if (need_values) {
    const BatchPanel dy_panel(kernels, data(dy), batch, w.rows);
    const BatchPanel x_panel(kernels, data(x), batch, features);
    const Slabs& slabs = x_panel.slabs;
    for (int64_t slab = 0; slab < slabs.count; ++slab) {
      const int64_t width = slabs.units(slab) * kLanes;
      const std::vector<int32_t> offsets = multiples(features, width);
      torch::stable::parallel_for(0, w.rows, 16, [&](int64_t o0, int64_t o1) {
        for (int64_t o = o0; o < o1; ++o)
          kernels.dots(w.crow[o + 1] - w.crow[o], w.col + w.crow[o], offsets.data(),
                       dy_panel.slab(slab) + o * width, x_panel.slab(slab), width,
                       dvalues.mutable_data_ptr<float>() + w.crow[o]);
      });
    }
  }

  if (need_x) {
    // The transpose of W: which rows keep each feature.
    std::vector<int32_t> start(features + 1, 0), row(nnz);
    std::vector<float> transposed(nnz);
    for (int64_t k = 0; k < nnz; ++k) ++start[w.col[k] + 1];
    for (int64_t i = 0; i < features; ++i) start[i + 1] += start[i];
    std::vector<int32_t> next(start.begin(), start.end() - 1);
    for (int64_t o = 0; o < w.rows; ++o)
      for (int64_t k = w.crow[o]; k < w.crow[o + 1]; ++k) {
        const int32_t at = next[w.col[k]]++;
        row[at] = static_cast<int32_t>(o);
        transposed[at] = w.values[k];
      }
    multiply(kernels, {features, start.data(), row.data(), transposed.data()}, data(dy), batch,
             w.rows, {nullptr, nullptr, kNone, dx.mutable_data_ptr<float>()});
  }
  return {dx, dvalues};
}

}  // namespace sparse_ops
