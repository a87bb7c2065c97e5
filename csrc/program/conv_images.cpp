// Convolutions in IMAGES order, sparse or dense: filters in groups that read the same columns.
#include <algorithm>
#include <map>
#include <set>

#include "../cpu/blocked_conv.h"
#include "../cpu/second_cache.h"
#include "conv.h"

namespace sparse_ops {
namespace program {
namespace {

// What a weight costs in a group, as a part of what it costs alone (ResNet-18's layers, Zen 5: 105
// and 45 GMAC/s).
constexpr double kSharedCost = 0.45;

// Filters in the kernel's order, as Groups has them; columns among all input channels.
struct Grouped {
  std::vector<int32_t> starts{0}, rows, filters, columns;
  std::vector<float> values;

  Grouped(const Layer& layer, const Weights& weights) : layer_(layer), weights_(weights) {
    for (int64_t f = 0; f < layer.filters; ++f) firsts_.push_back(values_before(f));
    for (int64_t g = 0; g < layer.groups; ++g) add_group(g * layer.group_filters());
  }

 private:
  using Filters = std::vector<int64_t>;

  int64_t count_of(int64_t f) const {
    if (weights_.form == kDense) return layer_.columns();
    const int64_t c = f % weights_.classes();
    return weights_.crow[c + 1] - weights_.crow[c];
  }
  int64_t values_before(int64_t f) const {
    if (firsts_.empty()) return 0;
    return firsts_.back() + count_of(f - 1);
  }
  int32_t column(int64_t f, int64_t j) const {
    if (weights_.form == kDense) return static_cast<int32_t>(j);
    return weights_.col[weights_.crow[f % weights_.classes()] + j];
  }
  std::vector<int32_t> columns_of(int64_t f) const {
    std::vector<int32_t> all(count_of(f));
    for (size_t j = 0; j < all.size(); ++j) all[j] = column(f, static_cast<int64_t>(j));
    return all;
  }

  // Filters of the group that begins with `first`, those of equal columns together.
  std::vector<Filters> alike(int64_t first) const {
    std::vector<Filters> found;
    if (weights_.form == kDense) {
      found.emplace_back();
      for (int64_t i = 0; i < layer_.group_filters(); ++i) found[0].push_back(first + i);
      return found;
    }
    // By class, and classes by columns.
    std::map<int64_t, size_t> of_class;
    std::map<std::vector<int32_t>, size_t> of_columns;
    for (int64_t f = first; f < first + layer_.group_filters(); ++f) {
      const int64_t c = f % weights_.classes();
      auto known = of_class.find(c);
      if (known == of_class.end()) {
        const auto place = of_columns.emplace(columns_of(f), found.size());
        if (place.second) found.emplace_back();
        known = of_class.emplace(c, place.first->second).first;
      }
      found[known->second].push_back(f);
    }
    return found;
  }

  void add_group(int64_t first) {
    const int64_t most = layer_.kernels.max_rows;
    Filters alone;
    for (const Filters& same : alike(first)) {
      // In as few parts as it takes, of equal size or nearly.
      const int64_t count = static_cast<int64_t>(same.size()), parts = (count + most - 1) / most;
      for (int64_t p = 0, from = 0; p < parts; ++p) {
        const int64_t size = count / parts + (p < count % parts);
        if (size == 1)
          alone.push_back(same[from]);
        else
          add(Filters(same.begin() + from, same.begin() + from + size), columns_of(same[from]));
        from += size;
      }
    }
    std::sort(alone.begin(), alone.end());
    for (size_t at = 0; at < alone.size(); at += most) {
      const Filters some(alone.begin() + at, alone.begin() + std::min(alone.size(), at + most));
      std::vector<int32_t> kept;
      for (const int64_t f : some) {
        const std::vector<int32_t> own = columns_of(f);
        kept.insert(kept.end(), own.begin(), own.end());
      }
      const double apart = static_cast<double>(kept.size());
      std::sort(kept.begin(), kept.end());
      kept.erase(std::unique(kept.begin(), kept.end()), kept.end());
      const double together = static_cast<double>(kept.size()) * most * kSharedCost;
      if (static_cast<int64_t>(some.size()) == most && together < apart)
        add(some, kept);
      else
        for (const int64_t f : some) add({f}, columns_of(f));
    }
  }

