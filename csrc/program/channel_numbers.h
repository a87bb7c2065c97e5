// Numbers of channels: one for each, copied, and which of them some lines of a value need.
#pragma once
#include <vector>

#include "values.h"

namespace sparse_ops {
namespace program {

// A copy of (C) numbers, filled up to whole blocks of channels; empty if there is no tensor.
inline std::vector<float> numbers_of_channels(const Tensor* constant, const char* name,
                                              float otherwise) {
  if (!constant) return {};
  STD_TORCH_CHECK(constant->dim() == 1, name, " must be (C), got ", constant->dim(), " dimensions");
  const Tensor t = floats(*constant, name);
  const int64_t count = t.numel();
  std::vector<float> values((count + kLanes - 1) / kLanes * kLanes, otherwise);
  std::copy_n(data(t), count, values.begin());
  return values;
}

// Which numbers lines need: those of all channels, side by side as the line has them; kLanes of
// them, or one, which are repeated along the line.
enum class Which { kAll, kBlock, kOne };

// Those numbers, from channel `first` on; one is filled up to kLanes in `filled`.
inline const float* numbers_for(const std::vector<float>& all, Which which, int64_t first,
                                float (&filled)[kLanes]) {
  if (which != Which::kOne) return all.data() + first;
  std::fill_n(filled, kLanes, all[first]);
  return filled;
}

// use(lines, which, first) for all lines of a value that is read and one that is written.
template <class Use>
void over_channels(const View& in, const View& out, int64_t channels, const Use& use) {
  const Spec& spec = out.spec;
  if (spec.order == kPlanar && spec.shape.h == 1 && spec.shape.w == 1 && spec.halo == 0 &&
      in.spec.halo == 0) {
    // Planes of one number are joined to lines of channels.
    share(spec.blocks(), channels, [&](int64_t i0, int64_t i1) {
      const Lines lines = {i1 - i0,
                           channels,
                           in.data + i0 * in.block_step,
                           in.block_step,
                           out.data + i0 * out.block_step,
                           out.block_step};
      use(lines, Which::kAll, 0);
    });
    return;
  }
  for_each_lines(out, spec.line(), [&](int64_t block, int64_t plane, int64_t top, int64_t end) {
    const Lines lines = lines_of(in, out, block, plane, top, end);
    if (spec.order == kChannels)
      use(lines, Which::kBlock, plane * kLanes);
    else
      use(lines, Which::kOne, plane);
  });
}

}  // namespace program
}  // namespace sparse_ops
