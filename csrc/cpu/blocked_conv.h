// Convolutions of images that are blocked, once prepared, on raw pointers; see blocked.h.
#pragma once
#include <vector>

#include "blocked.h"

namespace sparse_ops {

// Filters in the order that they are computed in: groups that read the same offsets.
struct Groups {
  int64_t count;
  const int32_t* starts;
  const int32_t* rows;
  const int32_t* filters;
  std::vector<int64_t> first;   // of each group's filters in `filters`
  std::vector<int64_t> values;  // where each group's values start
  std::vector<int64_t> cost;    // about that of the groups before

  // Of `count` groups, whose `starts` have been checked. Raises unless they are all filters, once.
  Groups(const RowSparseKernels& kernels, int64_t count, const int32_t* starts,
         const int32_t* rows, const int32_t* filters, int64_t channels);
};

struct Cell {
  int64_t block, top, left, lines, width;
};

// How images are cut into cells; the same for any number of threads.
struct Cells {
  int64_t down, across, lines, width, height, whole;

  Cells(const Blocks& x, const Blocks& y, int64_t stride_l, int64_t stride_p, int64_t reach_l,
        int64_t reach_p);
  // As small as the sums of a tile.
  explicit Cells(const Blocks& y);
  int64_t count() const { return down * across; }
  // Of the cells of all blocks, count() each. One under the other: the next cell reads most of its lines
  // for the first time.
  Cell at(int64_t i) const;
};

// Channels in parts whose lines, of a small cell, the first cache holds while all filters read them. Sums go
// to memory and back between parts, which is worth it where filters have many weights in each.
struct ChannelParts {
  int64_t count = 1;
  std::vector<int32_t> starts;  // of part p and group g at p * groups + g, ends those of part p + 1

  ChannelParts() = default;
  // Where it pays; else one part. `columns` are channel * taps + tap, by group ascending.
  ChannelParts(const Groups& groups, const std::vector<int32_t>& columns, int64_t channels, int64_t taps);
};

// A convolution whose arguments are checked: what they point at has to stay.
struct BlockedConvolution {
  const RowSparseKernels& kernels;
  const Groups& groups;
  Blocks x, y, added;  // x with its halo as pixels
  const int32_t* offsets;
  const float *values, *bias;
  int64_t stride_l, stride_p;
  int64_t reach_l, reach_p;  // lines and pixels that one pixel reads
  Activation activation;
  ChannelParts parts;

  // residual may be null. Writes y and its halo.
  void run(const float* from, const float* residual, float* to) const;
};

}  // namespace sparse_ops
