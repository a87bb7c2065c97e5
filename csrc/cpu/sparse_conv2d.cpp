#include "sparse_conv2d.h"

#include "conv2d.h"
#include "scratch.h"

namespace sparse_ops {
namespace {

// Up to this many output pixels the batch goes into the vectors, if there is enough of it: on small
// images shifted vectors cross many lines' ends. On larger ones turning the images around costs more
// than it gains. Filters that stand alone do one load an addition, and gain more by loads of whole
// cache lines (batch 16 at 0.95, Zen 5, over dense: 16x16 3.7x -> 5.2x, 4x4 2.5x -> 5.4x, but 28x28
// 3.8x -> 3.7x and 56x56 3.5x -> 2.5x) than those that share their columns.
constexpr int64_t kLanesPixelsAlone = 400;
constexpr int64_t kLanesPixelsShared = 100;

// Images in the layout of x: channels last if x is, as torch sees it.
struct Images {
  Tensor tensor;
  bool channels_last;

  explicit Images(const Tensor& t) : tensor(t), channels_last(is_channels_last(t)) {
    if (!channels_last) tensor = as_contiguous(t);
  }

  static bool is_channels_last(const Tensor& t) {
    if (t.dim() != 4 || t.is_contiguous()) return false;
    int64_t expected = 1;
    for (const int d : {1, 3, 2, 0}) {
      if (t.size(d) == 1) continue;
      if (t.stride(d) != expected) return false;
      expected *= t.size(d);
    }
    return true;
  }
};

Tensor checked_images(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.is_cpu() && t.scalar_type() == ScalarType::Float, name,
                  " must be float32 on the CPU");
  return t;
}

Layout layout_of(int64_t channels, int64_t size, bool channels_last) {
  return channels_last ? Layout{channels * size, 1, channels} : Layout{channels * size, size, 1};
}

// What a call writes to, and the residual that it adds, in one layout.
struct Output {
  Tensor y;
  std::optional<Tensor> residual;
  Layout layout;

  Output(const Images& x, const Convolution& conv, const std::optional<Tensor>& added)
      : y(make(x, conv)),
        layout(layout_of(conv.filters, conv.out_size(), x.channels_last)) {
    if (!added) return;
    const Tensor& r = *added;
    STD_TORCH_CHECK(r.dim() == 4 && r.size(0) == conv.batch && r.size(1) == conv.filters &&
                        r.size(2) == conv.rows.out && r.size(3) == conv.columns.out,
                    "residual must be (", conv.batch, ", ", conv.filters, ", ", conv.rows.out, ", ",
                    conv.columns.out, ")");
    checked_images(r, "residual");
    residual = like_y(r, x.channels_last);
  }

  float* data() { return y.mutable_data_ptr<float>(); }
  const float* added() const { return sparse_ops::data(residual); }

 private:
  static Tensor make(const Images& x, const Convolution& conv) {
    if (!x.channels_last)
      return torch::stable::new_empty(x.tensor,
                                      {conv.batch, conv.filters, conv.rows.out, conv.columns.out});
    return from_last(torch::stable::new_empty(
        x.tensor, {conv.batch, conv.rows.out, conv.columns.out, conv.filters}));
  }

  // (N, H, W, C) seen as (N, C, H, W).
  static Tensor from_last(const Tensor& t) {
    return torch::stable::transpose(torch::stable::transpose(t, 2, 3), 1, 2);
  }

  static Tensor like_y(const Tensor& r, bool channels_last) {
    if (!channels_last) return as_contiguous(r);
    const Tensor last = torch::stable::transpose(torch::stable::transpose(r, 1, 2), 2, 3);
    return from_last(as_contiguous(last));
  }
};

void forward(const Job& job) {
  const Convolution& conv = job.conv;
  if (conv.batch == 0) return;
  if (wide_classes(job)) {
    forward_channels(job);
    return;
  }
  const Panel one(conv.rows, conv.columns, conv.channels, 1);
  const bool alone = job.rows.classes >= conv.group_filters();
  const bool fits = one.size < std::numeric_limits<int32_t>::max() / kLanes;
  const bool small = conv.out_size() <= (alone ? kLanesPixelsAlone : kLanesPixelsShared);
  const int64_t grouped = small && fits ? conv.batch / kLanes * kLanes : 0;
  if (grouped) forward_lanes(job, 0, grouped);
  if (grouped < conv.batch) forward_planar(job, grouped, conv.batch);
}

}  // namespace

