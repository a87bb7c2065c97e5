// The dense side of a sparse linear layer: x turned, in parts that fit a cache.
#pragma once
#include <algorithm>

#include "images.h"
#include "scratch.h"
#include "second_cache.h"

namespace sparse_ops {

// x turned so that the batch stands in the vectors. A slab holds up to `units` cache lines of it:
// (features, units, kLanes), one slab after the other, zeros where the batch ends before a line
// does.
struct Slabs {
  int64_t batch, features, lines, count;

  Slabs(const RowSparseKernels& kernels, int64_t batch, int64_t features)
      : batch(batch), features(features) {
    lines = (batch + kLanes - 1) / kLanes;
    count = (lines + kernels.max_stretch - 1) / kernels.max_stretch;
  }

  int64_t first(int64_t slab) const { return lines * slab / count; }
  int64_t units(int64_t slab) const { return first(slab + 1) - first(slab); }
  int64_t widest() const { return (lines + count - 1) / count * kLanes; }
  int64_t start(int64_t slab) const { return first(slab) * kLanes * features; }
  int64_t size() const { return lines * kLanes * features; }
  int64_t rows_of(int64_t line) const { return std::min(kLanes, batch - line * kLanes); }

  // from (batch, features), its columns [c0, c1).
  void turn(const RowSparseKernels& kernels, const Source& from, int64_t c0, int64_t c1,
            float* to) const {
    const EndKernels& ends = kernels.ends[from.type];
    for (int64_t slab = 0; slab < count; ++slab)
      for (int64_t unit = 0; unit < units(slab); ++unit) {
        const int64_t line = first(slab) + unit, width = units(slab) * kLanes;
        const Source rows = from + (line * kLanes * features + c0);
        float* columns = to + start(slab) + unit * kLanes + c0 * width;
        const int64_t filled = rows_of(line);
        if (filled == kLanes) {
          ends.interleave(c1 - c0, rows.at, features, 1, columns, width);
          continue;
        }
        for (int64_t l = 0; l < filled; ++l)
          ends.read(c1 - c0, (rows + l * features).at, 1, columns + l, width);
        for (int64_t c = 0; c < c1 - c0; ++c)
          std::fill(columns + c * width + filled, columns + c * width + kLanes, 0.0f);
      }
  }
};

// The rows of y (batch, features), `step` values apart, and the residual that is added to them,
// whose rows follow each other, or null.
struct BatchOutput {
  Target y;
  int64_t step;
  Source residual;
  int64_t features;
  Activation activation;

  // Whether the sums are y as they are; otherwise the activation comes after the residual.
  bool direct() const { return y.type == kFloat && !residual.at; }
  Activation inner() const { return direct() ? activation : kNone; }
  float* floats(int64_t row, int64_t column) const {
    return reinterpret_cast<float*>(y.at) + row * step + column;
  }

  // What is added to a row from a column on, or null.
  const void* added(int64_t row, int64_t column) const {
    return residual.at ? (residual + (row * features + column)).at : nullptr;
  }
  void* at(int64_t row, int64_t column) const { return (y + (row * step + column)).at; }

  // `count` values of a row from a column on, `from_step` apart.
  void write(const RowSparseKernels& kernels, int64_t row, int64_t column, int64_t count,
             const float* from, int64_t from_step) const {
    kernels.ends[y.type].write(count, from, from_step, added(row, column), 1, at(row, column), 1,
                               direct() ? kNone : activation);
  }

  // The sums of `count` columns over one slab, (count, units, kLanes). dense: (kLanes, count).
  void turn_back(const RowSparseKernels& kernels, const Slabs& slabs, int64_t slab, int64_t column,
                 int64_t count, const float* sums, float* dense) const {
    const int64_t width = slabs.units(slab) * kLanes;
    for (int64_t unit = 0; unit < slabs.units(slab); ++unit) {
      const int64_t line = slabs.first(slab) + unit, row = line * kLanes;
      const float* from = sums + unit * kLanes;
      if (slabs.rows_of(line) < kLanes) {
        for (int64_t l = 0; l < slabs.rows_of(line); ++l)
          write(kernels, row + l, column, count, from + l, width);
      } else if (direct()) {
        kernels.separate(count, from, width, floats(row, column), step);
      } else {
        kernels.separate(count, from, width, dense, count);
        kernels.ends[y.type].put(kLanes, count, dense, count, added(row, column), features,
                                 at(row, column), step, activation);
      }
    }
  }
};

// The slabs of x, filled by all threads.
class BatchPanel {
 public:
  BatchPanel(const RowSparseKernels& kernels, const Source& x, int64_t batch, int64_t features)
      : slabs(kernels, batch, features), memory_(slabs.size()) {
    torch::stable::parallel_for(
        0, (features + kColumns - 1) / kColumns, 1, [&](int64_t i0, int64_t i1) {
          slabs.turn(kernels, x, i0 * kColumns, std::min(features, i1 * kColumns), memory_.get());
        });
  }
  const float* slab(int64_t i) const { return memory_.get() + slabs.start(i); }

  const Slabs slabs;

 private:
  static constexpr int64_t kColumns = 64;
  const Scratch<float> memory_;
};

// How many stretches the columns are cut into: as many as keep the panel's part in half of the
// second cache.
inline int64_t stretches(int64_t features, int64_t width) {
  const int64_t most = second_cache() / 2;
  return std::max<int64_t>(1, (features * width + most - 1) / most);
}

}  // namespace sparse_ops
