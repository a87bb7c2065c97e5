// Convolutions as steps: what is asked for, checked, and which way it is run.
#include "conv.h"

#include <algorithm>

namespace sparse_ops {
namespace program {
namespace {

constexpr int64_t kAttributes = 15;
// Sizes beyond it could not be.
constexpr int64_t kMost = int64_t{1} << 24;

int64_t checked(int64_t number, int64_t least, const char* name) {
  STD_TORCH_CHECK(number >= least && number < kMost, "a convolution's ", name, " must be ", least,
                  " to ", kMost - 1, ", got ", number);
  return number;
}

const Tensor& needed(const Parts& parts, size_t place, const char* name) {
  STD_TORCH_CHECK(place < parts.constants.size() && parts.constants[place],
                  "the step needs its constant ", name);
  return *parts.constants[place];
}

std::vector<int32_t> copied(const Tensor& t, const char* name) {
  const Tensor own = indices(t, name);
  return {index_data(own), index_data(own) + own.numel()};
}

}  // namespace

Activation activation_of(const Parts& parts, int64_t number) {
  if (number != kFusedPReLU) return activation_from(number);
  const Tensor slope = floats(needed(parts, parts.constants.size() - 1, "slope"), "slope");
  STD_TORCH_CHECK(slope.numel() == 1, "slope must have 1 value, got ", slope.numel());
  return {kLeakyReLU, *data(slope)};
}

Weights::Weights(const Parts& parts, Form form, int64_t filters, int64_t columns, bool classes)
    : form(form) {
  const std::vector<const Tensor*>& given = parts.constants;
  const size_t count = form == kRows ? 4 : 2;
  // Behind them there may be a slope.
  STD_TORCH_CHECK(given.size() <= count + 1, "the step has ", given.size(), " constants, at most ",
                  count + 1, " are known");
  if (given.size() >= count && given[count - 1]) bias = floats(*given[count - 1], "bias", filters);
  if (form == kDense) {
    values = floats(needed(parts, 0, "weight"), "weight");
    STD_TORCH_CHECK(values->numel() / columns == filters && values->numel() % columns == 0,
                    "weight must have ", filters, " x ", columns, " values, got ", values->numel());
    return;
  }
  bool none = true;
  for (size_t i = 0; i < std::min<size_t>(3, given.size()); ++i) none = none && !given[i];
  if (none) {
    crow.assign(classes ? 2 : filters + 1, 0);
    return;
  }
  crow = copied(needed(parts, 0, "crow_indices"), "crow_indices");
  col = copied(needed(parts, 1, "col_indices"), "col_indices");
  values = floats(needed(parts, 2, "values"), "values");
  STD_TORCH_CHECK(!crow.empty(), "crow_indices must not be empty");
  const int64_t kept = static_cast<int64_t>(col.size()), of = static_cast<int64_t>(crow.size()) - 1;
  STD_TORCH_CHECK(classes ? of >= 1 && of <= filters : of == filters, "crow_indices must be for ",
                  classes ? "1 to " : "", filters, " rows, got ", of);
  bool good = crow[0] == 0 && crow[of] == kept;
  for (int64_t i = 0; good && i < of; ++i) good = crow[i] <= crow[i + 1];
  STD_TORCH_CHECK(good, "crow_indices must go from 0 to ", kept, " and never fall");
  STD_TORCH_CHECK(all_below(parts.kernels, col.data(), kept, columns),
                  "col_indices must be in [0, ", columns, ")");
  int64_t all = 0;
  for (int64_t c = 0; c < of; ++c) all += (crow[c + 1] - crow[c]) * ((filters - c + of - 1) / of);
  STD_TORCH_CHECK(values->numel() == all, "values must be ", all, ", got ", values->numel());
}

Layer::Layer(const Parts& parts) : kernels(parts.kernels) {
  const std::vector<int64_t>& a = parts.attributes;
  STD_TORCH_CHECK(static_cast<int64_t>(a.size()) == kAttributes, "a convolution has ", kAttributes,
                  " attributes, got ", a.size());
  STD_TORCH_CHECK(a[0] == kRows || a[0] == kDense, "a convolution's form is 0 or 1, got ", a[0]);
  form = static_cast<Form>(a[0]);
  filters = checked(a[1], 1, "out_channels");
  channels = checked(a[2], 1, "in_channels");
  for (int d = 0; d < 2; ++d) {
    kernel[d] = checked(a[3 + d], 1, "kernel");
    stride[d] = checked(a[5 + d], 1, "stride");
    padding[d] = checked(a[7 + d], 0, "padding");
    dilation[d] = checked(a[9 + d], 1, "dilation");
  }
  groups = checked(a[11], 1, "groups");
  STD_TORCH_CHECK(channels % groups == 0 && filters % groups == 0, "groups must divide ", channels,
                  " and ", filters, " channels, got ", groups);
  STD_TORCH_CHECK(kernel[0] * kernel[1] < kMost && columns() < std::numeric_limits<int32_t>::max(),
                  "a convolution must keep under 2^31 columns");
  activation = activation_of(parts, a[12]);
  STD_TORCH_CHECK(a[13] == 0 || a[13] == 1, "residual is 0 or 1, got ", a[13]);
  residual = a[13] == 1;
  STD_TORCH_CHECK(a[14] >= kAuto && a[14] <= kTilesOfFour, "no kernel has the number ", a[14]);
  way = static_cast<Way>(a[14]);
}

TurnedWeights::TurnedWeights(const Layer& layer, const Weights& weights)
    : units((layer.filters + kLanes - 1) / kLanes),
      // A line apart from a multiple of the cache's ways.
      step((layer.columns() + 1) * kLanes),
      values(units * step),
      bias(units * kLanes) {
  const int64_t taps = layer.taps(), columns = layer.columns(), channels = layer.group_channels();
  const float* from = data(weights.values);
  if (weights.bias) std::copy_n(data(*weights.bias), layer.filters, bias.get());
  torch::stable::parallel_for(0, units, 1, [&](int64_t u0, int64_t u1) {
    for (int64_t u = u0; u < u1; ++u) {
      const int64_t filters = std::min(kLanes, layer.filters - u * kLanes);
      float* to = values.get() + u * step;
      for (int64_t block = 0; block < channels; block += kLanes)
        for (int64_t t = 0; t < taps; ++t)
          for (int64_t c = block; c < std::min(channels, block + kLanes); ++c, to += kLanes)
            for (int64_t i = 0; i < filters; ++i)
              to[i] = from[(u * kLanes + i) * columns + c * taps + t];
    }
  });
}

std::shared_ptr<const TurnedWeights> Shared::turned() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!turned_) {
    turned_ = std::make_shared<const TurnedWeights>(layer, weights);
    weights.values.reset();
  }
  return turned_;
}