Tensor row_sparse_conv2d(const RowSparseKernels& kernels, const Tensor& x_, const Tensor& crow_,
                         const Tensor& col_, const Tensor& values_,
                         const std::optional<Tensor>& bias_, const std::optional<Tensor>& residual,
                         const Numbers& shape, const Numbers& stride, const Numbers& padding,
                         const Numbers& dilation, int64_t groups, int64_t activation) {
  const Images x(checked_images(x_, "x"));
  const Tensor values = floats(values_, "values");
  const Tensor crow = indices(crow_, "crow_indices"), col = indices(col_, "col_indices");
  const Convolution conv(x.tensor, shape, stride, padding, dilation, groups);
  const auto bias = floats(bias_, "bias", conv.filters);
  const Rows rows(kernels, crow, col, values, conv.filters, shape[1] * shape[2] * shape[3]);
  Output output(x, conv, residual);
  forward({kernels, conv, rows, data(bias), nullptr, nullptr, activation_from(activation),
           data(x.tensor), layout_of(conv.channels, conv.in_size(), x.channels_last), output.data(),
           output.layout, output.added()});
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
void fill_removed(const Convolution& conv, const std::vector<bool>& kept,
                  const std::vector<float>& constants, const Layout& layout, float* y) {
  std::vector<int64_t> removed;
  for (int64_t o = 0; o < conv.filters; ++o)
    if (!kept[o]) removed.push_back(o);
  torch::stable::parallel_for(0, conv.batch, 1, [&](int64_t n0, int64_t n1) {
    for (int64_t n = n0; n < n1; ++n) {
      float* image = y + n * layout.image;
      if (layout.pixel == 1) {
        for (const int64_t o : removed)
          std::fill_n(image + o * layout.channel, conv.out_size(), constants[o]);
        continue;
      }
      for (int64_t p = 0; p < conv.out_size(); ++p)
        for (const int64_t o : removed) image[p * layout.pixel + o] = constants[o];
    }
  });
}

}  // namespace

Tensor channel_pruned_conv2d(const RowSparseKernels& kernels, const Tensor& x_,
                             const Tensor& values_, const Tensor& out_, const Tensor& in_,
                             const std::optional<Tensor>& bias_,
                             const std::optional<Tensor>& residual, const Numbers& shape,
                             const Numbers& stride, const Numbers& padding, const Numbers& dilation,
                             int64_t activation_number) {
  const Images x(checked_images(x_, "x"));
  const Tensor values = floats(values_, "values");
  const Tensor out = indices(out_, "out_channels"), in = indices(in_, "in_channels");
  const Convolution whole(x.tensor, shape, stride, padding, dilation, 1);
  const auto bias = floats(bias_, "bias", whole.filters);
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
  for (int64_t c = 0; c < I * taps; ++c) col.mutable_data_ptr<int32_t>()[c] = static_cast<int32_t>(c);
  const Rows rows(kernels, crow, col, torch::stable::reshape(values, {-1}), O, I * taps);

  Output output(x, whole, residual);
  // A residual is added to removed channels, too: to all of y, in the end.
  const Activation inner = output.residual ? kNone : activation;
  std::vector<float> kept_bias(O, 0.0f), constants(whole.filters, 0.0f);
  std::vector<bool> kept(whole.filters, false);
  for (int64_t o = 0; o < O; ++o) {
    kept[index_data(out)[o]] = true;
    if (bias) kept_bias[o] = data(bias)[index_data(out)[o]];
  }
  for (int64_t o = 0; o < whole.filters; ++o)
    if (!kept[o]) constants[o] = constant(kernels, bias ? data(bias)[o] : 0.0f, inner);
  fill_removed(whole, kept, constants, output.layout, output.data());
  const bool all_in = I == whole.channels, all_out = O == whole.filters;
  bool in_order = true;
  for (int64_t i = 0; all_in && i < I; ++i) in_order = in_order && index_data(in)[i] == i;
  for (int64_t o = 0; all_out && o < O; ++o) in_order = in_order && index_data(out)[o] == o;
  forward({kernels, conv, rows, kept_bias.data(), all_in && in_order ? nullptr : index_data(in),
           all_out && in_order ? nullptr : index_data(out), inner, data(x.tensor),
           layout_of(whole.channels, whole.in_size(), x.channels_last), output.data(),
           output.layout, nullptr});
  if (const float* added = output.added())
    torch::stable::parallel_for(0, output.y.numel(), 1 << 14, [&](int64_t i0, int64_t i1) {
      kernels.finish(1, i1 - i0, 0, added + i0, output.data() + i0, activation);
    });
  return output.y;
}

}  // namespace sparse_ops
