// Dense 3x3 convolutions by Winograd's F(2x2, 3x3), which takes 16 products where 36 are asked for,
// or, where that was asked for, F(4x4, 3x3): 36 where there are 144, and more roundings. Lavin and
// Gray, arXiv:1509.09308. What (M + 2)^2 of the input become is at as many positions; at each of
// them filters are multiplied with channels as in a 1x1 convolution, by the kernels of the order:
// IMAGES or CHANNELS.
#include <algorithm>
#include <array>

#include "conv.h"

namespace sparse_ops {
namespace program {
namespace {

// Of F(side x side, 3x3).
int64_t positions_of(int64_t side) { return (side + 2) * (side + 2); }
int64_t tiles_along(int64_t size, int64_t side) { return (size + side - 1) / side; }

// Tiles at once. IMAGES: as many as use a weight together while what they read is in the second
// cache, or near it (16 to 512 channels, Zen 4: 4 is best or nearly for all, 2 and 8 up to 1.2
// times slower). CHANNELS: those of a line, and of more lines while a kernel has sums for them.
constexpr int64_t kTilesOfImages = 4, kTilesOfChannels = 8, kMostPixels = 14;
// Fewer tiles than that in an image do not pay for weights that are 16 / 9, or 4 times, as large.
constexpr int64_t kFewestTiles = 16, kFewestOfFour = 8;

// How a block of images, or an image, is cut: strips of `rows` rows of tiles, `tiles` in each.
struct Strips {
  int64_t down, across, rows, tiles;

  Strips(const Shape& out, int64_t side, int64_t most, int64_t pixels) {
    const int64_t whole = tiles_along(out.w, side), high = tiles_along(out.h, side);
    across = (whole + most - 1) / most;
    tiles = (whole + across - 1) / across;
    rows = std::min(high, across > 1 ? 1 : std::max<int64_t>(1, pixels / tiles));
    down = (high + rows - 1) / rows;
  }
  int64_t pixels() const { return rows * tiles; }
};

// What both orders have in common. A position has planes of pixels of kLanes numbers, of the input
// and of some planes of the output at a time.
class Winograd : public Ready {
 public:
  Winograd(const Whole& conv, const Spec& in, const Spec& out, int64_t side, const Strips& strips,
           int64_t planes)
      : conv_(conv),
        side_(side),
        positions_(positions_of(side)),
        weights_(conv->winograd(out.order, side)),
        strips_(strips),
        position_(in.planes() * strips.pixels() * kLanes),
        sums_step_(planes * strips.pixels() * kLanes) {
    const Layer& layer = conv->layer;
    count_ = out.blocks() * strips.down * strips.across;
    const int64_t work = positions_ * layer.channels * out.planes() * kLanes * strips.pixels();
    const int64_t threads = torch::stable::get_num_threads();
    shares_ = std::max<int64_t>(1, std::min(threads, count_ / grain_of(count_, count_ * work)));
    corner_ = (in.halo - layer.padding[0]) * in.line() + (in.halo - layer.padding[1]) * kLanes;
  }

  int64_t scratch() const override { return shares_ * share(); }

  void run(const View* in, const View& out, float* scratch) const override {
    torch::stable::parallel_for(0, shares_, 1, [&](int64_t s0, int64_t s1) {
      for (int64_t s = s0; s < s1; ++s)
        for (int64_t i = count_ * s / shares_; i < count_ * (s + 1) / shares_; ++i)
          strip(in, out, i, scratch + s * share());
    });
  }

 protected:
  // Some planes of the output that are computed together.
  struct Part {
    int64_t first, planes;
  };
  // Position p of a part, over so many pixels: sums over all channels, planes at `sums`.
  virtual void multiply(int64_t p, const Part& part, int64_t pixels, const float* positions,
                        float* sums) const = 0;
  // kLanes biases of a plane, in `filled` where they have to be made.
  virtual const float* bias_of(int64_t plane, float (&filled)[kLanes]) const = 0;

  const Whole conv_;
  const int64_t side_, positions_;
  const std::shared_ptr<const WinogradWeights> weights_;
  const Strips strips_;
  std::vector<Part> parts_;
  std::vector<int32_t> offsets_;
  const int64_t position_;  // of the input: from one to the next

