// Dense 3x3 convolutions in IMAGES order by Winograd's F(2x2, 3x3), which takes 16 products where 36 are
// asked for: Lavin and Gray, arXiv:1509.09308.
#include <algorithm>

#include "conv.h"

namespace sparse_ops {
namespace program {
namespace {

constexpr int64_t kPositions = 16;

// Tiles at once: as many as use a weight together while what they read is in the second cache, or near it
// (16 to 512 channels, Zen 4: 4 is best or nearly for all, 2 and 8 up to 1.2 times slower).
constexpr int64_t kTiles = 4;

// How a block of images is cut: strips of `rows` rows of tiles, `tiles` in each.
struct Strips {
  int64_t down, across, rows, tiles;

  explicit Strips(const Shape& out) {
    const int64_t whole = (out.w + 1) / 2, high = (out.h + 1) / 2;
    across = (whole + kTiles - 1) / kTiles;
    tiles = (whole + across - 1) / across;
    rows = std::min(high, across > 1 ? 1 : kTiles / tiles);
    down = (high + rows - 1) / rows;
  }
  int64_t pixels() const { return rows * tiles * kLanes; }
};

class WinogradConv : public Ready {
 public:
  WinogradConv(const Whole& conv, const Spec& in, const Spec& out)
      : conv_(conv),
        weights_(conv->winograd()),
        strips_(out.shape),
        position_(conv->layer.channels * strips_.pixels()) {
    const Layer& layer = conv->layer;
    for (int64_t c = 0; c < layer.channels; ++c)
      offsets_.push_back(static_cast<int32_t>(c * strips_.pixels()));
    offsets_.insert(offsets_.end(), kSpareOffsets, 0);
    count_ = out.blocks() * strips_.down * strips_.across;
    const int64_t work = kPositions * layer.channels * layer.filters * strips_.pixels();
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

 private:
  // Positions of the input, and those of some filters.
  int64_t share() const {
    return kPositions * (position_ + conv_->layer.kernels.max_rows * strips_.pixels());
  }

  void strip(const View* in, const View& out, int64_t i, float* positions) const {
    const Layer& layer = conv_->layer;
    const Shape& size = out.spec.shape;
    const int64_t block = i / (strips_.down * strips_.across);
    const int64_t top = 2 * strips_.rows * (i / strips_.across % strips_.down);
    const int64_t left = 2 * strips_.tiles * (i % strips_.across);
    const int64_t end = std::min(size.h, top + 2 * strips_.rows), rows = (end - top + 1) / 2;
    WinogradWork work = {};
    work.width = std::min(2 * strips_.tiles, size.w - left);
    work.tiles = (work.width + 1) / 2;
    work.position_step = position_;
    work.out_line = out.spec.line();
    work.added_line = layer.residual ? in[1].spec.line() : 0;
    work.activation = layer.activation;
    const View& x = in[0];
    const int64_t line = x.spec.line(), run = work.tiles * kLanes;
    const float* corner = x.data + block * x.block_step + corner_ + top * line + left * kLanes;
    for (int64_t c = 0; c < layer.channels; ++c)
      for (int64_t q = 0; q < rows; ++q)
        layer.kernels.winograd_in(work, corner + c * x.spec.plane() + 2 * q * line, line,
                                  std::min<int64_t>(4, end - top - 2 * q + 2), work.width + 2,
                                  positions + c * strips_.pixels() + q * run);
    float* const sums = positions + kPositions * position_;
    const int64_t sums_step = strips_.pixels();
    for (size_t g = 0; g < weights_->rows.size(); ++g) {
      const int filters = weights_->rows[g];
      const int64_t first = weights_->first[g];
      for (int64_t p = 0; p < kPositions; ++p)
        multiply(p, first, filters, rows * work.tiles, positions, sums);
      for (int r = 0; r < filters; ++r) {
        float* plane = out.inside(block, first + r);
        const float* added = layer.residual ? in[1].inside(block, first + r) : nullptr;
        for (int64_t q = 0; q < rows; ++q) {
          const int64_t y = top + 2 * q;
          work.lines = std::min<int64_t>(2, end - y);
          layer.kernels.winograd_out(
              work, sums + r * sums_step + q * run, layer.kernels.max_rows * sums_step,
              weights_->bias.get()[first + r],
              added ? added + y * work.added_line + left * kLanes : nullptr,
              plane + y * work.out_line + left * kLanes);
        }
        if (left == 0) clear_around(out.spec, plane, top, end);
      }
    }
  }

  // Of one position, some filters: sums over all channels.
  void multiply(int64_t p, int64_t first, int rows, int64_t tiles, const float* positions,
                float* sums) const {
    const Layer& layer = conv_->layer;
    BlockedWork work = {};
    work.lines = 1;
    work.width = tiles;
    work.k = layer.channels;
    work.offsets = offsets_.data();
    work.weights = weights_->values.get() + (p * layer.filters + first) * layer.channels;
    work.panel = positions + p * position_;
    work.pixel_step = kLanes;
    for (int r = 0; r < rows; ++r)
      work.out[r] = sums + (p * layer.kernels.max_rows + r) * strips_.pixels();
    layer.kernels.blocked(rows, work);
  }

  Whole conv_;
  std::shared_ptr<const WinogradWeights> weights_;
  Strips strips_;
  int64_t position_;  // of the input: from one to the next
  std::vector<int32_t> offsets_;
  int64_t count_, shares_, corner_;
};

}  // namespace

// By position, group of filters, channel, filter.
WinogradWeights::WinogradWeights(const Layer& layer, const Weights& weights)
    : values(kPositions * layer.filters * layer.channels), bias(layer.filters) {
  const int64_t most = layer.kernels.max_rows, parts = (layer.filters + most - 1) / most;
  for (int64_t p = 0; p < parts; ++p) {
    first.push_back(layer.filters * p / parts);
    rows.push_back(static_cast<int>(layer.filters * (p + 1) / parts - first.back()));
  }
  if (weights.bias) std::copy_n(data(*weights.bias), layer.filters, bias.get());
  const float* from = data(weights.values);
  const double half[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
  torch::stable::parallel_for(0, parts, 1, [&](int64_t p0, int64_t p1) {
    for (int64_t part = p0; part < p1; ++part)
      for (int64_t r = 0; r < rows[part]; ++r)
        for (int64_t c = 0; c < layer.channels; ++c) {
          const float* taps = from + ((first[part] + r) * layer.channels + c) * 9;
          for (int64_t p = 0; p < kPositions; ++p) {
            double sum = 0;
            for (int y = 0; y < 3; ++y)
              for (int x = 0; x < 3; ++x) sum += half[p / 4][y] * half[p % 4][x] * taps[y * 3 + x];
            values.get()[(p * layer.filters + first[part]) * layer.channels + c * rows[part] + r] =
                static_cast<float>(sum);
          }
        }
  });
}

bool suits_winograd(const Layer& layer, const Shape& out) {
  return layer.form == kDense && layer.groups == 1 && layer.kernel[0] == 3 && layer.kernel[1] == 3 &&
         layer.stride[0] == 1 && layer.stride[1] == 1 && layer.dilation[0] == 1 &&
         layer.dilation[1] == 1 && layer.channels >= kLanes && layer.filters >= kLanes && out.h > 1 &&
         out.w > 1;
}

std::unique_ptr<Ready> ready_winograd(const Whole& conv, const Spec& in, const Spec& out) {
  return std::make_unique<WinogradConv>(conv, in, out);
}

}  // namespace program
}  // namespace sparse_ops
