// Dense convolutions to CHANNELS: tiles of filters and pixels that read x where it is.
#include <algorithm>

#include "conv.h"
#include "tiling.h"

namespace sparse_ops {
namespace program {
namespace {

// Of each group: where a column is, counted from what the tap in the corner of the first pixel
// reads, and one more.
std::vector<int32_t> offsets_of(const Layer& layer, int64_t line, int64_t plane, bool lanes) {
  const int64_t channels = layer.group_channels();
  std::vector<int32_t> offsets;
  offsets.reserve(layer.groups * (layer.columns() + 1));
  for (int64_t g = 0; g < layer.groups; ++g) {
    for (int64_t block = 0; block < channels; block += kLanes)
      for (int64_t y = 0; y < layer.kernel[0]; ++y)
        for (int64_t x = 0; x < layer.kernel[1]; ++x)
          for (int64_t i = block; i < std::min(channels, block + kLanes); ++i) {
            const int64_t c = g * channels + i;
            const int64_t at = lanes ? c / kLanes * plane + c % kLanes : c * plane;
            offsets.push_back(static_cast<int32_t>(at + y * layer.dilation[0] * line +
                                                   x * layer.dilation[1] * (lanes ? kLanes : 1)));
          }
    offsets.push_back(0);
  }
  return offsets;
}

// What is asked for ahead with each column: its weights of a unit; or a pixel of its channels, for
// with the kLanes channels of a tap kLanes pixels are asked for, as many as a tile has or more.
std::vector<int32_t> lines_of_weights(const Layer& layer) {
  std::vector<int32_t> later(layer.columns());
  for (size_t j = 0; j < later.size(); ++j) later[j] = static_cast<int32_t>(j * kLanes);
  return later;
}
std::vector<int32_t> lines_of_pixels(const Layer& layer, const std::vector<int32_t>& offsets) {
  std::vector<int32_t> later(layer.columns());
  int32_t pixel = 0;
  for (size_t j = 0; j < later.size(); ++j) {
    // The next tap, or the next block: again from the first pixel.
    if (j > 0 && offsets[j] != offsets[j - 1] + 1) pixel = 0;
    later[j] = offsets[j] + pixel * static_cast<int32_t>(layer.stride[1] * kLanes - 1);
    ++pixel;
  }
  return later;
}

int64_t work_of(const Layer& layer, const Shape& out) {
  return out.n * out.h * out.w * ((layer.filters + kLanes - 1) / kLanes * kLanes) * layer.columns();
}

// What both have in common: tiles of a piece, from a panel in which its first pixel's corner is
// known.
class ToChannels : public Ready {
 protected:
  ToChannels(const Whole& conv, const Spec& out, int64_t pixel_step, int64_t in_line, bool spread)
      : conv_(conv),
        turned_(conv->turned()),
        tiling_(*conv->layer.kernels.tiles, out.shape, turned_->units, conv->layer.groups,
                conv->layer.columns(), pixel_step, in_line, spread),
        pixel_step_(pixel_step) {}

  // What is computed after this: its bundle and its panel, or null where they are the same.
  struct Next {
    const Bundle* bundle;
    const float* panel;
  };

  // A bundle over a piece. panel: of the piece's first image and line, whose images and lines are
  // so far apart.
  void compute(const Piece& piece, const Bundle& bundle, const float* panel, int64_t image_step,
               int64_t line_step, const View* added, const View& out, const Next& next) const {
    const Layer& layer = conv_->layer;
    TileWork work = {};
    work.k = layer.columns();
    work.offsets = offsets_.data() + bundle.group * (work.k + 1);
    work.weights = turned_->values.get() + bundle.first * turned_->step;
    work.weight_step = turned_->step;
    work.bias = turned_->bias.get() + bundle.first * kLanes;
    work.out_unit = out.spec.plane();
    work.activation = layer.activation;
    const auto high = [&](int64_t image, int64_t line, int64_t pixel) {
      return tiling_.high == High::kImages ? image : tiling_.high == High::kLines ? line : pixel;
    };
    work.line_step = high(image_step, line_step, pixel_step_);
    work.out_line = high(out.block_step, out.spec.line(), kLanes);
    if (added) {
      work.added_unit = added->spec.plane();
      work.added_line = high(added->block_step, added->spec.line(), kLanes);
    }
    float* to = out.inside(piece.image, bundle.first);
    const float* more = added ? added->inside(piece.image, bundle.first) : nullptr;
    for (int64_t i = piece.first; i < piece.last; ++i) {
      const Spot& spot = tiling_.spots[i];
      const auto at = [&](const View& v) {
        return spot.image * v.block_step + spot.line * v.spec.line() + spot.column * kLanes;
      };
      // First the weights that come next, a unit with each tile.
      const int64_t unit = i - piece.first;
      work.ahead = panel;
      work.later = work.offsets;
      if (next.bundle && unit < next.bundle->units) {
        work.ahead = turned_->values.get() + (next.bundle->first + unit) * turned_->step;
        work.later = weights_later_.data();
      } else if (next.panel) {
        work.ahead = next.panel + spot.image * image_step + (spot.line - piece.top) * line_step +
                     spot.column * pixel_step_;
        work.later = pixels_later_.data();
      }
      spot.of_units[bundle.units](work,
                                  panel + spot.image * image_step +
                                      (spot.line - piece.top) * line_step +
                                      spot.column * pixel_step_,
                                  to + at(out), more ? more + at(*added) : nullptr);
    }
    for (int64_t n = 0; n < piece.images; ++n)
      for (int u = 0; u < bundle.units; ++u)
        clear_around(out.spec, out.inside(piece.image + n, bundle.first + u), piece.top, piece.end);
  }

