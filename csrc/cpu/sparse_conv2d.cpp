#include "sparse_conv2d.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>

#include "panel.h"
#include "scratch.h"

namespace sparse_ops {
namespace {

// Images are taken in chunks whose panel is about this many floats (4 MiB): small enough to stay in a
// shared cache, large enough to keep all threads busy.
constexpr int64_t kChunk = 1 << 20;
// A run of positions is as long as the part of the panel under it fits half of a 1 MiB L2 cache.
constexpr int64_t kSlab = 1 << 17;
// Up to this many output pixels the batch goes into the vectors, if there is enough of it: on small
// images shifted vectors cross many lines' ends. On larger ones turning the images around costs more
// than it gains. Filters that stand alone do one load an addition, and gain more by loads of whole
// cache lines (batch 16 at 0.95, Zen 5, over dense: 16x16 3.7x -> 5.2x, 4x4 2.5x -> 5.4x, but 28x28
// 3.8x -> 3.7x and 56x56 3.5x -> 2.5x) than those that share their columns.
constexpr int64_t kLanesPixelsAlone = 400;
constexpr int64_t kLanesPixelsShared = 100;

// A convolution, its arguments checked.
struct Convolution {
  int64_t batch, channels, height, width, filters, groups;
  Axis rows, columns;

  Convolution(const Tensor& x, const Numbers& shape, const Numbers& stride, const Numbers& padding,
              const Numbers& dilation, int64_t groups)
      : batch(x.dim() == 4 ? x.size(0) : -1),
        channels(batch >= 0 ? x.size(1) : 0),
        height(batch >= 0 ? x.size(2) : 0),
        width(batch >= 0 ? x.size(3) : 0),
        filters(checked(shape, stride, padding, dilation, groups)),
        groups(groups),
        rows(height, shape[2], stride[0], padding[0], dilation[0]),
        columns(width, shape[3], stride[1], padding[1], dilation[1]) {
    STD_TORCH_CHECK(batch >= 0 && channels == shape[1] * groups,
                    "x must be (N, ", shape[1] * groups, ", H, W)");
    STD_TORCH_CHECK(rows.out >= 1 && columns.out >= 1, "x is too small for the kernel");
    const Panel one(rows, columns, channels, 1);
    STD_TORCH_CHECK(std::max(one.size, filters * one.plane_size) < std::numeric_limits<int32_t>::max(),
                    "one padded image must be under 2^31 values");
  }

  static int64_t checked(const Numbers& shape, const Numbers& stride, const Numbers& padding,
                         const Numbers& dilation, int64_t groups) {
    STD_TORCH_CHECK(shape.size() == 4 && stride.size() == 2 && padding.size() == 2 &&
                        dilation.size() == 2,
                    "a convolution has a weight of 4 dimensions, and 2 strides, paddings, dilations");
    bool good = groups >= 1 && shape[0] % groups == 0;
    for (const int64_t s : shape) good = good && s >= 1;
    for (int i = 0; i < 2; ++i)
      good = good && stride[i] >= 1 && padding[i] >= 0 && dilation[i] >= 1;
    STD_TORCH_CHECK(good, "weight shape, stride, padding, dilation or groups out of range");
    return shape[0];
  }

  int64_t in_size() const { return height * width; }
  int64_t out_size() const { return rows.out * columns.out; }
  int64_t group_channels() const { return channels / groups; }
  int64_t group_filters() const { return filters / groups; }

  // The largest number of images per chunk, evened out over all of them.
  int64_t chunk(int64_t planes, int64_t all) const {
    const Panel one(rows, columns, planes, 1);
    const int64_t most = std::clamp<int64_t>(kChunk / one.size, 1, all);
    const int64_t chunks = (all + most - 1) / most;
    return (all + chunks - 1) / chunks;
  }
};

// Which columns each filter keeps, and where its values start.
struct Rows {
  const int32_t* crow;
  const int32_t* col;
  const float* values;
  int64_t classes;
  std::vector<int64_t> start;  // (filters + 1)

