// Values in another order or with another halo.
#include "convert.h"

#include <algorithm>

#include "values.h"

namespace sparse_ops {
namespace program {
namespace {

// Lines are turned in stretches of this many pixels.
constexpr int64_t kStretch = 64;
// A thread gets at least this many values.
constexpr int64_t kGrain = 1 << 15;

// to[i * to_step + l] = from[l * lane_step + i] for the `lanes` lanes that there are, 0 in the
// others.
void interleave(const RowSparseKernels& kernels, int64_t lanes, int64_t length, const float* from,
                int64_t lane_step, float* to, int64_t to_step) {
  if (lanes == kLanes) {
    kernels.interleave(length, from, lane_step, 1, to, to_step);
    return;
  }
  alignas(64) float lines[kLanes * kStretch];
  for (int64_t i = 0; i < length; i += kStretch) {
    const int64_t some = std::min(kStretch, length - i);
    for (int64_t l = 0; l < lanes; ++l)
      std::copy_n(from + l * lane_step + i, some, lines + l * some);
    std::fill(lines + lanes * some, lines + kLanes * some, 0.0f);
    kernels.interleave(some, lines, some, 1, to + i * to_step, to_step);
  }
}

// to[l * lane_step + i] = from[i * from_step + l] for the `lanes` lanes that there are.
void separate(const RowSparseKernels& kernels, int64_t lanes, int64_t length, const float* from,
              int64_t from_step, float* to, int64_t lane_step) {
  if (lanes == kLanes) {
    kernels.separate(length, from, from_step, to, lane_step);
    return;
  }
  alignas(64) float lines[kLanes * kStretch];
  for (int64_t i = 0; i < length; i += kStretch) {
    const int64_t some = std::min(kStretch, length - i);
    kernels.separate(some, from + i * from_step, from_step, lines, some);
    for (int64_t l = 0; l < lanes; ++l) std::copy_n(lines + l * some, some, to + l * lane_step + i);
  }
}

class Conversion : public Ready {
 public:
  Conversion(const RowSparseKernels& kernels, const Spec& in, const Spec& out)
      : kernels_(kernels), in_(in), out_(out) {}

  void run(const View* in, const View& out, float*) const override {
    for_each_part(in_.order == kImages || out_.order == kImages, [&](const Part& part) {
      for (int64_t l = 0; l < in_.shape.h; ++l) line(*in, out, part, l);
      clear(out, part);
    });
  }

 protected:
  // Up to kLanes images and kLanes channels.
  struct Part {
    int64_t image, images, channel, channels;
  };

  // All parts; of one image each, or of kLanes.
  template <class Work>
  void for_each_part(bool blocks, const Work& work) const {
    const Shape& size = in_.shape;
    const int64_t images = blocks ? kLanes : 1, groups = (size.c + kLanes - 1) / kLanes;
    const int64_t steps = (size.n + images - 1) / images;
    const int64_t values = images * kLanes * size.h * size.w;
    torch::stable::parallel_for(
        0, steps * groups, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, values)),
        [&](int64_t p0, int64_t p1) {
          for (int64_t p = p0; p < p1; ++p) {
            const int64_t n = p / groups * images, c = p % groups * kLanes;
            work(Part{n, std::min(images, size.n - n), c, std::min(kLanes, size.c - c)});
          }
        });
  }

  // Where a pixel of a line is.
  static float* at(const View& view, int64_t n, int64_t c, int64_t l, int64_t p = 0) {
    const Spec& spec = view.spec;
    const int64_t block = spec.order == kImages ? n / kLanes : n;
    const int64_t plane = spec.order == kChannels ? c / kLanes : c;
    return view.inside(block, plane) + l * spec.line() + p * spec.lanes();
  }

