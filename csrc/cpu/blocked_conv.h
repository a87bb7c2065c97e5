// Convolutions of images that are blocked, once prepared, on raw pointers; see blocked.h.
#pragma once
#include <memory>
#include <vector>

#include "blocked.h"
#include "conv_code.h"

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
  Groups(const RowSparseKernels& kernels, int64_t count, const int32_t* starts, const int32_t* rows,
         const int32_t* filters, int64_t channels);
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
  // Of the cells of all blocks, count() each. One under the other: the next cell reads most of its
  // lines for the first time.
  Cell at(int64_t i) const;
};

// Channels in parts whose lines, of a small cell, the first cache holds while all filters read
// them. Sums go to memory and back between parts, which is worth it where filters have many weights
// in each.
struct ChannelParts {
  int64_t count = 1;
  std::vector<int32_t> starts;  // of part p and group g at p * groups + g, ends those of part p + 1

  ChannelParts() = default;
  // Where it pays; else one part. `columns` are channel * taps + tap, by group ascending.
  ChannelParts(const Groups& groups, const std::vector<int32_t>& columns, int64_t channels,
               int64_t taps);
};

// What images a convolution goes from and to.
struct BlockedImages {
  Blocks x, y, added;  // x with its halo as pixels
  int64_t stride_l, stride_p;
  int64_t reach_l, reach_p;  // lines and pixels that one pixel reads

  int64_t origin(const Cell& cell) const {
    return cell.block * x.step + cell.top * stride_l * x.line() + cell.left * stride_p * kLanes;
  }
  // Floats that a cell reads.
  int64_t read_by(const Cells& cells) const {
    return x.channels * ((cells.lines - 1) * stride_l + reach_l) *
           ((cells.width - 1) * stride_p + reach_p) * kLanes;
  }
  // Where a filter's cell begins in y, and in what is added to it.
  int64_t in_y(const Cell& cell, int64_t filter) const {
    return y.inside(cell.block, filter) + cell.top * y.line() + cell.left * kLanes;
  }
  int64_t in_added(const Cell& cell, int64_t filter) const {
    return added.inside(cell.block, filter) + cell.top * added.line() + cell.left * kLanes;
  }
  // Cells whose lines fit the second cache, where they can.
  Cells cells() const { return Cells(x, y, stride_l, stride_p, reach_l, reach_p); }
  // The halo around a filter's cell.
  void clear(float* to, const Cell& cell, int64_t filter) const {
    if (cell.left == 0) y.clear(to + y.inside(cell.block, filter), cell.top, cell.top + cell.lines);
  }
};

// A convolution whose arguments are checked: what they point at has to stay. residual may be null;
// runs write y and its halo.
struct BlockedConvolution : BlockedImages {
  const RowSparseKernels& kernels;
  const Groups& groups;
  const int32_t* offsets;
  const float *values, *bias;
  Activation activation;
  ChannelParts parts;

  void run(const float* from, const float* residual, float* to) const;
};

// One whose filters are code.
struct CodedConvolution : BlockedImages {
  const ConvCode& code;

  void run(const float* from, const float* residual, float* to) const;
};

}  // namespace sparse_ops