 private:
  int64_t share() const { return positions_ * (position_ + sums_step_); }

  void strip(const View* in, const View& out, int64_t i, float* positions) const {
    const Layer& layer = conv_->layer;
    const Shape& size = out.spec.shape;
    const int64_t block = i / (strips_.down * strips_.across);
    const int64_t top = side_ * strips_.rows * (i / strips_.across % strips_.down);
    const int64_t left = side_ * strips_.tiles * (i % strips_.across);
    const int64_t end = std::min(size.h, top + side_ * strips_.rows);
    const int64_t rows = tiles_along(end - top, side_);
    WinogradWork work = {};
    work.side = side_;
    work.width = std::min(side_ * strips_.tiles, size.w - left);
    work.tiles = tiles_along(work.width, side_);
    work.position_step = position_;
    work.out_line = out.spec.line();
    work.added_line = layer.residual ? in[1].spec.line() : 0;
    work.activation = layer.activation;
    const View& x = in[0];
    const int64_t line = x.spec.line(), run = work.tiles * kLanes,
                  plane_size = strips_.pixels() * kLanes;
    const float* corner = x.data + block * x.block_step + corner_ + top * line + left * kLanes;
    for (int64_t c = 0; c < x.spec.planes(); ++c)
      for (int64_t q = 0; q < rows; ++q)
        layer.kernels.winograd_in(work, corner + c * x.spec.plane() + side_ * q * line, line,
                                  std::min(side_, end - top - side_ * q) + 2, work.width + 2,
                                  positions + c * plane_size + q * run);
    float* const sums = positions + positions_ * position_;
    for (const Part& part : parts_) {
      // What is written to comes from far while the products are made.
      for (int64_t u = 0; u < part.planes; ++u)
        for (int64_t y = top; y < end; ++y)
          for (int64_t w = 0; w < work.width; ++w)
            __builtin_prefetch(
                out.inside(block, part.first + u) + y * work.out_line + (left + w) * kLanes, 1);
      for (int64_t p = 0; p < positions_; ++p)
        multiply(p, part, rows * work.tiles, positions + p * position_, sums + p * sums_step_);
      for (int64_t u = 0; u < part.planes; ++u) {
        float* plane = out.inside(block, part.first + u);
        const float* added = layer.residual ? in[1].inside(block, part.first + u) : nullptr;
        float filled[kLanes];
        const float* bias = bias_of(part.first + u, filled);
        for (int64_t q = 0; q < rows; ++q) {
          const int64_t y = top + side_ * q;
          work.lines = std::min(side_, end - y);
          layer.kernels.winograd_out(work, sums + u * plane_size + q * run, sums_step_, bias,
                                     added ? added + y * work.added_line + left * kLanes : nullptr,
                                     plane + y * work.out_line + left * kLanes);
        }
        if (left == 0) clear_around(out.spec, plane, top, end);
      }
    }
  }

  const int64_t sums_step_;  // of the output: from one position to the next
  int64_t count_, shares_, corner_;
};

// A plane is a channel, or a filter, of kLanes images.
class OfImages : public Winograd {
 public:
  OfImages(const Whole& conv, const Spec& in, const Spec& out, int64_t side)
      : Winograd(conv, in, out, side, Strips(out.shape, side, kTilesOfImages, kTilesOfImages),
                 conv->layer.kernels.max_rows) {
    for (int64_t c = 0; c < conv->layer.channels; ++c)
      offsets_.push_back(static_cast<int32_t>(c * strips_.pixels() * kLanes));
    offsets_.insert(offsets_.end(), kSpareOffsets, 0);
    for (size_t g = 0; g < weights_->rows.size(); ++g)
      parts_.push_back({weights_->first[g], weights_->rows[g]});
  }