  void add(const Filters& together, const std::vector<int32_t>& kept) {
    const int64_t group = together[0] / layer_.group_filters() * layer_.columns();
    const size_t first = values.size(), count = together.size();
    values.resize(first + kept.size() * count, 0.0f);
    const float* from = data(weights_.values);
    for (size_t i = 0; i < count; ++i) {
      const int64_t f = together[i], own = count_of(f);
      filters.push_back(static_cast<int32_t>(f));
      // Mostly the same columns, in the same order.
      size_t place = 0;
      for (int64_t j = 0; j < own; ++j) {
        const int32_t c = column(f, j);
        if (place >= kept.size() || kept[place] != c)
          place = std::lower_bound(kept.begin(), kept.end(), c) - kept.begin();
        values[first + place * count + i] += from[firsts_[f] + j];
        ++place;
      }
    }
    rows.push_back(static_cast<int32_t>(count));
    for (const int32_t c : kept) columns.push_back(static_cast<int32_t>(group + c));
    starts.push_back(static_cast<int32_t>(columns.size()));
  }

  const Layer& layer_;
  const Weights& weights_;
  std::vector<int64_t> firsts_;  // by filter: where its values start
};

// What images a convolution goes from and to, and where each column is among them.
struct Geometry {
  BlockedImages images;
  int64_t corner;  // what the first pixel reads first

  Geometry(const Layer& layer, const Spec& in, const Spec& out, const Spec* added)
      : images{blocks(in, 0),
               blocks(out, out.halo),
               added ? blocks(*added, added->halo) : blocks(out, out.halo),
               layer.stride[0],
               layer.stride[1],
               layer.dilation[0] * (layer.kernel[0] - 1) + 1,
               layer.dilation[1] * (layer.kernel[1] - 1) + 1},
        corner((in.halo - layer.padding[0]) * in.line() + (in.halo - layer.padding[1]) * kLanes) {
    STD_TORCH_CHECK(layer.stride[1] <= 2, "in IMAGES order, the stride along lines is 1 or 2, got ",
                    layer.stride[1]);
  }

  static Blocks blocks(const Spec& s, int64_t halo) {
    const int64_t more = 2 * (s.halo - halo);
    return Blocks(s.blocks(), s.shape.c, s.shape.h + more, s.shape.w + more, halo);
  }

  static std::vector<int32_t> offsets(const Layer& layer, const Spec& in,
                                      const std::vector<int32_t>& columns) {
    const int64_t kW = layer.kernel[1], taps = layer.taps();
    std::vector<int32_t> found;
    found.reserve(columns.size() + kSpareOffsets);
    for (const int32_t c : columns) {
      const int64_t y = c % taps / kW * layer.dilation[0], x = c % kW * layer.dilation[1];
      found.push_back(static_cast<int32_t>(c / taps * in.plane() + y * in.line() + x * kLanes));
    }
    found.insert(found.end(), kSpareOffsets, 0);
    return found;
  }
};

// Runs a convolution for memory that may be a part of the channels of something else's.
template <class Convolution>
void run_at(Convolution conv, int64_t corner, bool residual, const View* in, const View& out) {
  conv.x.step = in[0].block_step;
  conv.y.step = out.block_step;
  if (residual) conv.added.step = in[1].block_step;
  if (conv.y.blocks > 0) conv.run(in[0].data + corner, residual ? in[1].data : nullptr, out.data);
}

std::vector<float> biases(const Shared& conv, int64_t filters) {
  std::vector<float> bias(filters);
  if (conv.weights.bias) std::copy_n(data(conv.weights.bias), filters, bias.begin());
  return bias;
}

class ImagesConv : public Ready {
 public:
  ImagesConv(const Whole& conv, const Spec& in, const Spec& out, const Spec* added)
      : conv_(conv),
        grouped_(conv->layer, conv->weights),
        groups_(conv->layer.kernels, static_cast<int64_t>(grouped_.rows.size()),
                grouped_.starts.data(), grouped_.rows.data(), grouped_.filters.data(), out.shape.c),
        bias_(biases(*conv, out.shape.c)),
        offsets_(Geometry::offsets(conv->layer, in, grouped_.columns)),
        geometry_(conv->layer, in, out, added) {
    const Layer& layer = conv->layer;
    ready_.reset(new BlockedConvolution{geometry_.images, layer.kernels, groups_, offsets_.data(),
                                        grouped_.values.data(), bias_.data(), layer.activation,
                                        parts_of(layer)});
  }

