#include "csr_linear.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "linear_panel.h"

namespace sparse_ops {
namespace {

// From this batch on, x is turned so that the batch stands in the vectors; under it, each row
// gathers.
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

// Of a tensor of floats.
Source values_of(const Tensor& t) { return {static_cast<const char*>(t.const_data_ptr()), kFloat}; }

std::vector<int32_t> multiples(int64_t count, int64_t step) {
  STD_TORCH_CHECK(count * step < std::numeric_limits<int32_t>::max(),
                  "batch times features must be under 2^31");
  std::vector<int32_t> offsets(count);
  for (int64_t i = 0; i < count; ++i) offsets[i] = static_cast<int32_t>(i * step);
  return offsets;
}

// y (batch, rows) = activation(x Wᵀ + bias + residual), by slabs of the batch and stretches of
// columns. False if a column is not in [0, features): nothing is read through an index not checked.
bool multiply(const RowSparseKernels& kernels, const SparseRows& w, const float* bias,
              const Source& x, int64_t batch, int64_t features, const BatchOutput& out) {
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
    const Scratch<float> dense(out.direct() ? 0 : kLanes * most);
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
                           bias ? bias + o : nullptr, i == 0, i + 1 == pieces, out.inner()});
        out.turn_back(kernels, slabs, slab, o, count, sums.get(), dense.get());
      }
    }
  });
  return good;
}

// The same for a batch of 1 to 4, whose entries go side by side: each index is read once for all.
bool multiply_few(const RowSparseKernels& kernels, const SparseRows& w, const float* bias,
                  const Source& x, int64_t batch, int64_t features, const BatchOutput& out) {
  const bool one = batch == 1;
  const int64_t lanes = one ? 1 : 4,
                grain = std::max<int64_t>(16, 16384 / (w.crow[w.rows] / w.rows + 1));
  // A single row of floats is read where it is.
  const bool as_it_is = one && x.type == kFloat;
  const Scratch<float> turned(as_it_is ? 0 : features * lanes);
  if (batch < lanes) std::fill(turned.get(), turned.get() + features * lanes, 0.0f);
  for (int64_t b = 0; !as_it_is && b < batch; ++b)
    kernels.ends[x.type].read(features, (x + b * features).at, 1, turned.get() + b, lanes);
  const float* entries = as_it_is ? reinterpret_cast<const float*>(x.at) : turned.get();
  std::atomic<bool> good{true};
  torch::stable::parallel_for(0, w.rows, grain, [&](int64_t first, int64_t last) {
    for (int64_t o0 = first; o0 < last; o0 += kTile) {
      const int64_t o1 = std::min(o0 + kTile, last);
      if (!all_below(kernels, w.col + w.crow[o0], w.crow[o1] - w.crow[o0], features)) {
        good = false;
        return;
      }
      if (one && out.direct()) {
        kernels.gather(o0, o1, w.crow, w.col, w.values, bias, entries, out.floats(0, o0),
                       out.inner());
        continue;
      }
      float results[kTile * 4];
      const auto products = one ? kernels.gather : kernels.gather4;
      products(o0, o1, w.crow, w.col, w.values, bias, entries, results, out.inner());
      for (int64_t b = 0; b < batch; ++b) out.write(kernels, b, o0, o1 - o0, results + b, lanes);
    }
  });
  return good;
}

// A row as an image of one pixel.
Tensor as_images(const Tensor& rows) {
  return torch::stable::unsqueeze(torch::stable::unsqueeze(rows, 2), 3);
}

// `out` seen as images. Raises unless it can be written to, as (batch, features) of x's type,
// without a change to x or the residual.
Output checked_rows(const Tensor& out, const Images& x, int64_t batch, int64_t features,
                    const std::optional<Images>& residual) {
  STD_TORCH_CHECK(out.dim() == 2 && out.size(0) == batch && out.size(1) == features,
                  "out must be (", batch, ", ", features, ")");
  const int64_t step = batch > 1 ? out.stride(0) : features;
  STD_TORCH_CHECK(batch == 0 || (step >= features && (features == 1 || out.stride(1) == 1)),
                  "out must have whole rows, one after the other; its strides are (", out.stride(0),
                  ", ", out.stride(1), ")");
  // Where this does not hold, torch does not make images of it, and does not say why.
  int64_t stored = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(out.get(), &stored));
  const int64_t last = out.storage_offset() + (batch - 1) * step + features;
  const int64_t needed = batch == 0 ? 0 : last * static_cast<int64_t>(out.element_size());
  STD_TORCH_CHECK(needed <= stored, "out needs ", needed, " bytes of its storage, which has ",
                  stored);
  std::optional<Tensor> added;
  if (residual) added = as_images(residual->tensor);
  return {x, {batch, features, 1, 1}, added, as_images(out)};
}

}  // namespace

Tensor csr_linear(const RowSparseKernels& kernels, const Tensor& x_, const Tensor& crow_,
                  const Tensor& col_, const Tensor& values_, const std::optional<Tensor>& bias_,
                  const std::optional<Tensor>& residual_, int64_t activation_number,
                  const std::optional<Tensor>& out_) {
  STD_TORCH_CHECK(x_.dim() == 2, "x must be (batch, in_features)");
  const Images x(x_, "x");
  const Tensor values = widened(kernels, values_, "values", x.type);
  const Tensor crow = indices(crow_, "crow_indices"), col = indices(col_, "col_indices");
  const Sparse w(crow, col, values);
  const auto bias = widened(kernels, bias_, "bias", x.type, w.rows);
  const int64_t batch = x_.size(0), features = x_.size(1);
  STD_TORCH_CHECK(!residual_ || (residual_->dim() == 2 && residual_->size(0) == batch &&
                                 residual_->size(1) == w.rows),
                  "residual must be (", batch, ", ", w.rows, ")");
  std::optional<Images> residual;
  if (residual_) residual.emplace(*residual_, "residual", x.type);
  int64_t step = w.rows;
  if (out_) {
    const Output rows = checked_rows(*out_, x, batch, w.rows, residual);
    step = rows.layout.image;
    rows.apart_from(crow, "crow_indices");
    rows.apart_from(col, "col_indices");
    rows.apart_from(values, "values");
    rows.apart_from(bias, "bias");
  }
  Tensor y = out_ ? *out_ : torch::stable::new_empty(x.tensor, {batch, w.rows});
  const BatchOutput out = {{static_cast<char*>(y.mutable_data_ptr()), x.type},
                           step,
                           residual ? residual->data() : Source{nullptr, x.type},
                           w.rows,
                           activation_from(activation_number)};
  if (batch == 0) return y;
  const bool good = batch < kPanelFrom
                        ? multiply_few(kernels, w, data(bias), x.data(), batch, features, out)
                        : multiply(kernels, w, data(bias), x.data(), batch, features, out);
  STD_TORCH_CHECK(good, "col_indices must be in [0, ", features, ")");
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
    const BatchPanel dy_panel(kernels, values_of(dy), batch, w.rows);
    const BatchPanel x_panel(kernels, values_of(x), batch, features);
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
    const BatchOutput out = {{static_cast<char*>(dx.mutable_data_ptr()), kFloat},
                             features,
                             {nullptr, kFloat},
                             features,
                             kNone};
    multiply(kernels, {features, start.data(), row.data(), transposed.data()}, nullptr,
             values_of(dy), batch, w.rows, out);
  }
  return {dx, dvalues};
}

}  // namespace sparse_ops
