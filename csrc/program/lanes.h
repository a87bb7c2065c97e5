// Channels that change their places.
#pragma once
#include "values.h"

namespace sparse_ops {
namespace program {

inline void copy_lines(const Lines& lines) {
  for (int64_t l = 0; l < lines.lines; ++l)
    std::memcpy(lines.to + l * lines.to_step, lines.from + l * lines.from_step,
                sizeof(float) * static_cast<size_t>(lines.length));
}

// Lines [top, end) of plane `plane` of `out`: its channels from `start` on are those of `in` from
// `first` on. In channels order lanes of the plane that come before `start` are left as they are;
// those after the last channel of `in` become anything.
inline void copy_channels(const StepKernels& kernels, const View& in, int64_t first,
                          const View& out, int64_t start, int64_t block, int64_t plane, int64_t top,
                          int64_t end) {
  // The channel of `in` that the plane's first, or only, channel would be.
  const int64_t lanes = out.spec.order == kChannels ? kLanes : 1;
  const int64_t channel = plane * lanes - start + first;
  // The planes that have it and the next kLanes, if there are any such.
  const int64_t last = in.spec.planes() - 1, before = channel < 0 ? -1 : channel / lanes;
  Lines lines = lines_of(in, out, block, 0, top, end);
  const float* lines_from = lines.from;
  lines.to = out.inside(block, plane) + top * out.spec.line();
  lines.from = lines_from + std::max<int64_t>(before, 0) * in.spec.plane();
  if (lanes == 1) return copy_lines(lines);
  const int64_t distance = channel - before * kLanes,
                kept = std::max<int64_t>(0, start - plane * kLanes);
  if (distance == 0 && kept == 0) return copy_lines(lines);
  const float* next = lines_from + std::min(before + 1, last) * in.spec.plane();
  kernels.shift(lines, next, distance, kept);
}

// Whether the planes of both views follow each other, and are so small that they are best moved
// together.
inline bool small_planes(const View& in, const View& out) {
  return out.spec.order != kChannels && in.spec.halo == 0 && out.spec.halo == 0 &&
         out.spec.plane() <= 1024;
}

// All of `count` such planes of each block, from `first` on to `start` on.
inline void copy_small_planes(const View& in, int64_t first, const View& out, int64_t start,
                              int64_t count) {
  const int64_t plane = out.spec.plane();
  share(out.spec.blocks(), count * plane, [&](int64_t i0, int64_t i1) {
    copy_lines({i1 - i0, count * plane, in.data + i0 * in.block_step + first * plane, in.block_step,
                out.data + i0 * out.block_step + start * plane, out.block_step});
  });
}

}  // namespace program
}  // namespace sparse_ops
