// Dense 3x3 convolutions in IMAGES order by Winograd's F(2x2, 3x3), which takes 16 products where 36 are
// asked for: Lavin and Gray, arXiv:1509.09308.
#include <unistd.h>

#include <algorithm>

#include "conv.h"

namespace sparse_ops {
namespace program {
namespace {

constexpr int64_t kPositions = 16;

// Half of a second cache, where what a strip of tiles reads has to stay while all filters use it.
int64_t room() {
  static const int64_t floats = [] {
    long bytes = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
    bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return static_cast<int64_t>(bytes > 0 ? bytes : 512 << 10) / 2 / static_cast<int64_t>(sizeof(float));
  }();
  return floats;
}

int64_t tiles_for(const Layer& layer) {
  return std::min(kMostTiles, room() / (kPositions * layer.channels * kLanes));
}

// What is used of a layer's image: tiles of two pixels along lines, so many at once.
struct Strips {
  int64_t down, across, tiles;

  Strips(const Layer& layer, const Shape& out) : down((out.h + 1) / 2) {
    const int64_t whole = (out.w + 1) / 2, most = tiles_for(layer);
    across = (whole + most - 1) / most;
    tiles = (whole + across - 1) / across;
  }
};

class WinogradConv : public Ready {
 public:
  WinogradConv(const Whole& conv, const Spec& in, const Spec& out)
      : conv_(conv),
        weights_(conv->winograd()),
        strips_(conv->layer, out.shape),
        position_(conv->layer.channels * strips_.tiles * kLanes) {
    const Layer& layer = conv->layer;
    for (int64_t c = 0; c < layer.channels; ++c)
      offsets_.push_back(static_cast<int32_t>(c * strips_.tiles * kLanes));
    offsets_.insert(offsets_.end(), kSpareOffsets, 0);
    count_ = out.blocks() * strips_.down * strips_.across;
    const int64_t work = kPositions * layer.channels * layer.filters * strips_.tiles * kLanes;
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
    return kPositions * (position_ + conv_->layer.kernels.max_rows * strips_.tiles * kLanes);
  }

  void strip(const View* in, const View& out, int64_t i, float* positions) const {
    const Layer& layer = conv_->layer;
    const Shape& size = out.spec.shape;
    const int64_t block = i / (strips_.down * strips_.across);
    const int64_t top = 2 * (i / strips_.across % strips_.down);
    const int64_t left = 2 * (i % strips_.across * strips_.tiles);
    WinogradWork work = {};
    work.lines = std::min<int64_t>(2, size.h - top);
    work.width = std::min(2 * strips_.tiles, size.w - left);
    work.tiles = (work.width + 1) / 2;
    work.position_step = position_;
    work.out_line = out.spec.line();
    work.added_line = layer.residual ? in[1].spec.line() : 0;
    work.activation = layer.activation;
    const View& x = in[0];
    const int64_t line = x.spec.line(), lines = work.lines + 2, columns = work.width + 2;
    const float* from = x.data + block * x.block_step + corner_ + top * line + left * kLanes;
    for (int64_t c = 0; c < layer.channels; ++c)
      layer.kernels.winograd_in(work, from + c * x.spec.plane(), line, lines, columns,
                                positions + c * strips_.tiles * kLanes);
    float* const sums = positions + kPositions * position_;
    const int64_t sums_step = strips_.tiles * kLanes;
    for (size_t g = 0; g < weights_->rows.size(); ++g) {
      const int rows = weights_->rows[g];
      const int64_t first = weights_->first[g];
      for (int64_t p = 0; p < kPositions; ++p) multiply(p, first, rows, work.tiles, positions, sums);
      for (int r = 0; r < rows; ++r) {
        const int64_t f = first + r;
        const int64_t at = top * out.spec.line() + left * kLanes;
        float* plane = out.inside(block, f);
        const float* added = nullptr;
        if (layer.residual) added = in[1].inside(block, f) + top * work.added_line + left * kLanes;
        layer.kernels.winograd_out(work, sums + r * sums_step, layer.kernels.max_rows * sums_step,
                                   weights_->bias.get()[f], added, plane + at);
        if (left == 0) clear_around(out.spec, plane, top, top + work.lines);
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
    const int64_t step = strips_.tiles * kLanes;
    for (int r = 0; r < rows; ++r)
      work.out[r] = sums + (p * layer.kernels.max_rows + r) * step;
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
         out.w > 1 && tiles_for(layer) >= 2;
}

std::unique_ptr<Ready> ready_winograd(const Whole& conv, const Spec& in, const Spec& out) {
  return std::make_unique<WinogradConv>(conv, in, out);
}

}  // namespace program
}  // namespace sparse_ops
