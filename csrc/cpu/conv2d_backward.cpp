#include <memory>

#include "conv2d.h"
#include "scratch.h"
#include "sparse_conv2d.h"

namespace sparse_ops {
namespace {

// Positions whose products are added up at a time, so that the lines under them stay in cache.
constexpr int64_t kRun = 2016;

// The transpose of the kept weights: for each input channel and phase, the (filter, tap) that reach
// it.
struct Transposed {
  std::vector<int64_t> start;  // (channels * phases + 1)
  std::vector<int32_t> col;    // filter within the group * taps + tap
  std::vector<float> values;

  Transposed(const Convolution& conv, const Rows& rows, const Panel& panel) {
    const int64_t taps = panel.taps(), nnz = rows.start[conv.filters];
    start.assign(conv.channels * panel.phases + 1, 0);
    col.resize(nnz);
    values.resize(nnz);
    const auto line = [&](int64_t o, int32_t column) {
      const int64_t channel = o / conv.group_filters() * conv.group_channels() + column / taps;
      return channel * panel.phases + panel.phase_of(column % taps);
    };
    for (int64_t o = 0; o < conv.filters; ++o)
      for (int64_t k = 0; k < rows.length(o); ++k) ++start[line(o, rows.columns_of(o)[k]) + 1];
    for (size_t i = 1; i < start.size(); ++i) start[i] += start[i - 1];
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t o = 0; o < conv.filters; ++o)
      for (int64_t k = 0; k < rows.length(o); ++k) {
        const int32_t column = rows.columns_of(o)[k];
        const int64_t at = next[line(o, column)]++;
        col[at] = static_cast<int32_t>(o % conv.group_filters() * taps + column % taps);
        values[at] = rows.values[rows.start[o] + k];
      }
  }
};

}  // namespace

std::tuple<Tensor, Tensor> row_sparse_conv2d_backward(const RowSparseKernels& kernels,
                                                      const Tensor& dy_, const Tensor& x_,
                                                      const Tensor& crow_, const Tensor& col_,
                                                      const Tensor& values_, const Numbers& shape,
                                                      const Numbers& stride, const Numbers& padding,
                                                      const Numbers& dilation, int64_t groups,
                                                      bool need_x, bool need_values) {
  const Tensor dy = floats(dy_, "dy"), x = floats(x_, "x"), values = floats(values_, "values");
  const Tensor crow = indices(crow_, "crow_indices"), col = indices(col_, "col_indices");
  const Convolution conv(x, shape, stride, padding, dilation, groups);
  const Rows rows(kernels, crow, col, values, conv.filters, shape[1] * shape[2] * shape[3]);
  STD_TORCH_CHECK(dy.dim() == 4 && dy.size(0) == conv.batch && dy.size(1) == conv.filters &&
                      dy.size(2) == conv.rows.out && dy.size(3) == conv.columns.out,
                  "dy must be (", conv.batch, ", ", conv.filters, ", ", conv.rows.out, ", ",
                  conv.columns.out, ")");
  Tensor dx = need_x ? torch::stable::empty_like(x) : torch::stable::new_empty(x, {0});
  Tensor dvalues = torch::stable::new_zeros(values, {need_values ? values.numel() : 0});
  if (conv.batch == 0) return {dx, dvalues};
  const Source images{static_cast<const char*>(x.const_data_ptr()), kFloat};

  const Layout layout = {conv.channels * conv.in_size(), conv.in_size(), 1};
  const int64_t chunk = conv.chunk(std::max(conv.channels, conv.filters), conv.batch);
  const Panel whole(conv.rows, conv.columns, conv.channels, chunk);
  const int64_t taps = whole.taps();
  const int64_t reach = whole.rows.reach * whole.pitch() + whole.columns.reach;
  // Room before the first line: dx reads dy at shifts to the left.
  const int64_t lead = (reach + 15) / 16 * 16;
  const Scratch<float> x_panel(need_values ? whole.size : 0);
  const Scratch<float> dy_panel(lead + conv.filters * whole.plane_size + kOverrun);
  std::unique_ptr<Transposed> transposed;
  if (need_x) transposed = std::make_unique<Transposed>(conv, rows, whole);
  std::vector<int32_t> reverse(conv.group_filters() * taps);

  for (int64_t n = 0; n < conv.batch; n += chunk) {
    const Panel panel(conv.rows, conv.columns, conv.channels, std::min(chunk, conv.batch - n));
    float* lines = dy_panel.get() + lead;
    std::fill(dy_panel.get(), lines, 0.0f);
    std::fill(lines + conv.filters * panel.plane_size,
              lines + conv.filters * panel.plane_size + kOverrun, 0.0f);
    torch::stable::parallel_for(0, conv.filters, 8, [&](int64_t o0, int64_t o1) {
      for (int64_t o = o0; o < o1; ++o)
        panel.spread(data(dy) + (n * conv.filters + o) * conv.out_size(),
                     conv.filters * conv.out_size(), lines + o * panel.plane_size);
    });

    if (need_values) {
      const std::vector<int32_t> offsets = offsets_of(conv, panel, 1);
      torch::stable::parallel_for(0, conv.channels, 8, [&](int64_t c0, int64_t c1) {
        for (int64_t c = c0; c < c1; ++c)
          panel.pack(kernels, images + (n * conv.channels + c) * conv.in_size(), layout, c,
                     x_panel.get());
      });
      std::fill(x_panel.get() + panel.size - kOverrun, x_panel.get() + panel.size, 0.0f);
      const int64_t group_size = conv.group_channels() * panel.phases * panel.plane_size;
      const int64_t step = kRun;
      torch::stable::parallel_for(0, conv.filters, 1, [&](int64_t o0, int64_t o1) {
        for (int64_t p = 0; p < panel.positions; p += step)
          for (int64_t o = o0; o < o1; ++o)
            kernels.dots(rows.length(o), rows.columns_of(o), offsets.data(),
                         lines + o * panel.plane_size + p,
                         x_panel.get() + o / conv.group_filters() * group_size + p,
                         std::min(step, panel.positions - p),
                         dvalues.mutable_data_ptr<float>() + rows.start[o]);
      });
    }

    if (need_x) {
      for (size_t c = 0; c < reverse.size(); ++c)
        reverse[c] = static_cast<int32_t>(static_cast<int64_t>(c / taps) * panel.plane_size -
                                          panel.shift_of(c % taps));
      torch::stable::parallel_for(0, conv.channels, 1, [&](int64_t c0, int64_t c1) {
        const Scratch<float> planes(panel.phases * panel.plane_size);
        for (int64_t c = c0; c < c1; ++c) {
          const float* base =
              lines + c / conv.group_channels() * conv.group_filters() * panel.plane_size;
          for (int64_t phase = 0; phase < panel.phases; ++phase) {
            const int64_t start = transposed->start[c * panel.phases + phase];
            const float* weights[1] = {transposed->values.data() + start};
            kernels.rows(1, transposed->start[c * panel.phases + phase + 1] - start,
                         transposed->col.data() + start, reverse.data(), weights, nullptr, base,
                         panel.plane_size, planes.get() + phase * panel.plane_size,
                         panel.plane_size, kNone);
          }
          panel.unpack(planes.get(),
                       dx.mutable_data_ptr<float>() + (n * conv.channels + c) * conv.in_size(),
                       conv.channels * conv.in_size());
        }
      });
    }
  }
  return {dx, dvalues};
}

}  // namespace sparse_ops
