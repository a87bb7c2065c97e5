// Convolutions in PLANAR order, sparse or dense, by the kernels of cpu/conv2d.h.
#include <algorithm>

#include "../cpu/conv2d.h"
#include "conv.h"

namespace sparse_ops {
namespace program {
namespace {

Numbers two(const int64_t (&numbers)[2]) { return {numbers[0], numbers[1]}; }

Layout layout_of(const View& view) { return {view.block_step, view.spec.plane(), 1}; }
Source source_of(const View& view) { return {reinterpret_cast<const char*>(view.data), kFloat}; }

// Which columns are kept, in memory of its own.
struct Kept {
  std::vector<int32_t> crow, col;
  std::vector<float> values, bias;

  Kept(const Layer& layer, const Weights& weights) : crow(weights.crow), col(weights.col) {
    if (weights.form == kDense) {
      // All filters keep all columns: one class.
      crow = {0, static_cast<int32_t>(layer.columns())};
      for (int64_t c = 0; c < layer.columns(); ++c) col.push_back(static_cast<int32_t>(c));
    }
    if (weights.values)
      values.assign(data(*weights.values), data(*weights.values) + weights.values->numel());
    if (weights.bias) bias.assign(data(*weights.bias), data(*weights.bias) + layer.filters);
  }
  Rows rows(int64_t filters) const {
    return {crow.data(), static_cast<int64_t>(crow.size()) - 1, col.data(), values.data(), filters};
  }
};

class PlanarConv : public Ready {
 public:
  PlanarConv(const Whole& conv, const Spec& in, const Spec& out)
      : layer_(conv->layer),
        kept_(layer_, conv->weights),
        rows_(kept_.rows(layer_.filters)),
        conv_(in.shape.n, in.shape.c, in.shape.h, in.shape.w,
              {layer_.filters, layer_.group_channels(), layer_.kernel[0], layer_.kernel[1]},
              two(layer_.stride), two(layer_.padding), two(layer_.dilation), layer_.groups) {
    const int64_t classes = rows_.classes, threads = torch::stable::get_num_threads();
    const bool even = layer_.groups == 1 || layer_.group_filters() % classes == 0;
    STD_TORCH_CHECK(layer_.way != kOfFilters || even,
                    "vectors of filters need groups whose filters "
                    "are a multiple of the classes, got ",
                    layer_.group_filters(), " of ", classes);
    if (in.shape.n == 0) return;
    // Not by the size of the batch, on which results must not depend.
    const bool wide =
        layer_.way == kOfFilters ||
        (layer_.way != kOfPixels && wide_classes(layer_.filters, layer_.groups, classes));
    const int64_t work = in.shape.n * out.shape.h * out.shape.w * rows_.start[layer_.filters];
    const int64_t most = std::clamp<int64_t>(work / kGrain, 1, threads);
    // Where x and y are does not matter here, whether there is a residual does.
    const float nothing = 0.0f;
    const Source some = {reinterpret_cast<const char*>(&nothing), kFloat};
    const Job job = job_of(some, {}, {nullptr, kFloat}, {}, some, {});
    if (wide) {
      channels_ = std::make_unique<ChannelsPlan>(job);
      shares_ = channels_->shares(most);
      scratch_ = channels_->scratch(shares_);
      return;
    }
    // Image by image, so that results do not depend on how many there are: several at once where
    // that is enough for all threads.
    planar_ = std::make_unique<PlanarPlan>(job, 1);
    at_once_ = in.shape.n >= most ? most : 1;
    shares_ = at_once_ > 1 ? 1 : planar_->shares(most);
    scratch_ = (planar_->scratch(shares_) + kLanes - 1) / kLanes * kLanes;
  }

  int64_t scratch() const override { return scratch_ * at_once_; }

  void run(const View* in, const View& out, float* scratch) const override {
    if (!channels_ && !planar_) return;
    const bool residual = layer_.residual;
    const Job job =
        job_of(source_of(in[0]), layout_of(in[0]), {reinterpret_cast<char*>(out.data), kFloat},
               layout_of(out), residual ? source_of(in[1]) : Source{nullptr, kFloat},
               residual ? layout_of(in[1]) : Layout{});
    if (channels_) {
      channels_->run(job, shares_, scratch);
      return;
    }
    const int64_t images = conv_.batch;
    torch::stable::parallel_for(0, at_once_, 1, [&](int64_t s0, int64_t s1) {
      for (int64_t s = s0; s < s1; ++s)
        for (int64_t n = images * s / at_once_; n < images * (s + 1) / at_once_; ++n)
          planar_->run(job, n, shares_, scratch + s * scratch_);
    });
  }

 private:
  Job job_of(const Source& x, const Layout& in, const Target& y, const Layout& out,
             const Source& residual, const Layout& added) const {
    Job job(layer_.kernels, conv_, rows_);
    if (!kept_.bias.empty()) job.bias = kept_.bias.data();
    job.activation = layer_.activation;
    job.x = x;
    job.in = in;
    job.y = y;
    job.out = out;
    job.residual = layer_.residual ? residual : Source{nullptr, kFloat};
    job.added = added;
    return job;
  }

  const Layer layer_;
  Kept kept_;
  Rows rows_;
  Convolution conv_;
  std::unique_ptr<const ChannelsPlan> channels_;
  std::unique_ptr<const PlanarPlan> planar_;
  int64_t at_once_ = 1, shares_ = 1, scratch_ = 0;
};

}  // namespace

std::unique_ptr<Ready> ready_rows(const Whole& conv, const Spec& in, const Spec& out, const Spec*) {
  return std::make_unique<PlanarConv>(conv, in, out);
}

}  // namespace program
}  // namespace sparse_ops
