// How a convolution becomes sparse rows times a panel.
//
// Images are stored with their zero padding, and for stride s as s * s phases (the pixels whose
// coordinates leave the same remainders), so that every tap of every stride is one fixed shift:
//
//     plane (channel, phase): for each image, plane_rows * pitch values; plane_size apart
//     output pixel (n, y, x)  ->  position p = (n * plane_rows + y) * pitch + x
//     input under tap (ky, kx)  ->  plane[p + shift(ky, kx)]
//
// Zeros at the end of one line serve as those at the start of the next, and so do lines between
// images. Positions that are no output pixel (the ends of lines) are computed and thrown away.
#pragma once
#include <cstdint>
#include <vector>

#include "row_sparse.h"

namespace sparse_ops {

struct Axis {
  int64_t size, kernel, stride, padding, dilation;
  int64_t out;                    // output size
  int64_t reach;                  // the farthest shift of a tap
  int64_t shared;                 // zeros that a line shares with the next
  int64_t pitch;                  // from one line to the next
  std::vector<int64_t> phases;    // remainders that occur
  std::vector<int64_t> phase_of;  // index in phases, by tap
  std::vector<int64_t> shift_of;  // by tap

  // With `apart`, each tap is a phase of its own, and no shift: as many copies, and no more
  // positions than output pixels.
  Axis(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation,
       bool apart = false);
  Axis with_taps_apart() const { return Axis(size, kernel, stride, padding, dilation, true); }
  // The stored coordinates [first, last) of a phase that hold input; others are zero.
  int64_t first(int64_t phase) const;
  int64_t last(int64_t phase) const;
  // The input coordinate at a stored coordinate.
  int64_t input(int64_t phase, int64_t stored) const { return stored * stride + phase - padding; }
};

// An image's channel's pixel, or a step from one to another.
struct Spot {
  int64_t image, channel, pixel;
};

// Where values are: x[n][c][p] at n * image + c * channel + p * pixel.
struct Layout {
  int64_t image, channel, pixel;

  int64_t of(const Spot& s) const {
    return s.image * image + s.channel * channel + s.pixel * pixel;
  }
};

// Values of one of the element types; sums count values.
template <class Byte>
struct Values {
  Byte* at;
  Element type;

  Values operator+(int64_t count) const { return {at + count * (type == kFloat ? 4 : 2), type}; }
};
using Source = Values<const char>;
using Target = Values<char>;

struct Panel {
  Axis rows, columns;
  int64_t channels, images;
  int64_t phases, plane_size, positions, size;

  // For `images` at a time.
  Panel(const Axis& rows, const Axis& columns, int64_t channels, int64_t images);

  int64_t taps() const { return rows.kernel * columns.kernel; }
  int64_t pitch() const { return columns.pitch; }
  int64_t image_size() const { return rows.pitch * columns.pitch; }
  // Where the plane that tap t reads starts, within its channel, and the shift in it.
  int64_t phase_of(int64_t tap) const;
  int64_t shift_of(int64_t tap) const;
  int64_t offset(int64_t channel, int64_t tap) const {
    return (channel * phases + phase_of(tap)) * plane_size + shift_of(tap);
  }

  // x (images, H, W) of one channel, given by its first value and its layout, into the planes of
  // `channel`; all of them are written.
  void pack(const RowSparseKernels& kernels, const Source& x, const Layout& layout, int64_t channel,
            float* panel) const;
  // The same for kLanes channels from `channel` on, which stand next to each other in x.
  void pack_lanes_of_channels(const RowSparseKernels& kernels, const Source& x,
                              const Layout& layout, int64_t channel, float* panel) const;
  // The same for kLanes images whose pixels stand next to each other: every number above is a
  // number of cache lines then, and `images` is 1.
  void pack_images(const RowSparseKernels& kernels, const Source& x, const Layout& layout,
                   int64_t channel, float* panel) const;
  void pack_images_of_channels(const RowSparseKernels& kernels, const Source& x,
                               const Layout& layout, int64_t channel, float* panel) const;
  // The inverse: adds nothing, writes every pixel that a tap reads; others become zero.
  void unpack(const float* planes, float* x, int64_t image_step) const;
  // Output pixels (images, *, H', W') of one channel to their positions, zeros elsewhere.
  void spread(const float* y, int64_t image_step, float* line) const;
};

// Output pixels inside a range of positions: lines of equal length, a pitch apart.
struct Segment {
  int64_t position, image, pixel, lines, length;
};

// The output pixels among positions [first, last).
std::vector<Segment> segments(const Panel& panel, int64_t first, int64_t last);

}  // namespace sparse_ops