 private:
  void multiply(int64_t p, const Part& part, int64_t pixels, const float* positions,
                float* sums) const override {
    const Layer& layer = conv_->layer;
    BlockedWork work = {};
    work.lines = 1;
    work.width = pixels;
    work.k = layer.channels;
    work.offsets = offsets_.data();
    work.weights = weights_->values.get() + (p * layer.filters + part.first) * layer.channels;
    work.panel = positions;
    work.pixel_step = kLanes;
    for (int64_t r = 0; r < part.planes; ++r) work.out[r] = sums + r * strips_.pixels() * kLanes;
    layer.kernels.blocked(static_cast<int>(part.planes), work);
  }
  const float* bias_of(int64_t plane, float (&filled)[kLanes]) const override {
    std::fill_n(filled, kLanes, weights_->bias.get()[plane]);
    return filled;
  }
};

// A plane is kLanes channels, or filters, of an image.
class OfChannels : public Winograd {
 public:
  OfChannels(const Whole& conv, const Spec& in, const Spec& out, int64_t side)
      : Winograd(conv, in, out, side, Strips(out.shape, side, kTilesOfChannels, kMostPixels),
                 kMostUnits) {
    const Layer& layer = conv->layer;
    for (int64_t c = 0; c < layer.channels; ++c)
      offsets_.push_back(static_cast<int32_t>(c / kLanes * strips_.pixels() * kLanes + c % kLanes));
    offsets_.push_back(0);
    // As many units as make the most sums.
    const int* pixels = layer.kernels.tiles->pixels;
    const auto sums = [&](int units) {
      return units * std::min<int64_t>(pixels[units], strips_.pixels());
    };
    int units = 1;
    for (int u = 2; u <= kMostUnits; ++u)
      if (pixels[u] > 0 && sums(u) > sums(units)) units = u;
    for (int64_t first = 0; first < out.planes(); first += units)
      parts_.push_back({first, std::min<int64_t>(units, out.planes() - first)});
  }

 private:
  void multiply(int64_t p, const Part& part, int64_t pixels, const float* positions,
                float* sums) const override {
    const Layer& layer = conv_->layer;
    const TileKernels& tiles = *layer.kernels.tiles;
    const int64_t plane_size = strips_.pixels() * kLanes;
    TileWork work = {};
    work.k = layer.channels;
    work.offsets = work.later = offsets_.data();
    work.weight_step = layer.channels * kLanes;
    work.bias = zeros_.data();
    work.out_unit = plane_size;
    for (int64_t done = 0; done < part.planes;) {
      int units = static_cast<int>(part.planes - done);
      while (tiles.pixels[units] == 0) --units;
      const int64_t unit = p * weights_->units + part.first + done;
      work.weights = weights_->values.get() + unit * work.weight_step;
      const int64_t most = tiles.pixels[units], cuts = (pixels + most - 1) / most;
      for (int64_t i = 0; i < cuts; ++i) {
        const int64_t first = pixels * i / cuts, count = pixels * (i + 1) / cuts - first;
        work.ahead = positions;
        tiles.tile(units, static_cast<int>(count), 1, kLanes)(
            work, positions + first * kLanes, sums + done * plane_size + first * kLanes, nullptr);
      }
      done += units;
    }
  }
  const float* bias_of(int64_t plane, float (&)[kLanes]) const override {
    return weights_->bias.get() + plane * kLanes;
  }

