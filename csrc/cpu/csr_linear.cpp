#include "csr_linear.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "scratch.h"

namespace sparse_ops {
namespace {

// From this batch on, x is turned so that the batch stands in the vectors; under it, each row gathers.
constexpr int64_t kPanelFrom = 5;
constexpr int64_t kTile = 16;

int64_t padded(int64_t batch) { return (batch + 15) / 16 * 16; }

// from (count, width) -> to (width, step): columns [c0, c1); the step's tail is zero.
void turn(const float* from, int64_t count, int64_t width, int64_t c0, int64_t c1, float* to,
          int64_t step) {
  for (int64_t c = c0; c < c1; c += kTile)
    for (int64_t r = 0; r < step; r += kTile)
      for (int64_t i = c; i < std::min(c + kTile, c1); ++i)
        for (int64_t j = r; j < std::min(r + kTile, step); ++j)
          to[i * step + j] = j < count ? from[j * width + i] : 0.0f;
}

// from (rows r0 to r1, step) -> to (count, width).
void turn_back(const float* from, int64_t step, int64_t r0, int64_t r1, int64_t count,
               int64_t width, float* to) {
  for (int64_t r = r0; r < r1; r += kTile)
    for (int64_t b = 0; b < count; b += kTile)
      for (int64_t j = b; j < std::min(b + kTile, count); ++j)
        for (int64_t i = r; i < std::min(r + kTile, r1); ++i)
          to[j * width + i] = from[(i - r0) * step + j];
}

struct Sparse {
  int64_t rows;
  const int32_t* crow;
  const int32_t* col;
  const float* values;

  Sparse(const Tensor& crow_tensor, const Tensor& col_tensor, const Tensor& values_tensor)
      : rows(crow_tensor.numel() - 1),
        crow(index_data(crow_tensor)),
        col(index_data(col_tensor)),
        values(data(values_tensor)) {
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
  // A batch of a few rows reads each index about once: checking them all first would read them twice.
  if (batch >= kPanelFrom) check_below(col, "col_indices", features);
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
        if (!all_below(w.col + w.crow[o0], w.crow[o1] - w.crow[o0], features)) {
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

  const int64_t step = padded(batch);
  const std::vector<int32_t> offsets = multiples(features, step);
  const Scratch<float> panel(features * step + kOverrun);
  torch::stable::parallel_for(0, (features + kTile - 1) / kTile, 4, [&](int64_t i0, int64_t i1) {
    turn(xd, batch, features, i0 * kTile, std::min(features, i1 * kTile), panel.get(), step);
  });
  std::fill(panel.get() + features * step, panel.get() + features * step + kOverrun, 0.0f);
  torch::stable::parallel_for(0, (w.rows + kTile - 1) / kTile, 1, [&](int64_t i0, int64_t i1) {
    const Scratch<float> buffer(kTile * step);
    for (int64_t i = i0; i < i1; ++i) {
      const int64_t o0 = i * kTile, o1 = std::min(w.rows, o0 + kTile);
      for (int64_t o = o0; o < o1; ++o) {
        const float* weights[1] = {w.values + w.crow[o]};
        kernels.rows(1, w.crow[o + 1] - w.crow[o], w.col + w.crow[o], offsets.data(), weights,
                     bias ? data(bias) + o : nullptr, panel.get(), batch,
                     buffer.get() + (o - o0) * step, step, inner);
      }
      turn_back(buffer.get(), step, o0, o1, batch, w.rows, yd);
      if (residual)
        kernels.finish(batch, o1 - o0, w.rows, data(residual) + o0, yd + o0, activation);
    }
  });
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
  check_below(col, "col_indices", features);
  Tensor dx = need_x ? torch::stable::empty_like(x) : torch::stable::new_empty(x, {0});
  Tensor dvalues = torch::stable::new_zeros(values, {need_values ? nnz : 0});
  if (batch == 0) return {dx, dvalues};

  const int64_t step = padded(batch);
  const Scratch<float> dy_panel(w.rows * step + kOverrun);
  torch::stable::parallel_for(0, (w.rows + kTile - 1) / kTile, 4, [&](int64_t i0, int64_t i1) {
    turn(data(dy), batch, w.rows, i0 * kTile, std::min(w.rows, i1 * kTile), dy_panel.get(), step);
  });
  std::fill(dy_panel.get() + w.rows * step, dy_panel.get() + w.rows * step + kOverrun, 0.0f);

  if (need_values) {
    const std::vector<int32_t> offsets = multiples(features, step);
    const Scratch<float> x_panel(features * step + kOverrun);
    torch::stable::parallel_for(0, (features + kTile - 1) / kTile, 4, [&](int64_t i0, int64_t i1) {
      turn(data(x), batch, features, i0 * kTile, std::min(features, i1 * kTile), x_panel.get(),
           step);
    });
    torch::stable::parallel_for(0, w.rows, 16, [&](int64_t o0, int64_t o1) {
      for (int64_t o = o0; o < o1; ++o)
        kernels.dots(w.crow[o + 1] - w.crow[o], w.col + w.crow[o], offsets.data(),
                     dy_panel.get() + o * step, x_panel.get(), batch,
                     dvalues.mutable_data_ptr<float>() + w.crow[o]);
    });
  }

  if (need_x) {
    // The transpose of W: which rows keep each feature.
    std::vector<int64_t> start(features + 1, 0);
    std::vector<int32_t> row(nnz);
    std::vector<float> transposed(nnz);
    for (int64_t k = 0; k < nnz; ++k) ++start[w.col[k] + 1];
    for (int64_t i = 0; i < features; ++i) start[i + 1] += start[i];
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t o = 0; o < w.rows; ++o)
      for (int64_t k = w.crow[o]; k < w.crow[o + 1]; ++k) {
        const int64_t at = next[w.col[k]]++;
        row[at] = static_cast<int32_t>(o);
        transposed[at] = w.values[k];
      }
    const std::vector<int32_t> offsets = multiples(w.rows, step);
    float* dxd = dx.mutable_data_ptr<float>();
    torch::stable::parallel_for(0, (features + kTile - 1) / kTile, 1, [&](int64_t i0, int64_t i1) {
      const Scratch<float> buffer(kTile * step);
      for (int64_t i = i0; i < i1; ++i) {
        const int64_t f0 = i * kTile, f1 = std::min(features, f0 + kTile);
        for (int64_t f = f0; f < f1; ++f) {
          const float* weights[1] = {transposed.data() + start[f]};
          kernels.rows(1, start[f + 1] - start[f], row.data() + start[f], offsets.data(), weights,
                       nullptr, dy_panel.get(), batch, buffer.get() + (f - f0) * step, step, kNone);
        }
        turn_back(buffer.get(), step, f0, f1, batch, features, dxd);
      }
    });
  }
  return {dx, dvalues};
}

}  // namespace sparse_ops