  Rows(const Tensor& crow_tensor, const Tensor& col_tensor, const Tensor& values_tensor,
       int64_t filters, int64_t columns)
      : crow(index_data(crow_tensor)),
        col(index_data(col_tensor)),
        values(data(values_tensor)),
        classes(crow_tensor.numel() - 1),
        start(filters + 1) {
    check_pointers(crow_tensor, "crow_indices", col_tensor.numel());
    check_below(col_tensor, "col_indices", columns);
    STD_TORCH_CHECK(classes >= 1 && classes <= filters,
                    "crow_indices must be for 1 to ", filters, " classes, got ", classes);
    for (int64_t o = 0; o < filters; ++o) start[o + 1] = start[o] + length(o);
    STD_TORCH_CHECK(values_tensor.dim() == 1 && values_tensor.numel() == start[filters],
                    "values must be (", start[filters], "), got ", values_tensor.numel());
  }

  const int32_t* columns_of(int64_t o) const { return col + crow[o % classes]; }
  int64_t length(int64_t o) const { return crow[o % classes + 1] - crow[o % classes]; }
};

// Up to kMaxRows filters of one group that keep the same columns.
struct Block {
  int64_t filter[kMaxRows];
  int count;
};

std::vector<Block> blocks_of(int64_t filters, int64_t groups, int64_t classes, int max_rows) {
  std::vector<Block> blocks;
  const int64_t per_group = filters / groups;
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t c = 0; c < std::min(classes, filters); ++c) {
      int64_t o = g * per_group + ((c - g * per_group) % classes + classes) % classes;
      const int64_t end = (g + 1) * per_group;
      int64_t left = o < end ? (end - o + classes - 1) / classes : 0;
      while (left > 0) {
        Block block;
        block.count = max_rows;
        while (block.count > left) block.count /= 2;
        for (int i = 0; i < block.count; ++i, o += classes) block.filter[i] = o;
        left -= block.count;
        blocks.push_back(block);
      }
    }
  return blocks;
}

// What one call of compute() needs to know; pointers are to checked data.
struct Job {
  const RowSparseKernels& kernels;
  const Convolution& conv;
  const Rows& rows;
  const std::vector<Block>& blocks;
  const float* bias;           // by filter of `rows`, or null
  const int32_t* out_channels; // of each filter, or null: the filter's own number
  Activation activation;
  float* y;
  int64_t y_channels;
};

int64_t run_length(const Panel& panel) {
  const int64_t reach = panel.rows.reach * panel.pitch() + panel.columns.reach;
  const int64_t fits = kSlab / std::max<int64_t>(1, panel.channels * panel.phases) - reach;
  // Multiples of the tiles of 1, 4 and 8 rows.
  if (fits >= 672) return fits / 672 * 672;
  return std::max<int64_t>(96, fits / 96 * 96);
}

// All filters over one run of positions, for the blocks [first, last).
void compute(const Job& job, const Panel& panel, const float* base, const int32_t* offsets,
             int64_t from, int64_t to, int64_t first, int64_t last, int64_t image0, float* buffer,
             int64_t ld) {
  const Convolution& conv = job.conv;
  const std::vector<Segment> runs = segments(panel, from, to);
  const int64_t group_size = conv.group_channels() * panel.phases * panel.plane_size;
  for (int64_t b = first; b < last; ++b) {
    const Block& block = job.blocks[b];
    const float* weights[kMaxRows];
    float bias[kMaxRows];
    for (int i = 0; i < block.count; ++i) {
      weights[i] = job.rows.values + job.rows.start[block.filter[i]];
      bias[i] = job.bias ? job.bias[block.filter[i]] : 0.0f;
    }
    const int64_t o = block.filter[0];
    job.kernels.rows(block.count, job.rows.length(o), job.rows.columns_of(o), offsets, weights,
                     bias, base + o / conv.group_filters() * group_size + from, to - from, buffer,
                     ld, job.activation);
    for (int i = 0; i < block.count; ++i) {
      const int64_t channel =
          job.out_channels ? job.out_channels[block.filter[i]] : block.filter[i];
      const float* line = buffer + i * ld - from;
      for (const Segment& run : runs)
        job.kernels.copy(run.lines, run.length, line + run.position, panel.pitch(),
                         job.y +
                             ((image0 + run.image) * job.y_channels + channel) * conv.out_size() +
                             run.pixel,
                         conv.columns.out, 0);
    }
  }
}

// Into how many parts the blocks of filters are cut, so that threads get equal shares: work is dealt out
// beforehand, so with few pieces a thread more or less waits for the others.
int64_t parts_for(int64_t pieces, int64_t blocks, int64_t threads) {
  if (threads == 1 || pieces >= 8 * threads) return 1;
  return std::min(blocks, (8 * threads + pieces - 1) / pieces);
}

void fill_offsets(const Panel& panel, int64_t scale, std::vector<int32_t>& offsets) {
  for (size_t c = 0; c < offsets.size(); ++c)
    offsets[c] = static_cast<int32_t>(panel.offset(c / panel.taps(), c % panel.taps()) * scale);
}

// Images [from, to), chunk after chunk. `in_channels` are those of x to read, or null for all.
void forward_chunks(const Job& job, const float* x, int64_t x_channels, const int32_t* in_channels,
                    int64_t from, int64_t to) {
  const Convolution& conv = job.conv;
  const int64_t chunk = conv.chunk(conv.channels, to - from);
  const Scratch<float> scratch(Panel(conv.rows, conv.columns, conv.channels, chunk).size);
  std::vector<int32_t> offsets(conv.group_channels() * conv.rows.kernel * conv.columns.kernel);
  const int64_t threads = torch::stable::get_num_threads();

  for (int64_t n = from; n < to; n += chunk) {
    const Panel panel(conv.rows, conv.columns, conv.channels, std::min(chunk, to - n));
    fill_offsets(panel, 1, offsets);
    torch::stable::parallel_for(0, conv.channels, 8, [&](int64_t c0, int64_t c1) {
      for (int64_t c = c0; c < c1; ++c) {
        const int64_t source = in_channels ? in_channels[c] : c;
        panel.pack(job.kernels, x + (n * x_channels + source) * conv.in_size(),
                   x_channels * conv.in_size(), c, scratch.get());
      }
    });
    std::fill(scratch.get() + panel.size - kOverrun, scratch.get() + panel.size, 0.0f);

    const int64_t length = std::min(run_length(panel), panel.positions);
    const int64_t runs = (panel.positions + length - 1) / length;
    const int64_t count = static_cast<int64_t>(job.blocks.size());
    const int64_t parts = parts_for(runs, count, threads);
    const int64_t ld = (length + 15) / 16 * 16;
    torch::stable::parallel_for(0, runs * parts, 1, [&](int64_t i0, int64_t i1) {
      const Scratch<float> buffer(kMaxRows * ld);
      for (int64_t i = i0; i < i1; ++i) {
        const int64_t run = i / parts, part = i % parts;
        compute(job, panel, scratch.get(), offsets.data(), run * length,
                std::min(panel.positions, (run + 1) * length), count * part / parts,
                count * (part + 1) / parts, n, buffer.get(), ld);
      }
    });
  }
}

// A rectangle of output pixels whose part of the panel stays in the L2 cache.
struct Rectangle {
  int64_t lines, width;

