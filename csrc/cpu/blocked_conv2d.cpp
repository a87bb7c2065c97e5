// Convolutions of images that are blocked; see blocked.h.
#include <algorithm>
#include <limits>
#include <vector>

#include "blocked_cells.h"
#include "second_cache.h"

namespace sparse_ops {
namespace {

// A cell of output pixels is as large as what it reads takes a quarter of the second cache; lines
// are cut where a few of them take more than half.
int64_t most_in_cell() { return second_cache() / 4; }
int64_t most_in_lines() { return second_cache() / 2; }
// Channels of a part, so that 4 x 10 lines of each are about a first cache, and how many weights of
// a filter pay for the way of 16 sums to memory and back: benchmarks/NOTES.md.
constexpr int64_t kPartChannels = 16, kPartWeights = 16;

}  // namespace

Groups::Groups(const RowSparseKernels& kernels, int64_t count, const int32_t* starts,
               const int32_t* rows, const int32_t* filters, int64_t channels)
    : count(count),
      starts(starts),
      rows(rows),
      filters(filters),
      first(count + 1),
      values(count + 1),
      cost(count + 1) {
  for (int64_t g = 0; g < count; ++g) {
    const int32_t r = rows[g];
    STD_TORCH_CHECK(r >= 1 && r <= kernels.max_rows, "rows must be 1 to ", kernels.max_rows,
                    ", got ", r);
    const int64_t k = starts[g + 1] - starts[g];
    first[g + 1] = first[g] + r;
    values[g + 1] = values[g] + k * r;
    // What filters cost beside their weights is about that of some more.
    cost[g + 1] = cost[g] + (k + 8) * (r == 1 ? 2 : r);
  }
  STD_TORCH_CHECK(first[count] == channels, "rows must add up to the filters, ", channels);
  std::vector<bool> seen(channels);
  for (int64_t i = 0; i < channels; ++i) {
    STD_TORCH_CHECK(filters[i] >= 0 && filters[i] < channels && !seen[filters[i]],
                    "filters must be each number in [0, ", channels, ") once");
    seen[filters[i]] = true;
  }
}

Cells::Cells(const Blocks& x, const Blocks& y, int64_t stride_l, int64_t stride_p, int64_t reach_l,
             int64_t reach_p)
    : lines(0), width(y.width), height(y.height), whole(y.width) {
  const auto size = [&](int64_t l, int64_t w) {
    return x.channels * ((l - 1) * stride_l + reach_l) * ((w - 1) * stride_p + reach_p) * kLanes;
  };
  // Lines and widths that tiles divide.
  const int64_t least = std::min<int64_t>(height, width % 8 ? 4 : width % 16 ? 2 : 1);
  for (const int64_t w : {56, 28, 32, 16, 14, 8})
    if (size(least, width) > most_in_lines() && w < width && whole % w == 0) width = w;
  lines = least;
  while (lines < height && size(2 * lines, width) <= most_in_cell()) lines *= 2;
  if (lines < height && size(height, width) <= most_in_cell()) lines = height;
  lines = std::min(lines, height);
  down = (height + lines - 1) / lines;
  across = (whole + width - 1) / width;
}

Cells::Cells(const Blocks& y) : lines(0), width(y.width), height(y.height), whole(y.width) {
  for (int64_t w = 8; w > 3 && width > 8; --w)
    if (whole % w == 0) width = w;
  width = std::min<int64_t>(width, 8);
  lines = std::min<int64_t>(height, std::max<int64_t>(1, 16 / width));
  down = (height + lines - 1) / lines;
  across = (whole + width - 1) / width;
}

ChannelParts::ChannelParts(const Groups& groups, const std::vector<int32_t>& columns,
                           int64_t channels, int64_t taps) {
  const int64_t wanted = (channels + kPartChannels - 1) / kPartChannels;
  const bool alone =
      std::all_of(groups.rows, groups.rows + groups.count, [](int32_t r) { return r == 1; });
  const int64_t weights = groups.count > 0 ? groups.starts[groups.count] : 0;
  if (!alone || wanted < 2 || weights < kPartWeights * wanted * groups.count) return;
  count = wanted;
  for (int64_t p = 0; p <= count; ++p)
    for (int64_t g = 0; g < groups.count; ++g) {
      const auto first = columns.begin() + groups.starts[g],
                 last = columns.begin() + groups.starts[g + 1];
      const int64_t column = std::min(channels, p * kPartChannels) * taps;
      starts.push_back(
          static_cast<int32_t>(std::lower_bound(first, last, column) - columns.begin()));
    }
}

Cell Cells::at(int64_t i) const {
  Cell cell{i / (down * across), i % down * lines, i / down % across * width, 0, 0};
  cell.lines = std::min(lines, height - cell.top);
  cell.width = std::min(width, whole - cell.left);
  return cell;
}

namespace {

struct Job : BlockedConvolution {
  const float *from, *residual;
  float* to;