std::shared_ptr<const WinogradWeights> Shared::winograd(Order order, int64_t side) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::shared_ptr<const WinogradWeights>& made = winograd_[side];
  if (!made)
    made = std::make_shared<const WinogradWeights>(layer, weights, turned_.get(), order, side);
  return made;
}

void clear_around(const Spec& spec, float* inside, int64_t top, int64_t end) {
  if (spec.halo == 0) return;
  const int64_t line = spec.line(), width = spec.shape.w * spec.lanes();
  const int64_t side = spec.halo * spec.lanes();
  if (top == 0) std::fill(inside - spec.halo * line - side, inside - side, 0.0f);
  for (int64_t l = top; l < end; ++l) {
    float* first = inside + l * line;
    std::fill(first - side, first, 0.0f);
    std::fill(first + width, first + width + side, 0.0f);
  }
  if (end == spec.shape.h)
    std::fill(inside + end * line - side, inside + (end + spec.halo) * line - side, 0.0f);
}

namespace {

const char* name_of(Order order) {
  return order == kPlanar ? "PLANAR" : order == kChannels ? "CHANNELS" : "IMAGES";
}

class Conv : public Step {
 public:
  explicit Conv(Whole conv) : conv_(std::move(conv)) {}

  Shape infer(const std::vector<Shape>& in) const override {
    const Layer& l = conv_->layer;
    const size_t wanted = l.residual ? 2 : 1;
    STD_TORCH_CHECK(in.size() == wanted, "a convolution ", l.residual ? "with" : "without",
                    " residual has ", wanted, " inputs, got ", in.size());
    STD_TORCH_CHECK(in[0].rank == 4 && in[0].c == l.channels, "x must be (N, ", l.channels,
                    ", H, W), got rank ", in[0].rank, " with ", in[0].c, " channels");
    const int64_t reach[2] = {l.dilation[0] * (l.kernel[0] - 1) + 1,
                              l.dilation[1] * (l.kernel[1] - 1) + 1};
    STD_TORCH_CHECK(
        in[0].h + 2 * l.padding[0] >= reach[0] && in[0].w + 2 * l.padding[1] >= reach[1], "x of ",
        in[0].h, " x ", in[0].w, " is too small for the kernel");
    const Shape out = {4, in[0].n, l.filters, l.out(in[0].h, 0), l.out(in[0].w, 1)};
    if (l.residual)
      STD_TORCH_CHECK(in[1].rank == 4 && in[1].n == out.n && in[1].c == out.c && in[1].h == out.h &&
                          in[1].w == out.w,
                      "residual must be (", out.n, ", ", out.c, ", ", out.h, ", ", out.w,
                      "), got (", in[1].n, ", ", in[1].c, ", ", in[1].h, ", ", in[1].w, ")");
    return out;
  }