  Rectangle(const Panel& panel) : lines(panel.rows.out), width(panel.columns.out) {
    const int64_t planes = panel.channels * panel.phases * kLanes;
    const auto fits = [&](int64_t l, int64_t w) {
      return planes * (l + panel.rows.reach) * (w + panel.columns.reach) <= kSlab;
    };
    // Widths that tiles divide; at least one tile, whether it fits or not.
    if (!fits(4, width))
      for (const int64_t w : {56, 28, 32, 16, 14})
        if (panel.columns.out % w == 0 && w < width) {
          width = w;
          if (fits(4, w)) break;
        }
    while (lines > 4 && !fits(lines, width)) lines = (lines + 1) / 2;
  }
};

// One block of filters over a rectangle of output pixels of kLanes images, to buffer (filters, lines,
// width, kLanes).
void compute_lanes(const Job& job, const Block& block, const float* base, int64_t pitch,
                   const int32_t* offsets, int64_t lines, int64_t width, float* buffer) {
  const float* weights[kMaxRows];
  float bias[kMaxRows];
  for (int i = 0; i < block.count; ++i) {
    weights[i] = job.rows.values + job.rows.start[block.filter[i]];
    bias[i] = job.bias ? job.bias[block.filter[i]] : 0.0f;
  }
  const int64_t o = block.filter[0], k = job.rows.length(o);
  const int32_t* columns = job.rows.columns_of(o);
  if (block.count == 1) {
    job.kernels.pixels(lines, width, k, columns, offsets, weights[0], bias[0], base, pitch, buffer,
                       job.activation);
    return;
  }
  for (int64_t l = 0; l < lines; ++l)
    job.kernels.rows(block.count, k, columns, offsets, weights, bias, base + l * pitch,
                     width * kLanes, buffer + l * width * kLanes, lines * width * kLanes,
                     job.activation);
}

// Groups of kLanes images from `from` on, the batch innermost.
void forward_lanes(const Job& job, const float* x, int64_t x_channels, const int32_t* in_channels,
                   int64_t from, int64_t to) {
  const Convolution& conv = job.conv;
  const Panel panel(conv.rows, conv.columns, conv.channels, 1);
  const int64_t size = conv.channels * panel.phases * panel.plane_size * kLanes;
  const Scratch<float> scratch(size + kOverrun);
  std::fill(scratch.get() + size, scratch.get() + size + kOverrun, 0.0f);
  std::vector<int32_t> offsets(conv.group_channels() * panel.taps());
  fill_offsets(panel, kLanes, offsets);
  const int64_t group_size = conv.group_channels() * panel.phases * panel.plane_size * kLanes;
  const int64_t pitch = panel.pitch() * kLanes, threads = torch::stable::get_num_threads();
  const Rectangle rectangle(panel);
  const int64_t down = (conv.rows.out + rectangle.lines - 1) / rectangle.lines;
  const int64_t across = (conv.columns.out + rectangle.width - 1) / rectangle.width;
  const int64_t count = static_cast<int64_t>(job.blocks.size());
  const int64_t parts = parts_for(down * across, count, threads);
  const int64_t image_step = job.y_channels * conv.out_size();

  for (int64_t n = from; n < to; n += kLanes) {
    torch::stable::parallel_for(0, conv.channels, 4, [&](int64_t c0, int64_t c1) {
      for (int64_t c = c0; c < c1; ++c) {
        const int64_t source = in_channels ? in_channels[c] : c;
        panel.pack_lanes(job.kernels, x + (n * x_channels + source) * conv.in_size(),
                         x_channels * conv.in_size(), c, scratch.get());
      }
    });
    torch::stable::parallel_for(0, down * across * parts, 1, [&](int64_t i0, int64_t i1) {
      const Scratch<float> buffer(kMaxRows * rectangle.lines * rectangle.width * kLanes);
      for (int64_t i = i0; i < i1; ++i) {
        const int64_t part = i % parts, cell = i / parts;
        const int64_t y0 = cell / across * rectangle.lines, x0 = cell % across * rectangle.width;
        const int64_t lines = std::min(rectangle.lines, conv.rows.out - y0);
        const int64_t width = std::min(rectangle.width, conv.columns.out - x0);
        for (int64_t b = count * part / parts; b < count * (part + 1) / parts; ++b) {
          const Block& block = job.blocks[b];
          const float* base = scratch.get() +
                              block.filter[0] / conv.group_filters() * group_size + y0 * pitch +
                              x0 * kLanes;
          compute_lanes(job, block, base, pitch, offsets.data(), lines, width, buffer.get());
          for (int f = 0; f < block.count; ++f) {
            const int64_t channel =
                job.out_channels ? job.out_channels[block.filter[f]] : block.filter[f];
            const float* done = buffer.get() + f * lines * width * kLanes;
            float* y = job.y + (n * job.y_channels + channel) * conv.out_size() +
                       y0 * conv.columns.out + x0;
            const bool whole = width == conv.columns.out;
            for (int64_t l = 0; l < (whole ? 1 : lines); ++l)
              job.kernels.separate(whole ? lines * width : width, done + l * width * kLanes,
                                   y + l * conv.columns.out, image_step);
          }
        }
      }
    });
  }
}

// `in_channels` are those of x to read, or null for all.
void forward(const Job& job, const float* x, int64_t x_channels, const int32_t* in_channels) {
  const Convolution& conv = job.conv;
  const Panel one(conv.rows, conv.columns, conv.channels, 1);
  const bool alone = job.blocks.size() == static_cast<size_t>(conv.filters);
  const bool fits = one.size < std::numeric_limits<int32_t>::max() / kLanes;
  const bool small = conv.out_size() <= (alone ? kLanesPixelsAlone : kLanesPixelsShared);
  const int64_t grouped = small && fits ? conv.batch / kLanes * kLanes : 0;
  if (grouped) forward_lanes(job, x, x_channels, in_channels, 0, grouped);
  if (grouped < conv.batch) forward_chunks(job, x, x_channels, in_channels, grouped, conv.batch);
}

// The transpose of the kept weights: for each input channel and phase, the (filter, tap) that reach it.
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

Tensor row_sparse_conv2d(const RowSparseKernels& kernels, const Tensor& x_, const Tensor& crow_,
                         const Tensor& col_, const Tensor& values_,
                         const std::optional<Tensor>& bias_, const Numbers& shape,
                         const Numbers& stride, const Numbers& padding, const Numbers& dilation,
                         int64_t groups, int64_t activation) {
  const Tensor x = floats(x_, "x"), values = floats(values_, "values");
  const Tensor crow = indices(crow_, "crow_indices"), col = indices(col_, "col_indices");
  const Convolution conv(x, shape, stride, padding, dilation, groups);
  const auto bias = floats(bias_, "bias", conv.filters);
  const Rows rows(crow, col, values, conv.filters, shape[1] * shape[2] * shape[3]);
  Tensor y = torch::stable::new_empty(x, {conv.batch, conv.filters, conv.rows.out, conv.columns.out});
  const auto blocks = blocks_of(conv.filters, groups, rows.classes, kernels.max_rows);
  forward({kernels, conv, rows, blocks, data(bias), nullptr, activation_from(activation),
           y.mutable_data_ptr<float>(), conv.filters},
          data(x), conv.channels, nullptr);
  return y;
}

Tensor channel_pruned_conv2d(const RowSparseKernels& kernels, const Tensor& x_,
                             const Tensor& values_, const Tensor& out_, const Tensor& in_,
                             const std::optional<Tensor>& bias_, const Numbers& shape,
                             const Numbers& stride, const Numbers& padding, const Numbers& dilation,
                             int64_t activation) {
  const Tensor x = floats(x_, "x"), values = floats(values_, "values");
  const Tensor out = indices(out_, "out_channels"), in = indices(in_, "in_channels");
  const Convolution whole(x, shape, stride, padding, dilation, 1);
  const auto bias = floats(bias_, "bias", whole.filters);
  check_below(out, "out_channels", whole.filters);
  check_below(in, "in_channels", whole.channels);
  const int64_t O = out.numel(), I = in.numel(), taps = shape[2] * shape[3];
  STD_TORCH_CHECK(O >= 1 && I >= 1, "no channel is left");
  STD_TORCH_CHECK(values.dim() == 4 && values.size(0) == O && values.size(1) == I &&
                      values.size(2) == shape[2] && values.size(3) == shape[3],
                  "values must be (", O, ", ", I, ", ", shape[2], ", ", shape[3], ")");
  Convolution conv = whole;
  conv.channels = I;
  conv.filters = O;

  // Every kept filter keeps every column: one class.
  const Tensor crow = torch::stable::new_empty(out, {2}), col = torch::stable::new_empty(out, {I * taps});
  crow.mutable_data_ptr<int32_t>()[0] = 0;
  crow.mutable_data_ptr<int32_t>()[1] = static_cast<int32_t>(I * taps);
  for (int64_t c = 0; c < I * taps; ++c) col.mutable_data_ptr<int32_t>()[c] = static_cast<int32_t>(c);
  const Rows rows(crow, col, torch::stable::reshape(values, {-1}), O, I * taps);

  Tensor y = torch::stable::new_empty(
      x, {whole.batch, whole.filters, whole.rows.out, whole.columns.out});
  float* yd = y.mutable_data_ptr<float>();
  std::vector<float> kept_bias(O, 0.0f), removed(whole.filters, 0.0f);
  std::vector<bool> kept(whole.filters, false);
  for (int64_t o = 0; o < O; ++o) {
    kept[index_data(out)[o]] = true;
    if (bias) kept_bias[o] = data(bias)[index_data(out)[o]];
  }
  // A removed filter is its bias, activated: the kernel says so for a row without weights.
  const Activation act = activation_from(activation);
  for (int64_t o = 0; o < whole.filters; ++o) {
    if (kept[o]) continue;
    Scratch<float> line(16);
    const float* weights[1] = {nullptr};
    const float b = bias ? data(bias)[o] : 0.0f;
    kernels.rows(1, 0, nullptr, nullptr, weights, &b, nullptr, 1, line.get(), 16, act);
    removed[o] = line.get()[0];
  }
  torch::stable::parallel_for(0, whole.batch * whole.filters, 64, [&](int64_t i0, int64_t i1) {
    for (int64_t i = i0; i < i1; ++i)
      if (!kept[i % whole.filters])
        std::fill(yd + i * whole.out_size(), yd + (i + 1) * whole.out_size(),
                  removed[i % whole.filters]);
  });
  const auto blocks = blocks_of(O, 1, 1, kernels.max_rows);
  forward({kernels, conv, rows, blocks, kept_bias.data(), index_data(out), act, yd, whole.filters},
          data(x), whole.channels, index_data(in));
  return y;
}

std::tuple<Tensor, Tensor> row_sparse_conv2d_backward(
    const RowSparseKernels& kernels, const Tensor& dy_, const Tensor& x_, const Tensor& crow_,
    const Tensor& col_, const Tensor& values_, const Numbers& shape, const Numbers& stride,
    const Numbers& padding, const Numbers& dilation, int64_t groups, bool need_x,
    bool need_values) {
  const Tensor dy = floats(dy_, "dy"), x = floats(x_, "x"), values = floats(values_, "values");
  const Tensor crow = indices(crow_, "crow_indices"), col = indices(col_, "col_indices");
  const Convolution conv(x, shape, stride, padding, dilation, groups);
  const Rows rows(crow, col, values, conv.filters, shape[1] * shape[2] * shape[3]);
  STD_TORCH_CHECK(dy.dim() == 4 && dy.size(0) == conv.batch && dy.size(1) == conv.filters &&
                      dy.size(2) == conv.rows.out && dy.size(3) == conv.columns.out,
                  "dy must be (", conv.batch, ", ", conv.filters, ", ", conv.rows.out, ", ",
                  conv.columns.out, ")");
  Tensor dx = need_x ? torch::stable::empty_like(x) : torch::stable::new_empty(x, {0});
  Tensor dvalues = torch::stable::new_zeros(values, {need_values ? values.numel() : 0});
  if (conv.batch == 0) return {dx, dvalues};

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
  std::vector<int32_t> offsets(conv.group_channels() * taps), reverse(conv.group_filters() * taps);

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
      for (size_t c = 0; c < offsets.size(); ++c)
        offsets[c] = static_cast<int32_t>(panel.offset(c / taps, c % taps));
      torch::stable::parallel_for(0, conv.channels, 8, [&](int64_t c0, int64_t c1) {
        for (int64_t c = c0; c < c1; ++c)
          panel.pack(kernels, data(x) + (n * conv.channels + c) * conv.in_size(),
                     conv.channels * conv.in_size(), c, x_panel.get());
      });
      std::fill(x_panel.get() + panel.size - kOverrun, x_panel.get() + panel.size, 0.0f);
      const int64_t group_size = conv.group_channels() * panel.phases * panel.plane_size;
      const int64_t step = run_length(panel);
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
