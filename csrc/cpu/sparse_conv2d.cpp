#include "sparse_conv2d.h"

#include "conv2d.h"
#include "scratch.h"

namespace sparse_ops {
namespace {

void set_images(Job& job, const Images& x, Output& output) {
  job.x = x.data();
  job.in = x.layout();
  job.y = output.data();
  job.out = output.layout;
  job.residual = output.added();
  job.added = output.added_layout();
}

// Up to this many output pixels the batch goes into the vectors, if there is enough of it: on small
// images shifted vectors cross many lines' ends. On larger ones turning the images around costs
// more than it gains, the more so where their channels are not next to each other. Filters that
// stand alone do one load an addition, and gain more by loads of whole cache lines than those that
// share their columns (batch 16 at 0.95, Zen 5, planar / lanes in time: 28x28 1.3 channels last,
// 0.9 else; 56x56 1.03 and 0.65; PSD2_P8 16x16 1.13).
constexpr int64_t kLanesPixelsAlone = 400;
constexpr int64_t kLanesPixelsAloneLast = 1024;
constexpr int64_t kLanesPixelsShared = 256;

void forward(const Job& job) {
  const Convolution& conv = job.conv;
  if (conv.batch == 0) return;
  // Enough pixels for turned weights to pay.
  if (conv.batch * conv.out_size() >= 64 &&
      wide_classes(conv.filters, conv.groups, job.rows.classes)) {
    forward_channels(job);
    return;
  }
  const Panel one(conv.rows, conv.columns, conv.channels, 1);
  const bool alone = job.rows.classes >= conv.group_filters();
  const bool fits = one.size < std::numeric_limits<int32_t>::max() / kLanes;
  const int64_t most = !alone                ? kLanesPixelsShared
                       : job.in.channel == 1 ? kLanesPixelsAloneLast
                                             : kLanesPixelsAlone;
  const bool small = conv.out_size() <= most;
  const int64_t grouped = small && fits ? conv.batch / kLanes * kLanes : 0;
  if (grouped) forward_lanes(job, 0, grouped);
  if (grouped < conv.batch) forward_planar(job, grouped, conv.batch);
}

}  // namespace

Tensor row_sparse_conv2d(const RowSparseKernels& kernels, const Tensor& x_, const Tensor& crow_,
                         const Tensor& col_, const Tensor& values_,
                         const std::optional<Tensor>& bias_, const std::optional<Tensor>& residual,
                         const Numbers& shape, const Numbers& stride, const Numbers& padding,
                         const Numbers& dilation, int64_t groups, int64_t activation,
                         const std::optional<Tensor>& out) {
  const Images x(x_, "x");
  const Tensor values = widened(kernels, values_, "values", x.type);
  const Tensor crow = indices(crow_, "crow_indices"), col = indices(col_, "col_indices");
  const Convolution conv(x.tensor, shape, stride, padding, dilation, groups);
  const auto bias = widened(kernels, bias_, "bias", x.type, conv.filters);
  const Rows rows(kernels, crow, col, values, conv.filters, shape[1] * shape[2] * shape[3]);
  Output output(x, conv.out_shape(), residual, out);
  output.apart_from(crow, "crow_indices");
  output.apart_from(col, "col_indices");
  output.apart_from(values, "values");
  output.apart_from(bias, "bias");
  Job job(kernels, conv, rows);
  set_images(job, x, output);
  job.bias = data(bias);
  job.activation = activation_from(activation);
  forward(job);
  return output.y;
}

namespace {

// What a filter without weights makes of its bias: the kernel says so.
float constant(const RowSparseKernels& kernels, float bias, Activation activation) {
  const Scratch<float> line(kLanes);
  const float* weights[1] = {nullptr};
  kernels.rows(1, 0, nullptr, nullptr, weights, &bias, nullptr, 1, line.get(), kLanes, activation);
  return line.get()[0];
}

// Fills the channels of y that `kept` leaves out, each with its constant.
void fill_removed(const Job& job, const std::vector<bool>& kept,
                  const std::vector<float>& constants) {
  const int64_t pixels = job.conv.out_size();
  std::vector<int64_t> removed;
  std::vector<float> values;
  for (size_t o = 0; o < kept.size(); ++o) {
    if (kept[o]) continue;
    removed.push_back(static_cast<int64_t>(o));
    values.push_back(constants[o]);
  }
  const int64_t count = static_cast<int64_t>(removed.size());
  if (count == 0) return;
  torch::stable::parallel_for(0, job.conv.batch, 1, [&](int64_t n0, int64_t n1) {
    const Scratch<float> line(job.out.pixel == 1 ? pixels : 0);
    for (int64_t n = n0; n < n1; ++n) {
      for (int64_t r = 0; job.out.pixel == 1 && r < count; ++r) {
        std::fill_n(line.get(), pixels, values[r]);
        job.put({n, removed[r], 0}, {}, 1, pixels, line.get(), 0);
      }
      // Some pixels at a time, while they are in cache.
      for (int64_t p = 0; job.out.pixel != 1 && p < pixels; p += kLanes)
        for (int64_t r = 0; r < count; r += kLanes)
          job.scatter({n, 0, p}, std::min(kLanes, pixels - p), removed.data() + r,
                      std::min(kLanes, count - r), values.data() + r, 0);
    }
  });
}

}  // namespace

Tensor channel_pruned_conv2d(const RowSparseKernels& kernels, const Tensor& x_,
                             const Tensor& values_, const Tensor& out_, const Tensor& in_,
                             const std::optional<Tensor>& bias_,
                             const std::optional<Tensor>& residual, const Numbers& shape,
                             const Numbers& stride, const Numbers& padding, const Numbers& dilation,
                             int64_t activation_number, const std::optional<Tensor>& y) {
  const Images x(x_, "x");
  const Tensor values = widened(kernels, values_, "values", x.type);
  const Tensor out = indices(out_, "out_channels"), in = indices(in_, "in_channels");
  const Convolution whole(x.tensor, shape, stride, padding, dilation, 1);
  const auto bias = widened(kernels, bias_, "bias", x.type, whole.filters);
  const Activation activation = activation_from(activation_number);
  check_below(kernels, out, "out_channels", whole.filters);
  check_below(kernels, in, "in_channels", whole.channels);
  const int64_t O = out.numel(), I = in.numel(), taps = whole.taps();
  STD_TORCH_CHECK(O >= 1 && I >= 1, "no channel is left");
  STD_TORCH_CHECK(values.dim() == 4 && values.size(0) == O && values.size(1) == I &&
                      values.size(2) == shape[2] && values.size(3) == shape[3],
                  "values must be (", O, ", ", I, ", ", shape[2], ", ", shape[3], ")");
  Convolution conv = whole;
  conv.channels = I;
  conv.filters = O;

  // Every kept filter keeps every column: one class.
  const Tensor crow = torch::stable::new_empty(out, {2});
  const Tensor col = torch::stable::new_empty(out, {I * taps});
  crow.mutable_data_ptr<int32_t>()[0] = 0;
  crow.mutable_data_ptr<int32_t>()[1] = static_cast<int32_t>(I * taps);
  for (int64_t c = 0; c < I * taps; ++c)
    col.mutable_data_ptr<int32_t>()[c] = static_cast<int32_t>(c);
  const Rows rows(kernels, crow, col, torch::stable::reshape(values, {-1}), O, I * taps);

  Output output(x, whole.out_shape(), residual, y);
  output.apart_from(out, "out_channels");
  output.apart_from(in, "in_channels");
  output.apart_from(values, "values");
  output.apart_from(bias, "bias");
  std::vector<float> kept_bias(O, 0.0f), constants(whole.filters, 0.0f);
  std::vector<bool> kept(whole.filters, false);
  for (int64_t o = 0; o < O; ++o) {
    kept[index_data(out)[o]] = true;
    if (bias) kept_bias[o] = data(bias)[index_data(out)[o]];
  }
  const bool all_in = I == whole.channels, all_out = O == whole.filters;
  bool in_order = true;
  for (int64_t i = 0; all_in && i < I; ++i) in_order = in_order && index_data(in)[i] == i;
  for (int64_t o = 0; all_out && o < O; ++o) in_order = in_order && index_data(out)[o] == o;
  Job job(kernels, conv, rows);
  set_images(job, x, output);
  job.bias = kept_bias.data();
  job.activation = activation;
  if (!(all_in && in_order)) job.in_channels = index_data(in);
  if (!(all_out && in_order)) job.out_channels = index_data(out);
  for (int64_t o = 0; o < whole.filters; ++o)
    if (!kept[o]) constants[o] = constant(kernels, bias ? data(bias)[o] : 0.0f, job.inner());
  fill_removed(job, kept, constants);
  forward(job);
  return output.y;
}

}  // namespace sparse_ops
