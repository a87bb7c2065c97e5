// Rows that keep columns of their own.
#include "microkernels.h"

namespace checking {

namespace {

// A sparse matrix of some rows, the first of them empty, with rising columns.
struct Matrix {
  std::vector<int32_t> crow = {0, 0}, columns;
  std::vector<float> values;

  Matrix(int64_t rows, int64_t width) {
    for (int64_t r = 1; r < rows; ++r) {
      for (int64_t c = 0; c < width; ++c)
        if (below(3) == 0) {
          columns.push_back(static_cast<int32_t>(c));
          values.push_back(number());
        }
      crow.push_back(static_cast<int32_t>(columns.size()));
    }
  }
  // Row o times column b of x, which is `batch` wide.
  Exact times(int64_t o, const Floats& x, int64_t batch, int64_t b) const {
    Exact exact;
    for (int32_t k = crow[o]; k < crow[o + 1]; ++k) exact.add(values[k], x[columns[k] * batch + b]);
    return exact;
  }
};

}  // namespace

void test_linear(const RowSparseKernels& kernels) {
  const int64_t rows = 23, width = 90, first = 1;
  const Matrix matrix(rows, width);
  Floats bias(rows);
  const SparseWork work = {
      first, rows, matrix.crow.data(), matrix.columns.data(), matrix.values.data(), bias.get()};
  // A kernel's name, how many columns x has, and its call.
  const auto check = [&](const char* what, int64_t batch, const auto& call,
                         Activation activation = kNone) {
    // Four columns have to be on a multiple of 16 bytes.
    const int64_t shift = batch == 4 ? 0 : 1;
    Floats x(batch * width, true, shift), y(batch * (rows - first), false, shift);
    call(x.get(), y.get());
    over({rows - first, batch}, [&](int64_t o, int64_t b) {
      const Exact exact = matrix.times(first + o, x, batch, b).plus(bias[first + o]);
      compare(what, y[o * batch + b], exact, activation);
    });
  };
  const TileKernels& tiles = *kernels.tiles;
  check("sparse_one", 1, [&](float* x, float* y) { tiles.sparse_one(work, x, y); });
  check("sparse_four", 4, [&](float* x, float* y) { tiles.sparse_four(work, x, y); });
  for (int units = 1; units <= tiles.most_lines; ++units)
    check("sparse_lines", units * kLanes,
          [&](float* x, float* y) { tiles.sparse_lines(units, work, x, y); });
  for (int again = 0; again < 8; ++again) {
    const Activation activation = any_activation();
    const auto gathered = [&](const auto& gather) {
      return [&](float* x, float* y) {
        gather(first, rows, work.crow, work.columns, work.values, work.bias, x, y, activation);
      };
    };
    check("gather", 1, gathered(kernels.gather), activation);
    check("gather4", 4, gathered(kernels.gather4), activation);
  }
}

// Whole rows at once, and in two stretches.
void test_stretch(const RowSparseKernels& kernels) {
  const int64_t rows = 11, width = 120;
  for (int units = 1; units <= kernels.max_stretch; ++units)
    for (const int64_t limit : {width, int64_t{50}}) {
      const Matrix matrix(rows, width);
      const int64_t batch = units * kLanes;
      Floats panel(width * batch), sums(rows * batch, false), bias(rows);
      std::vector<int32_t> cursors(matrix.crow.begin(), matrix.crow.end() - 1);
      Stretch stretch = {};
      stretch.rows = rows;
      stretch.ends = matrix.crow.data() + 1;
      stretch.cursors = cursors.data();
      stretch.columns = matrix.columns.data();
      stretch.values = matrix.values.data();
      stretch.panel = panel.get();
      stretch.sums = sums.get();
      stretch.bias = bias.get();
      stretch.activation = any_activation();
      stretch.begin = true;
      if (limit < width) {
        stretch.limit = limit;
        kernels.stretch(units, stretch);
        stretch.begin = false;
      }
      stretch.limit = width;
      stretch.end = true;
      kernels.stretch(units, stretch);
      over({rows, batch}, [&](int64_t r, int64_t b) {
        const Exact exact = matrix.times(r, panel, batch, b).plus(bias[r]);
        compare("stretch", sums[r * batch + b], exact, stretch.activation);
      });
    }
}

}  // namespace checking