  Whole conv_;
  std::shared_ptr<const TurnedWeights> turned_;
  std::vector<int32_t> offsets_, weights_later_, pixels_later_;
  Tiling tiling_;
  int64_t pixel_step_;
};

class ChannelsConv : public ToChannels {
 public:
  ChannelsConv(const Whole& conv, const Spec& in, const Spec& out)
      : ToChannels(conv, out, conv->layer.stride[1] * kLanes, in.planes() * in.line(), true),
        grain_(grain_of(tiling_.count(), work_of(conv->layer, out.shape))) {
    offsets_ = offsets_of(conv->layer, in.line(), in.plane(), true);
    if (tiling_.far_weights) weights_later_ = lines_of_weights(conv->layer);
    if (tiling_.far_images && conv->layer.groups == 1)
      pixels_later_ = lines_of_pixels(conv->layer, offsets_);
  }

  void run(const View* in, const View& out, float*) const override {
    const Layer& layer = conv_->layer;
    const View& x = in[0];
    const View* added = layer.residual ? in + 1 : nullptr;
    const int64_t line = x.spec.line();
    // What the first pixel's corner reads.
    const float* corner = x.data + (x.spec.halo - layer.padding[0]) * line +
                          (x.spec.halo - layer.padding[1]) * kLanes;
    torch::stable::parallel_for(0, tiling_.count(), grain_, [&](int64_t i0, int64_t i1) {
      for (int64_t i = i0; i < i1; ++i) {
        const Piece& piece = tiling_.piece(i);
        const Bundle& bundle = tiling_.bundle(i);
        const int64_t step = layer.stride[0] * line;
        const auto panel = [&](const Piece& p) {
          return corner + p.image * x.block_step + p.top * step;
        };
        Next next = {nullptr, nullptr};
        if (i + 1 < i1) {
          const Bundle& later = tiling_.bundle(i + 1);
          if (tiling_.far_weights && &later != &bundle) next.bundle = &later;
          const Piece& under = tiling_.piece(i + 1);
          if (!pixels_later_.empty() && &under != &piece) next.panel = panel(under);
        }
        compute(piece, bundle, panel(piece), x.block_step, step, added, out, next);
      }
    });
  }

 private:
  int64_t grain_;
};

// Few planes: some lines at a time are copied, with the zeros around them.
class PlanarConv : public ToChannels {
 public:
  PlanarConv(const Whole& conv, const Spec& in, const Spec& out)
      : ToChannels(conv, out, conv->layer.stride[1], in.shape.c * in.shape.w, false) {
    const Layer& layer = conv->layer;
    int64_t most = 0;
    for (const Piece& piece : tiling_.pieces) most = std::max(most, piece.end - piece.top);
    lines_ = (most - 1) * layer.stride[0] + layer.dilation[0] * (layer.kernel[0] - 1) + 1;
    width_ = (out.shape.w - 1) * layer.stride[1] + layer.dilation[1] * (layer.kernel[1] - 1) + 1;
    STD_TORCH_CHECK(in.shape.c * lines_ * width_ < std::numeric_limits<int32_t>::max(),
                    "a padded image must be under 2^31 values");
    offsets_ = offsets_of(layer, width_, lines_ * width_, false);
    const int64_t pieces = static_cast<int64_t>(tiling_.pieces.size());
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t grain = grain_of(pieces, work_of(layer, out.shape));
    shares_ = std::max<int64_t>(1, std::min(threads, pieces / grain));
    share_ = (in.shape.c * lines_ * width_ + kLanes - 1) / kLanes * kLanes;
  }

  int64_t scratch() const override { return shares_ * share_; }

  void run(const View* in, const View& out, float* scratch) const override {
    const View* added = conv_->layer.residual ? in + 1 : nullptr;
    const int64_t count = static_cast<int64_t>(tiling_.pieces.size());
    torch::stable::parallel_for(0, shares_, 1, [&](int64_t s0, int64_t s1) {
      for (int64_t s = s0; s < s1; ++s)
        for (int64_t i = count * s / shares_; i < count * (s + 1) / shares_; ++i) {
          const Piece& piece = tiling_.pieces[i];
          float* panel = scratch + s * share_;
          pack(in[0], piece, panel);
          for (const Bundle& bundle : tiling_.bundles)
            compute(piece, bundle, panel, 0, conv_->layer.stride[0] * width_, added, out,
                    {nullptr, nullptr});
        }
    });
  }

 private:
  void pack(const View& x, const Piece& piece, float* panel) const {
    const Layer& layer = conv_->layer;
    const Shape& size = x.spec.shape;
    const int64_t left = std::min(layer.padding[1], width_);
    const int64_t length = std::clamp<int64_t>(size.w, 0, width_ - left);
    for (int64_t c = 0; c < size.c; ++c)
      for (int64_t l = 0; l < lines_; ++l) {
        float* to = panel + (c * lines_ + l) * width_;
        const int64_t y = piece.top * layer.stride[0] - layer.padding[0] + l;
        if (y < 0 || y >= size.h) {
          std::fill_n(to, width_, 0.0f);
          continue;
        }
        std::fill_n(to, left, 0.0f);
        std::copy_n(x.inside(piece.image, c) + y * size.w, length, to + left);
        std::fill(to + left + length, to + width_, 0.0f);
      }
  }

  int64_t lines_, width_, shares_, share_;
};

}  // namespace

std::unique_ptr<Ready> ready_channels(const Whole& conv, const Spec& in, const Spec& out,
                                      const Spec*) {
  return std::make_unique<ChannelsConv>(conv, in, out);
}

std::unique_ptr<Ready> ready_planar_to_channels(const Whole& conv, const Spec& in, const Spec& out,
                                                const Spec*) {
  return std::make_unique<PlanarConv>(conv, in, out);
}

}  // namespace program
}  // namespace sparse_ops
