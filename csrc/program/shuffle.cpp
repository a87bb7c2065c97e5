// Channels as (groups, C / groups), transposed.
#include "lanes.h"

namespace sparse_ops {
namespace program {
namespace {

struct Shuffle : Step, Ready {
  explicit Shuffle(const Parts& parts) : kernels(*parts.kernels.steps) {
    check_parts(parts, "shuffle", 1, 0);
    groups = parts.attributes[0];
    STD_TORCH_CHECK(groups >= 1, "shuffle must have at least one group, got ", groups);
  }

  Shape infer(const std::vector<Shape>& in) const override {
    check_inputs(in.size(), "shuffle", 1);
    check_shape(in[0], "shuffle", false);
    STD_TORCH_CHECK(in[0].c % groups == 0, "shuffle by ", groups,
                    " groups must read a multiple of as many channels, got ", in_words(in[0]));
    return in[0];
  }

  std::unique_ptr<Ready> ready(const std::vector<Spec>& in, const Spec& out) const override {
    check_orders(in, out, "shuffle");
    return std::make_unique<Shuffle>(*this);
  }

  // The channel that becomes this one.
  int64_t source(int64_t channel, int64_t channels) const {
    return channel % groups * (channels / groups) + channel / groups;
  }

  void run(const View* in, const View& out, float*) const override {
    const int64_t channels = out.spec.shape.c;
    for_each_lines(
        out, out.spec.line(), [&](int64_t block, int64_t plane, int64_t top, int64_t end) {
          if (out.spec.order != kChannels) {
            Lines lines = lines_of(*in, out, block, plane, top, end);
            lines.from = in->inside(block, source(plane, channels)) + top * in->spec.line();
            return copy_lines(lines);
          }
          for (int64_t l = top; l < end; ++l) {
            const float* from[kLanes];
            for (int64_t i = 0; i < kLanes; ++i) {
              // Lanes without a channel take that of the last.
              const int64_t c = source(std::min(plane * kLanes + i, channels - 1), channels);
              from[i] = in->inside(block, c / kLanes) + l * in->spec.line() + c % kLanes;
            }
            kernels.pick(out.spec.shape.w, from, out.inside(block, plane) + l * out.spec.line());
          }
        });
  }

  const StepKernels& kernels;
  int64_t groups;
};

}  // namespace

std::unique_ptr<Step> make_shuffle(const Parts& parts) { return std::make_unique<Shuffle>(parts); }

}  // namespace program
}  // namespace sparse_ops