  void run(const View* in, const View& out, float*) const override {
    run_at(*ready_, geometry_.corner, conv_->layer.residual, in, out);
  }

 private:
  // Taps are what makes lines of a part be read again and again.
  ChannelParts parts_of(const Layer& layer) const {
    const bool suits =
        layer.groups == 1 && layer.stride[0] == 1 && layer.stride[1] == 1 && layer.taps() > 1;
    return suits ? ChannelParts(groups_, grouped_.columns, layer.channels, layer.taps())
                 : ChannelParts();
  }

  Whole conv_;
  Grouped grouped_;
  Groups groups_;
  std::vector<float> bias_;
  std::vector<int32_t> offsets_;
  Geometry geometry_;
  std::unique_ptr<BlockedConvolution> ready_;
};

// The same, each filter's weights being code.
class CodedConv : public Ready {
 public:
  CodedConv(const Whole& conv, std::unique_ptr<const ConvCode> code, const Geometry& geometry)
      : conv_(conv),
        code_(std::move(code)),
        corner_(geometry.corner),
        ready_{geometry.images, *code_} {}

  void run(const View* in, const View& out, float*) const override {
    run_at(ready_, corner_, conv_->layer.residual, in, out);
  }
  int64_t code() const override { return code_->bytes(); }

 private:
  Whole conv_;
  std::unique_ptr<const ConvCode> code_;
  int64_t corner_;
  CodedConvolution ready_;
};

// Filters with columns of their own; none where some are equal, which other kernels take together.
std::optional<SparseFilters> filters_alone(const Layer& layer, const Weights& weights) {
  if (weights.form != kRows || weights.classes() != layer.filters || !weights.values)
    return std::nullopt;
  std::set<std::vector<int32_t>> seen;
  SparseFilters found;
  for (int64_t f = 0; f < layer.filters; ++f) {
    const int64_t group = f / layer.group_filters() * layer.columns();
    std::vector<int32_t> own(weights.col.begin() + weights.crow[f],
                             weights.col.begin() + weights.crow[f + 1]);
    for (const int32_t c : own) found.columns.push_back(static_cast<int32_t>(group + c));
    found.starts.push_back(static_cast<int64_t>(found.columns.size()));
    if (!own.empty() && !seen.insert(std::move(own)).second && layer.groups == 1)
      return std::nullopt;
  }
  const float* values = data(weights.values);
  found.values.assign(values, values + found.columns.size());
  return found;
}

// Up to which columns each part goes, so that the second cache holds what a cell reads of it.
std::vector<int32_t> limits_of(const Layer& layer, const BlockedImages& images) {
  // Beside it there are the code and what is written.
  const int64_t read = images.read_by(images.cells()), most = second_cache() / 4;
  const int64_t parts = std::min(layer.channels, (read + most - 1) / most);
  std::vector<int32_t> limits;
  for (int64_t p = 1; p <= parts; ++p)
    limits.push_back(static_cast<int32_t>(layer.channels * p / parts * layer.taps()));
  return limits;
}

std::unique_ptr<Ready> ready_coded(const Whole& conv, const Spec& in, const Spec& out,
                                   const Spec* added) {
  const Layer& layer = conv->layer;
  if (!layer.kernels.code || !ConvCode::takes(layer.activation)) return nullptr;
  const std::optional<SparseFilters> filters = filters_alone(layer, conv->weights);
  if (!filters || !ConvCode::pays(*filters)) return nullptr;
  const Geometry geometry(layer, in, out, added);
  const std::vector<int32_t> offsets = Geometry::offsets(layer, in, filters->columns);
  const CodePlanes planes{offsets.data(), layer.stride[1] * kLanes, geometry.images.y.plane(),
                          geometry.images.added.plane()};
  auto code = ConvCode::of(*filters, planes, limits_of(layer, geometry.images), layer.residual,
                           biases(*conv, layer.filters).data(), layer.activation);
  return code ? std::make_unique<CodedConv>(conv, std::move(code), geometry) : nullptr;
}

}  // namespace

std::unique_ptr<Ready> ready_images(const Whole& conv, const Spec& in, const Spec& out,
                                    const Spec* added) {
  if (auto coded = ready_coded(conv, in, out, added)) return coded;
  return std::make_unique<ImagesConv>(conv, in, out, added);
}

}  // namespace program
}  // namespace sparse_ops
