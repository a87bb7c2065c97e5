// What the ways to run a sparse convolution on the CPU have in common.
//
//   conv2d_planar.cpp    vectors of pixels; any weight, any batch
//   conv2d_lanes.cpp     vectors of images; batches of 16 on small maps
//   conv2d_channels.cpp  vectors of filters; where enough of them keep the same columns
#pragma once
#include <algorithm>
#include <array>
#include <limits>
#include <memory>

#include "images.h"

namespace sparse_ops {

// A convolution, its arguments checked.
struct Convolution {
  int64_t batch, channels, height, width, filters, groups;
  Axis rows, columns;

  Convolution(const Tensor& x, const Numbers& shape, const Numbers& stride, const Numbers& padding,
              const Numbers& dilation, int64_t groups);
  Convolution(int64_t batch, int64_t channels, int64_t height, int64_t width, const Numbers& shape,
              const Numbers& stride, const Numbers& padding, const Numbers& dilation,
              int64_t groups);

  int64_t in_size() const { return height * width; }
  int64_t out_size() const { return rows.out * columns.out; }
  std::array<int64_t, 4> out_shape() const { return {batch, filters, rows.out, columns.out}; }
  int64_t taps() const { return rows.kernel * columns.kernel; }
  int64_t group_channels() const { return channels / groups; }
  int64_t group_filters() const { return filters / groups; }

  // The largest number of images per chunk, evened out over all of them.
  int64_t chunk(int64_t planes, int64_t all) const;
};

// Which columns each filter keeps, and where its values start.
struct Rows {
  const int32_t* crow;
  const int32_t* col;
  const float* values;
  int64_t classes;
  std::vector<int64_t> start;  // (filters + 1)

  Rows(const RowSparseKernels& kernels, const Tensor& crow, const Tensor& col, const Tensor& values,
       int64_t filters, int64_t columns);
  // Of what has been checked.
  Rows(const int32_t* crow, int64_t classes, const int32_t* col, const float* values,
       int64_t filters);

  const int32_t* columns_of(int64_t o) const { return col + crow[o % classes]; }
  int64_t length(int64_t o) const { return crow[o % classes + 1] - crow[o % classes]; }
};

// One convolution to be done; pointers are to checked data.
struct Job {
  const RowSparseKernels& kernels;
  const Convolution& conv;
  const Rows& rows;
  const float* bias = nullptr;            // by filter of `rows`, or null
  const int32_t* in_channels = nullptr;   // those of x to read, or null: all
  const int32_t* out_channels = nullptr;  // of each filter, or null: the filter's own number
  Activation activation = kNone;
  Source x = {};
  Layout in = {};
  Target y = {};
  Layout out = {};
  Source residual = {};  // or null
  Layout added = {};     // the residual's: as `out`, but for its steps

  Job(const RowSparseKernels& kernels, const Convolution& conv, const Rows& rows)
      : kernels(kernels), conv(conv), rows(rows) {}
  // The same, over another layout of its planes.
  Job(const Job& job, const Convolution& conv)
      : kernels(job.kernels),
        conv(conv),
        rows(job.rows),
        bias(job.bias),
        in_channels(job.in_channels),
        out_channels(job.out_channels),
        activation(job.activation),
        x(job.x),
        in(job.in),
        y(job.y),
        out(job.out),
        residual(job.residual),
        added(job.added) {}

  // What a kernel applies itself: with a residual, that is still to be added.
  Activation inner() const { return residual.at ? kNone : activation; }
  int64_t in_channel(int64_t c) const { return in_channels ? in_channels[c] : c; }
  int64_t out_channel(int64_t o) const { return out_channels ? out_channels[o] : o; }
  Job with(const Convolution& other) const { return {*this, other}; }
  // Where an image begins in x.
  Source image(int64_t n) const { return x + n * in.image; }

  // Whether results are y as they are.
  bool direct() const { return y.type == kFloat && !residual.at; }
  float* floats(const Spot& first) const {
    return reinterpret_cast<float*>((y + out.of(first)).at);
  }
  // `lines` lines of `length` results, `from_step` apart, to y: the first line begins at `first`,
  // the next one a `step` further. Along a line y's values stand next to each other.
  void put(const Spot& first, const Spot& step, int64_t lines, int64_t length, const float* from,
           int64_t from_step) const;
  // `lanes` results of each of `length` pixels from `first` on, `from_step` apart, to those
  // channels.
  void scatter(const Spot& first, int64_t length, const int64_t* channels, int64_t lanes,
               const float* from, int64_t from_step) const;
  // Results that are `from_step` apart to neighbouring pixels.
  void write(const Spot& first, int64_t length, const float* from, int64_t from_step) const;
};

// Up to kMaxRows filters of one group that keep the same columns.
struct Block {
  int64_t filter[kMaxRows];
  int count;
};

// Neighbouring filters whose results are written together, and the blocks they are computed in.
struct Range {
  int64_t first, last;
  std::vector<Block> blocks;

  int64_t filters() const { return last - first; }
};

std::vector<Range> ranges_of(const Job& job);
int64_t widest(const std::vector<Range>& ranges);

// Into how many parts work on the same images is cut, so that threads get equal shares: work is
// dealt out beforehand, so with few pieces a thread more or less waits for the others.
inline int64_t parts_for(int64_t pieces, int64_t most, int64_t threads) {
  if (threads == 1 || pieces >= 8 * threads) return 1;
  return std::min(most, (8 * threads + pieces - 1) / pieces);
}

// By column: where a panel has it, in steps of `scale` values.
std::vector<int32_t> offsets_of(const Convolution& conv, const Panel& panel, int64_t scale);

// Images [from, to).
void forward_planar(const Job& job, int64_t from, int64_t to);
void forward_lanes(const Job& job, int64_t from, int64_t to);
// Whether vectors of filters are filled well enough.
bool wide_classes(int64_t filters, int64_t groups, int64_t classes);
void forward_channels(const Job& job);

// What forward_planar works out before it reads x: for `images` at a time. Where x and y are in the
// job does not matter, whether there is a residual does.
class PlanarPlan {
 public:
  PlanarPlan(const Job& job, int64_t images);
  // With planes as `conv` has them.
  PlanarPlan(const Job& job, std::vector<Range> ranges, const Convolution& conv, int64_t images);

  // In how many shares work may be dealt out; floats that so many need, from a cache line on.
  int64_t shares(int64_t threads) const;
  int64_t scratch(int64_t shares) const { return planes_ + shares * buffer_; }
  // The images from one on. The job is the same but for where x, y and the residual are.
  void run(const Job& job, int64_t image, int64_t shares, float* scratch) const;

 private:
  Convolution conv_;
  std::vector<Range> ranges_;
  Panel panel_;
  std::vector<int32_t> offsets_;
  int64_t length_;  // of a run of positions
  std::vector<std::vector<Segment>> runs_;
  int64_t ld_, planes_, results_, buffer_;
};

// The same for forward_channels, all images at once.
class ChannelsPlan {
 public:
  explicit ChannelsPlan(const Job& job);
  ~ChannelsPlan();

  int64_t shares(int64_t threads) const;
  int64_t scratch(int64_t shares) const;
  void run(const Job& job, int64_t shares, float* scratch) const;

 private:
  struct Parts;
  std::unique_ptr<const Parts> parts_;
};

}  // namespace sparse_ops
