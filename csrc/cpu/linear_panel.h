// The dense side of a sparse linear layer: x turned, in parts that fit a cache.
#pragma once
#include <algorithm>

#include "scratch.h"
#include "tensors.h"

namespace sparse_ops {

// x turned so that the batch stands in the vectors. A slab holds up to `units` cache lines of it:
// (features, units, kLanes), one slab after the other, zeros where the batch ends before a line does.
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
  void turn(const RowSparseKernels& kernels, const float* from, int64_t c0, int64_t c1,
            float* to) const {
    for (int64_t slab = 0; slab < count; ++slab)
      for (int64_t unit = 0; unit < units(slab); ++unit) {
        const int64_t line = first(slab) + unit, width = units(slab) * kLanes;
        const float* rows = from + line * kLanes * features;
        float* columns = to + start(slab) + unit * kLanes;
        const int64_t filled = rows_of(line);
        if (filled == kLanes) {
          kernels.interleave(c1 - c0, rows + c0, features, 1, columns + c0 * width, width);
          continue;
        }
        for (int64_t c = c0; c < c1; ++c)
          for (int64_t l = 0; l < kLanes; ++l)
            columns[c * width + l] = l < filled ? rows[l * features + c] : 0.0f;
      }
  }

  // The sums of `rows` outputs over one slab, (rows, units, kLanes), to (batch, step).
  void turn_back(const RowSparseKernels& kernels, int64_t slab, int64_t rows, const float* sums,
                 float* to, int64_t step) const {
    const int64_t width = units(slab) * kLanes;
    for (int64_t unit = 0; unit < units(slab); ++unit) {
      const int64_t line = first(slab) + unit;
      const float* from = sums + unit * kLanes;
      float* lanes = to + line * kLanes * step;
      if (rows_of(line) == kLanes) {
        kernels.separate(rows, from, width, lanes, step);
        continue;
      }
      for (int64_t l = 0; l < rows_of(line); ++l)
        for (int64_t r = 0; r < rows; ++r) lanes[l * step + r] = from[r * width + l];
    }
  }
};

// The slabs of x, filled by all threads.
class BatchPanel {
 public:
  BatchPanel(const RowSparseKernels& kernels, const float* x, int64_t batch, int64_t features)
      : slabs(kernels, batch, features), memory_(slabs.size()) {
    torch::stable::parallel_for(0, (features + kColumns - 1) / kColumns, 1,
                                [&](int64_t i0, int64_t i1) {
      slabs.turn(kernels, x, i0 * kColumns, std::min(features, i1 * kColumns), memory_.get());
    });
  }
  const float* slab(int64_t i) const { return memory_.get() + slabs.start(i); }

  const Slabs slabs;

 private:
  static constexpr int64_t kColumns = 64;
  const Scratch<float> memory_;
};

// How many stretches the columns are cut into: as many as keep the panel's part in the second cache.
inline int64_t stretches(int64_t features, int64_t width) {
  constexpr int64_t kFloats = 131072;
  return std::max<int64_t>(1, (features * width + kFloats - 1) / kFloats);
}

}  // namespace sparse_ops
