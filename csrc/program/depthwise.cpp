// Convolutions of each channel with itself in CHANNELS order: vectors of channels.
#include <algorithm>

#include "conv.h"

namespace sparse_ops {
namespace program {
namespace {

// What lines of a plane that are one piece of work write, in floats.
constexpr int64_t kPiece = 1 << 14;

class Depthwise : public Ready {
 public:
  Depthwise(const Whole& conv, const Spec& in, const Spec& out)
      : layer_(conv->layer),
        weights_(out.planes() * layer_.taps() * kLanes),
        bias_(out.planes() * kLanes) {
    const int64_t taps = layer_.taps();
    const float* from = data(conv->weights.values);
    for (int64_t c = 0; c < layer_.channels; ++c)
      for (int64_t t = 0; t < taps; ++t)
        weights_.get()[(c / kLanes * taps + t) * kLanes + c % kLanes] = from[c * taps + t];
    if (conv->weights.bias) std::copy_n(data(conv->weights.bias), layer_.channels, bias_.get());
    for (int64_t y = 0; y < layer_.kernel[0]; ++y)
      for (int64_t x = 0; x < layer_.kernel[1]; ++x)
        offsets_.push_back(static_cast<int32_t>(y * layer_.dilation[0] * in.line() +
                                                x * layer_.dilation[1] * kLanes));
    const int64_t lines = std::clamp<int64_t>(kPiece / (out.shape.w * kLanes), 1, out.shape.h);
    parts_ = (out.shape.h + lines - 1) / lines;
    const int64_t work = out.size() * taps;
    grain_ = grain_of(out.blocks() * out.planes() * parts_, work);
  }

  void run(const View* in, const View& out, float*) const override {
    const View& x = in[0];
    const View* added = layer_.residual ? in + 1 : nullptr;
    const int64_t planes = out.spec.planes(), height = out.spec.shape.h, line = x.spec.line();
    torch::stable::parallel_for(
        0, out.spec.blocks() * planes * parts_, grain_, [&](int64_t i0, int64_t i1) {
          for (int64_t i = i0; i < i1; ++i) {
            const int64_t plane = i / parts_ % planes, n = i / parts_ / planes;
            const int64_t top = height * (i % parts_) / parts_,
                          end = height * (i % parts_ + 1) / parts_;
            DepthwiseWork work = {};
            work.lines = end - top;
            work.width = out.spec.shape.w;
            work.taps = layer_.taps();
            work.offsets = offsets_.data();
            work.weights = weights_.get() + plane * work.taps * kLanes;
            work.bias = bias_.get() + plane * kLanes;
            work.line_step = layer_.stride[0] * line;
            work.pixel_step = layer_.stride[1] * kLanes;
            work.panel = x.inside(n, plane) - layer_.padding[0] * line -
                         layer_.padding[1] * kLanes + top * work.line_step;
            float* inside = out.inside(n, plane);
            work.out = inside + top * out.spec.line();
            work.out_line = out.spec.line();
            if (added) {
              work.added = added->inside(n, plane) + top * added->spec.line();
              work.added_line = added->spec.line();
            }
            work.activation = layer_.activation;
            layer_.kernels.tiles->depthwise(work);
            clear_around(out.spec, inside, top, end);
          }
        });
  }

 private:
  const Layer layer_;
  Memory weights_, bias_;
  std::vector<int32_t> offsets_;
  int64_t parts_, grain_;
};

}  // namespace

std::unique_ptr<Ready> ready_depthwise(const Whole& conv, const Spec& in, const Spec& out,
                                       const Spec*) {
  return std::make_unique<Depthwise>(conv, in, out);
}

}  // namespace program
}  // namespace sparse_ops