  void run(const Cell& cell, int64_t g, int64_t part) const;
};

// A group of filters over a cell; of channels, one part. The first adds the residual, others what
// is there, and the last brings the rest.
void Job::run(const Cell& cell, int64_t g, int64_t part) const {
  const bool whole = parts.count == 1, first = part == 0, last = part + 1 == parts.count;
  const int64_t start = whole ? groups.starts[g] : parts.starts[part * groups.count + g];
  const int64_t end = whole ? groups.starts[g + 1] : parts.starts[(part + 1) * groups.count + g];
  const int rows = groups.rows[g];
  BlockedWork work;
  work.lines = cell.lines;
  work.width = cell.width;
  work.k = end - start;
  work.offsets = offsets + start;
  work.weights = values + groups.values[g] + (start - groups.starts[g]) * rows;
  work.panel = from + origin(cell);
  work.line_step = stride_l * x.line();
  work.pixel_step = stride_p * kLanes;
  work.out_step = y.line();
  work.added_step = first ? added.line() : y.line();
  work.activation = last ? activation : kNone;
  for (int r = 0; r < rows; ++r) {
    const int64_t f = groups.filters[groups.first[g] + r];
    if (first) clear(to, cell, f);
    work.bias[r] = last && bias ? bias[f] : 0.0f;
    work.out[r] = to + in_y(cell, f);
    const float* more = residual ? residual + in_added(cell, f) : nullptr;
    work.added[r] = first ? more : work.out[r];
  }
  kernels.blocked(rows, work);
}

}  // namespace

void BlockedConvolution::run(const float* from, const float* residual, float* to) const {
  const bool whole = parts.count == 1;
  const Cells cells = whole ? this->cells() : Cells(y);
  const Job job{*this, from, residual, to};
  deal_out(cells, y, groups.cost, [&](const Cell& cell, const Cell* next, int64_t g0, int64_t g1) {
    Ahead ahead(*this, from, cell, whole ? next : nullptr, g1 - g0);
    for (int64_t p = 0; p < parts.count; ++p)
      for (int64_t g = g0; g < g1; ++g) {
        ahead.some();
        job.run(cell, g, p);
      }
  });
}

Tensor blocked_conv2d(const RowSparseKernels& kernels, const Tensor& x_, const Tensor& starts_,
                      const Tensor& rows_, const Tensor& filters_, const Tensor& offsets_,
                      const Tensor& values_, const std::optional<Tensor>& bias_,
                      const std::optional<Tensor>& residual_, const Numbers& out_size,
                      const Numbers& stride, int64_t out_halo, int64_t residual_halo,
                      int64_t activation) {
  const Tensor x = floats(x_, "x"), values = floats(values_, "values");
  const Tensor starts = indices(starts_, "starts"), rows = indices(rows_, "rows");
  const Tensor filters = indices(filters_, "filters"), offsets = indices(offsets_, "offsets");
  const Blocks from(x, "x", 0);
  STD_TORCH_CHECK(out_size.size() == 2 && stride.size() == 2 && out_size[0] >= 1 &&
                      out_size[1] >= 1 && stride[0] >= 1 && (stride[1] == 1 || stride[1] == 2),
                  "a blocked convolution has 2 output sizes of at least 1 and 2 strides, of which "
                  "the one along lines is 1 or 2");
  // So that nothing overflows: the last line and pixel are inside x.
  STD_TORCH_CHECK((out_size[0] - 1) <= (from.height - 1) / stride[0] &&
                      (out_size[1] - 1) <= (from.width - 1) / stride[1],
                  "an output of ", out_size[0], " x ", out_size[1], " needs a larger x");
  const Blocks to(from.blocks, filters.numel(), out_size[0], out_size[1], out_halo);
  const auto bias = floats(bias_, "bias", to.channels);
  std::optional<Tensor> residual;
  if (residual_) residual = floats(*residual_, "residual");
  const Blocks added = residual ? Blocks(*residual, "residual", residual_halo) : to;
  STD_TORCH_CHECK(added.blocks == to.blocks && added.channels == to.channels &&
                      added.height == to.height && added.width == to.width,
                  "residual must be ", to.blocks, " blocks of ", to.channels, " x ", to.height,
                  " x ", to.width, " inside its halo");
  const int64_t known = offsets.numel() - kSpareOffsets;
  STD_TORCH_CHECK(known >= 0, "offsets must end with ", kSpareOffsets, " that stand for nothing");
  STD_TORCH_CHECK(starts.numel() == rows.numel() + 1, "starts must have one more than rows, ",
                  rows.numel());
  check_pointers(starts, "starts", known);
  const Groups groups(kernels, rows.numel(), index_data(starts), index_data(rows),
                      index_data(filters), to.channels);
  STD_TORCH_CHECK(values.numel() == groups.values[groups.count], "values must be (",
                  groups.values[groups.count], "), got ", values.numel());
  // What the last pixel reads at an offset is inside its block.
  const int64_t reach =
      (to.height - 1) * stride[0] * from.line() + (to.width - 1) * stride[1] * kLanes + kLanes - 1;
  check_below(kernels, offsets, "offsets", from.size() - reach);

  const Tensor y = to.empty(x);
  if (from.blocks == 0 || to.channels == 0) return y;
  const BlockedImages images{from,
                             to,
                             added,
                             stride[0],
                             stride[1],
                             from.height - (to.height - 1) * stride[0],
                             from.width - (to.width - 1) * stride[1]};
  const BlockedConvolution conv{images,
                                kernels,
                                groups,
                                index_data(offsets),
                                data(values),
                                data(bias),
                                activation_from(activation),
                                {}};
  conv.run(data(x), data(residual), y.mutable_data_ptr<float>());
  return y;
}

}  // namespace sparse_ops
