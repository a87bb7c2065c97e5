#include "conv2d.h"

#include "second_cache.h"

namespace sparse_ops {
namespace {

// Images are taken in chunks whose panel is about this many floats: small enough to stay in the
// second cache, and, up to 1 MiB, for few page faults where its memory has to be had from the
// system.
int64_t most_in_chunk() { return std::min<int64_t>(second_cache(), 1 << 18); }

// Numbers may be anything, of which tables are made: sizes that no image fills are refused before.
constexpr int64_t kMostSize = std::numeric_limits<int32_t>::max(), kMostTaps = 1 << 24;

int64_t checked(int64_t batch, int64_t channels, const int64_t (&size)[2], const Numbers& shape,
                const Numbers& stride, const Numbers& padding, const Numbers& dilation,
                int64_t groups) {
  STD_TORCH_CHECK(
      shape.size() == 4 && stride.size() == 2 && padding.size() == 2 && dilation.size() == 2,
      "a convolution has a weight of 4 dimensions, and 2 strides, paddings, dilations");
  bool good = groups >= 1 && shape[0] % groups == 0;
  for (const int64_t s : shape) good = good && s >= 1;
  for (int i = 0; i < 2; ++i) good = good && stride[i] >= 1 && padding[i] >= 0 && dilation[i] >= 1;
  for (const Numbers* numbers : {&shape, &stride, &padding, &dilation})
    for (const int64_t n : *numbers) good = good && n < kMostSize;
  STD_TORCH_CHECK(good, "weight shape, stride, padding, dilation or groups out of range");
  STD_TORCH_CHECK(batch >= 0 && channels == shape[1] * groups, "x must be (N, ", shape[1] * groups,
                  ", H, W)");
  for (int i = 0; i < 2; ++i) {
    const int64_t taps = shape[2 + i], whole = size[i] + 2 * padding[i];
    STD_TORCH_CHECK(taps <= kMostTaps && dilation[i] * (taps - 1) < whole,
                    "x is too small for the kernel");
    STD_TORCH_CHECK(whole < kMostSize, "one padded image must be under 2^31 values");
  }
  return shape[0];
}

}  // namespace

Convolution::Convolution(const Tensor& x, const Numbers& shape, const Numbers& stride,
                         const Numbers& padding, const Numbers& dilation, int64_t groups)
    : Convolution(x.dim() == 4 ? x.size(0) : -1, x.dim() == 4 ? x.size(1) : 0,
                  x.dim() == 4 ? x.size(2) : 0, x.dim() == 4 ? x.size(3) : 0, shape, stride,
                  padding, dilation, groups) {}

Convolution::Convolution(int64_t batch, int64_t channels, int64_t height, int64_t width,
                         const Numbers& shape, const Numbers& stride, const Numbers& padding,
                         const Numbers& dilation, int64_t groups)
    : batch(batch),
      channels(channels),
      height(height),
      width(width),
      filters(checked(batch, channels, {height, width}, shape, stride, padding, dilation, groups)),
      groups(groups),
      rows(height, shape[2], stride[0], padding[0], dilation[0]),
      columns(width, shape[3], stride[1], padding[1], dilation[1]) {
  STD_TORCH_CHECK(rows.out >= 1 && columns.out >= 1, "x is too small for the kernel");
  const Panel one(rows, columns, channels, 1);
  STD_TORCH_CHECK(
      std::max(one.size, filters * one.plane_size) < std::numeric_limits<int32_t>::max(),
      "one padded image must be under 2^31 values");
}

int64_t Convolution::chunk(int64_t planes, int64_t all) const {
  const Panel one(rows, columns, planes, 1);
  const int64_t most = std::clamp<int64_t>(most_in_chunk() / one.size, 1, all);
  const int64_t chunks = (all + most - 1) / most;
  return (all + chunks - 1) / chunks;
}

Rows::Rows(const int32_t* crow, int64_t classes, const int32_t* col, const float* values,
           int64_t filters)
    : crow(crow), col(col), values(values), classes(classes), start(filters + 1) {
  for (int64_t o = 0; o < filters; ++o) start[o + 1] = start[o] + length(o);
}

Rows::Rows(const RowSparseKernels& kernels, const Tensor& crow_tensor, const Tensor& col_tensor,
           const Tensor& values_tensor, int64_t filters, int64_t columns)
    : crow(index_data(crow_tensor)),
      col(index_data(col_tensor)),
      values(data(values_tensor)),
      classes(crow_tensor.numel() - 1) {
  check_pointers(crow_tensor, "crow_indices", col_tensor.numel());
  check_below(kernels, col_tensor, "col_indices", columns);
  STD_TORCH_CHECK(classes >= 1 && classes <= filters, "crow_indices must be for 1 to ", filters,
                  " classes, got ", classes);
  *this = Rows(crow, classes, col, values, filters);
  STD_TORCH_CHECK(values_tensor.dim() == 1 && values_tensor.numel() == start[filters],
                  "values must be (", start[filters], "), got ", values_tensor.numel());
}

void Job::put(const Spot& first, const Spot& step, int64_t lines, int64_t length, const float* from,
              int64_t from_step) const {
  const void* more = residual.at ? (residual + added.of(first)).at : nullptr;
  kernels.ends[y.type].put(lines, length, from, from_step, more, added.of(step),
                           (y + out.of(first)).at, out.of(step), residual.at ? activation : kNone);
}

void Job::scatter(const Spot& first, int64_t length, const int64_t* channels, int64_t lanes,
                  const float* from, int64_t from_step) const {
  int64_t index[kLanes];
  for (int64_t l = 0; l < lanes; ++l) index[l] = channels[l] * out.channel;
  const void* more = residual.at ? (residual + added.of(first)).at : nullptr;
  kernels.ends[y.type].scatter(length, lanes, from, from_step, index, more, added.pixel,
                               (y + out.of(first)).at, out.pixel, activation);
}

void Job::write(const Spot& first, int64_t length, const float* from, int64_t from_step) const {
  const void* more = residual.at ? (residual + added.of(first)).at : nullptr;
  kernels.ends[y.type].write(length, from, from_step, more, added.pixel, (y + out.of(first)).at,
                             out.pixel, residual.at ? activation : kNone);
}

std::vector<Range> ranges_of(const Job& job) {
  const int64_t per_group = job.conv.group_filters(), classes = job.rows.classes;
  // Enough for whole blocks of every class, and for whole vectors of channels.
  int64_t span = classes >= per_group ? kLanes : classes * job.kernels.max_rows;
  while (span % kLanes) span *= 2;
  std::vector<Range> ranges;
  for (int64_t g = 0; g < job.conv.groups; ++g)
    for (int64_t first = g * per_group; first < (g + 1) * per_group; first += span) {
      Range range{first, std::min(first + span, (g + 1) * per_group), {}};
      for (int64_t o = first; o < std::min(range.last, first + classes); ++o) {
        int64_t next = o, left = (range.last - o + classes - 1) / classes;
        while (left > 0) {
          Block block;
          block.count = job.kernels.max_rows;
          while (block.count > left) block.count /= 2;
          for (int i = 0; i < block.count; ++i, next += classes) block.filter[i] = next;
          left -= block.count;
          range.blocks.push_back(block);
        }
      }
      ranges.push_back(std::move(range));
    }
  return ranges;
}

int64_t widest(const std::vector<Range>& ranges) {
  int64_t most = 0;
  for (const Range& range : ranges) most = std::max(most, range.filters());
  return most;
}

std::vector<int32_t> offsets_of(const Convolution& conv, const Panel& panel, int64_t scale) {
  const int64_t channels = conv.group_channels(), taps = panel.taps();
  std::vector<int64_t> of_tap(taps);
  for (int64_t t = 0; t < taps; ++t) of_tap[t] = panel.offset(0, t);
  std::vector<int32_t> offsets(channels * taps);
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t t = 0; t < taps; ++t)
      offsets[c * taps + t] =
          static_cast<int32_t>((c * panel.phases * panel.plane_size + of_tap[t]) * scale);
  return offsets;
}

}  // namespace sparse_ops