  const std::array<float, kMostUnits * kLanes> zeros_ = {};
};

// What three taps become at a position of one dimension: rows of G. F(4x4) has the points of
// winograd_body.h.
constexpr double kA = 0.75 * 0.75, kB = 1.5 * 1.5, kOfA = 2 * kA * (kA - kB),
                 kOfB = 2 * kB * (kB - kA);
constexpr double kOfTwo[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
constexpr double kOfFour[6][3] = {{1 / (kA * kB), 0, 0},
                                  {1 / kOfA, 0.75 / kOfA, kA / kOfA},
                                  {1 / kOfA, -0.75 / kOfA, kA / kOfA},
                                  {1 / kOfB, 1.5 / kOfB, kB / kOfB},
                                  {1 / kOfB, -1.5 / kOfB, kB / kOfB},
                                  {0, 0, 1}};

// What nine taps become at a position.
float at_position(const float* taps, int64_t side, int64_t p) {
  const double (*row)[3] = side == 4 ? kOfFour : kOfTwo;
  const double *of_lines = row[p / (side + 2)], *of_columns = row[p % (side + 2)];
  double sum = 0;
  for (int y = 0; y < 3; ++y)
    for (int x = 0; x < 3; ++x) sum += of_lines[y] * of_columns[x] * taps[y * 3 + x];
  return static_cast<float>(sum);
}

}  // namespace

WinogradWeights::WinogradWeights(const Layer& layer, const Weights& weights,
                                 const TurnedWeights* turned, Order order, int64_t side)
    : units((layer.filters + kLanes - 1) / kLanes),
      values(positions_of(side) * (order == kImages ? layer.filters : units * kLanes) *
             layer.channels),
      bias(units * kLanes) {
  if (weights.bias) std::copy_n(data(*weights.bias), layer.filters, bias.get());
  const int64_t channels = layer.channels, filters = layer.filters, nine = layer.taps();
  const auto read = [&](int64_t f, int64_t c, float* taps) {
    if (weights.values) {
      std::copy_n(data(*weights.values) + (f * channels + c) * nine, nine, taps);
      return;
    }
    // By blocks of channels, taps, channels of a block.
    const int64_t block = c / kLanes * kLanes, width = std::min(kLanes, channels - block);
    const float* from = turned->values.get() + f / kLanes * turned->step + f % kLanes;
    for (int64_t t = 0; t < nine; ++t)
      taps[t] = from[(block * nine + t * width + c - block) * kLanes];
  };
  const auto each = [&](int64_t f, const auto& place) {
    for (int64_t c = 0; c < channels; ++c) {
      float taps[9];
      read(f, c, taps);
      for (int64_t p = 0; p < positions_of(side); ++p)
        values.get()[place(p, c)] = at_position(taps, side, p);
    }
  };
  if (order == kChannels) {
    // By position, unit, channel, filter.
    torch::stable::parallel_for(0, filters, 1, [&](int64_t f0, int64_t f1) {
      for (int64_t f = f0; f < f1; ++f)
        each(f, [&](int64_t p, int64_t c) {
          return ((p * units + f / kLanes) * channels + c) * kLanes + f % kLanes;
        });
    });
    return;
  }
  // By position, group of filters, channel, filter.
  const int64_t most = layer.kernels.max_rows, parts = (filters + most - 1) / most;
  for (int64_t part = 0; part < parts; ++part) {
    first.push_back(filters * part / parts);
    rows.push_back(static_cast<int>(filters * (part + 1) / parts - first.back()));
  }
  torch::stable::parallel_for(0, parts, 1, [&](int64_t p0, int64_t p1) {
    for (int64_t part = p0; part < p1; ++part)
      for (int64_t r = 0; r < rows[part]; ++r)
        each(first[part] + r, [&](int64_t p, int64_t c) {
          return (p * filters + first[part]) * channels + c * rows[part] + r;
        });
  });
}

int64_t winograd_side(const Layer& layer, const Spec& out) {
  const Shape& size = out.shape;
  if (layer.form != kDense || layer.groups != 1) return 0;
  if (layer.way != kAuto && layer.way != kTilesOfFour) return 0;
  for (int d = 0; d < 2; ++d)
    if (layer.kernel[d] != 3 || layer.stride[d] != 1 || layer.dilation[d] != 1) return 0;
  if (layer.channels < kLanes || layer.filters < kLanes || size.h < 2 || size.w < 2) return 0;
  const auto tiles = [&](int64_t side) {
    return tiles_along(size.h, side) * tiles_along(size.w, side);
  };
  if (out.order == kChannels && tiles(2) < kFewestTiles) return 0;
  // Tiles of four that reach over the edges may take more products.
  const bool four = layer.way == kTilesOfFour &&
                    positions_of(4) * tiles(4) < positions_of(2) * tiles(2) &&
                    (out.order == kImages || tiles(4) >= kFewestOfFour);
  return four ? 4 : 2;
}

std::unique_ptr<Ready> ready_winograd(const Whole& conv, const Spec& in, const Spec& out,
                                      int64_t side) {
  if (out.order == kImages) return std::make_unique<OfImages>(conv, in, out, side);
  return std::make_unique<OfChannels>(conv, in, out, side);
}

}  // namespace program
}  // namespace sparse_ops