  void line(const View& in, const View& out, const Part& part, int64_t l) const {
    const int64_t n = part.image, c = part.channel, W = in_.shape.w;
    if (in_.order == out_.order) {
      const int64_t planes = in_.order == kChannels ? 1 : part.channels;
      for (int64_t i = 0; i < planes; ++i)
        std::copy_n(at(in, n, c + i, l), W * in_.lanes(), at(out, n, c + i, l));
    } else if (in_.order == kPlanar && out_.order == kChannels) {
      interleave(kernels_, part.channels, W, at(in, n, c, l), in_.plane(), at(out, n, c, l),
                 kLanes);
    } else if (in_.order == kChannels && out_.order == kPlanar) {
      separate(kernels_, part.channels, W, at(in, n, c, l), kLanes, at(out, n, c, l), out_.plane());
    } else if (in_.order == kPlanar) {
      for (int64_t i = 0; i < part.channels; ++i)
        interleave(kernels_, part.images, W, at(in, n, c + i, l), in.block_step,
                   at(out, n, c + i, l), kLanes);
    } else if (out_.order == kPlanar) {
      for (int64_t i = 0; i < part.channels; ++i)
        separate(kernels_, part.images, W, at(in, n, c + i, l), kLanes, at(out, n, c + i, l),
                 out.block_step);
    } else if (in_.order == kChannels) {
      for (int64_t p = 0; p < W; ++p)
        interleave(kernels_, part.images, part.channels, at(in, n, c, l, p), in.block_step,
                   at(out, n, c, l, p), out_.plane());
    } else {
      for (int64_t p = 0; p < W; ++p)
        separate(kernels_, part.images, part.channels, at(in, n, c, l, p), in_.plane(),
                 at(out, n, c, l, p), out.block_step);
    }
  }

  // Zeros around all planes of a part of `out`.
  void clear(const View& out, const Part& part) const {
    const bool blocks = out_.order == kImages, lanes = out_.order == kChannels;
    const int64_t block = blocks ? part.image / kLanes : part.image;
    const int64_t plane = lanes ? part.channel / kLanes : part.channel;
    for (int64_t n = 0; n < (blocks ? 1 : part.images); ++n)
      for (int64_t i = 0; i < (lanes ? 1 : part.channels); ++i)
        clear_halo(out, block + n, plane + i, 0, out_.shape.h);
  }

  const RowSparseKernels& kernels_;
  const Spec in_, out_;
};

// From a planar value, which may turn out to have its channels innermost.
class FromPlanar : public Conversion, public ReadsLast {
 public:
  using Conversion::Conversion;

  void run_last(const float* x, const View& out) const override {
    const Shape& size = in_.shape;
    const int64_t image = size.h * size.w * size.c;
    for_each_part(out_.order == kImages, [&](const Part& part) {
      for (int64_t l = 0; l < size.h; ++l) {
        const float* from = x + part.image * image + l * size.w * size.c + part.channel;
        if (out_.order == kChannels)
          kernels_.ends[kFloat].copy(size.w, part.channels, from, size.c,
                                     at(out, part.image, part.channel, l), kLanes,
                                     kLanes - part.channels);
        else
          for (int64_t p = 0; p < size.w; ++p)
            interleave(kernels_, part.images, part.channels, from + p * size.c, image,
                       at(out, part.image, part.channel, l, p), out_.plane());
      }
      clear(out, part);
    });
  }
};

class ConvertStep : public Step {
 public:
  explicit ConvertStep(const Parts& parts) : kernels_(parts.kernels) {}
  Shape infer(const std::vector<Shape>& in) const override { return in[0]; }
  std::unique_ptr<Ready> ready(const std::vector<Spec>& in, const Spec& out) const override {
    return ready_to_convert(kernels_, in[0], out);
  }

 private:
  const RowSparseKernels& kernels_;
};

}  // namespace

std::unique_ptr<Ready> ready_to_convert(const RowSparseKernels& kernels, const Spec& in,
                                        const Spec& out) {
  if (in.order == kPlanar && out.order != kPlanar)
    return std::make_unique<FromPlanar>(kernels, in, out);
  return std::make_unique<Conversion>(kernels, in, out);
}

std::unique_ptr<Step> make_convert(const Parts& parts) {
  return std::make_unique<ConvertStep>(parts);
}

}  // namespace program
}  // namespace sparse_ops