  std::unique_ptr<Ready> ready(const std::vector<Spec>& in, const Spec& out) const override {
    const Layer& l = conv_->layer;
    const Spec* added = l.residual ? &in[1] : nullptr;
    STD_TORCH_CHECK(!added || added->order == out.order, "the residual is ",
                    name_of(added ? added->order : out.order), ", the output ", name_of(out.order));
    if (in[0].order != kPlanar) {
      const int64_t padding = std::max(l.padding[0], l.padding[1]);
      STD_TORCH_CHECK(in[0].halo >= padding, "a convolution padded by ", padding,
                      " needs such a halo around x, which has ", in[0].halo);
      const int64_t most = std::numeric_limits<int32_t>::max();
      STD_TORCH_CHECK(in[0].block() < most, "a block of x must be under 2^31 values");
    }
    const bool same = in[0].order == out.order && out.order != kPlanar;
    if (const int64_t side = same ? winograd_side(l, out) : 0)
      return ready_winograd(conv_, in[0], out, side);
    if (in[0].order == kImages && out.order == kImages)
      return ready_images(conv_, in[0], out, added);
    if (in[0].order == kPlanar && out.order == kPlanar) return ready_rows(conv_, in[0], out, added);
    STD_TORCH_CHECK(out.order == kChannels && in[0].order != kImages,
                    "there is no convolution from ", name_of(in[0].order), " to ",
                    name_of(out.order));
    STD_TORCH_CHECK(l.form == kDense, "convolutions to CHANNELS are of the form DENSE");
    if (in[0].order == kChannels && l.depthwise()) return ready_depthwise(conv_, in[0], out, added);
    STD_TORCH_CHECK(l.groups == 1 || l.group_filters() % kLanes == 0,
                    "to CHANNELS, groups have a multiple of ", kLanes,
                    " filters, or each channel is "
                    "one; got ",
                    l.group_filters(), " filters in each of ", l.groups);
    return in[0].order == kChannels ? ready_channels(conv_, in[0], out, added)
                                    : ready_planar_to_channels(conv_, in[0], out, added);
  }

 private:
  Whole conv_;
};

}  // namespace

std::unique_ptr<Step> make_conv(const Parts& parts) {
  const Layer layer(parts);
  Weights weights(parts, layer.form, layer.filters, layer.columns(), true);
  return std::make_unique<Conv>(std::make_shared<const Shared>(layer, std::move(weights)));
}

}  // namespace program
}  // namespace sparse_ops
