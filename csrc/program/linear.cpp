// Linear layers as steps, sparse or dense. The order of additions is the same for any batch.
#include <algorithm>

#include "conv.h"

namespace sparse_ops {
namespace program {
namespace {

constexpr int64_t kAttributes = 5;
// Up to this batch, rows are read one entry at a time for all; beyond it x is turned, the batch innermost.
constexpr int64_t kFew = 4;
// Floats of x that are turned at once: half of a 1 MiB L2 cache.
constexpr int64_t kPanel = 1 << 17;
// Rows whose results are written together.
constexpr int64_t kTile = 64;

int64_t up(int64_t value, int64_t step) { return (value + step - 1) / step; }

struct Sizes {
  const RowSparseKernels& kernels;
  Form form;
  int64_t out, in;
  Activation activation;
  bool residual;

  explicit Sizes(const Parts& parts) : kernels(parts.kernels) {
    const std::vector<int64_t>& a = parts.attributes;
    STD_TORCH_CHECK(static_cast<int64_t>(a.size()) == kAttributes, "a linear layer has ", kAttributes,
                    " attributes, got ", a.size());
    STD_TORCH_CHECK(a[0] == kRows || a[0] == kDense, "a linear layer's form is 0 or 1, got ", a[0]);
    form = static_cast<Form>(a[0]);
    const int64_t most = std::numeric_limits<int32_t>::max();
    STD_TORCH_CHECK(a[1] >= 1 && a[1] < most && a[2] >= 1 && a[2] < most,
                    "a linear layer's features must be 1 to 2^31 - 2, got ", a[1], " and ", a[2]);
    out = a[1];
    in = a[2];
    activation = activation_from(a[3]);
    STD_TORCH_CHECK(a[4] == 0 || a[4] == 1, "residual is 0 or 1, got ", a[4]);
    residual = a[4] == 1;
  }
};

// Weights by units of kLanes outputs, see TurnedWeights.
struct Turned {
  int64_t units, step;
  Memory values, bias;

  Turned(const Sizes& sizes, const Weights& weights)
      : units(up(sizes.out, kLanes)),
        step((sizes.in + 1) * kLanes),
        values(units * step),
        bias(units * kLanes) {
    const float* from = data(weights.values);
    if (weights.bias) std::copy_n(data(weights.bias), sizes.out, bias.get());
    torch::stable::parallel_for(0, units, 1, [&](int64_t u0, int64_t u1) {
      for (int64_t u = u0; u < u1; ++u) {
        const int64_t filled = std::min(kLanes, sizes.out - u * kLanes);
        for (int64_t i = 0; i < filled; ++i)
          for (int64_t k = 0; k < sizes.in; ++k)
            values.get()[u * step + k * kLanes + i] = from[(u * kLanes + i) * sizes.in + k];
      }
    });
  }
};

struct Given {
  Sizes sizes;
  Weights weights;
  mutable std::mutex mutex;
  mutable std::shared_ptr<const Turned> known;

  Given(const Sizes& sizes, Weights weights) : sizes(sizes), weights(std::move(weights)) {}
  std::shared_ptr<const Turned> turned() const {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!known) known = std::make_shared<const Turned>(sizes, weights);
    return known;
  }
};

// Some units, and rows [first, first + rows) of the batch, as `rows` tiles of one pixel.
class Dense : public Ready {
 public:
  Dense(const Given& given, int64_t batch)
      : sizes_(given.sizes), turned_(given.turned()), batch_(batch), offsets_(sizes_.in + 1), nowhere_(sizes_.in) {
    for (int64_t k = 0; k < sizes_.in; ++k) offsets_[k] = static_cast<int32_t>(k);
    const TileKernels& tiles = *sizes_.kernels.tiles;
    // Where there are few rows, many units: what is read of a weight is used by all of them, and
    // additions do not wait for each other.
    for (int units = kMostUnits; units >= 1; --units)
      if (tiles.pixels[units] > tiles.pixels[units_] && (units_ == 0 || tiles.pixels[units_] < batch))
        units_ = units;
    const int64_t bundles = up(turned_->units, units_);
    grain_ = grain_of(bundles, batch * sizes_.in * turned_->units * kLanes);
    edge_ = sizes_.out % kLanes != 0;
    const int64_t lines = tiles.pixels[1];
    scratch_ = edge_ ? lines * kLanes : 0;
  }

  // Two of one line each: what is added to the last unit, and its results.
  int64_t scratch() const override { return 2 * scratch_; }

  void run(const View* in, const View& out, float* scratch) const override {
    torch::stable::parallel_for(0, up(turned_->units, units_), grain_, [&](int64_t b0, int64_t b1) {
      for (int64_t b = b0; b < b1; ++b) {
        const int64_t end = std::min(turned_->units, (b + 1) * units_);
        const int64_t whole = edge_ ? std::min(end, turned_->units - 1) : end;
        for (int64_t u = b * units_; u < whole;) {
          int units = static_cast<int>(whole - u);
          while (sizes_.kernels.tiles->pixels[units] == 0) --units;
          compute(in, out, u, units);
          u += units;
        }
        if (whole < end) compute_edge(in, out, scratch);
      }
    });
  }

 private:
  TileWork work_of(const View* in, int64_t unit) const {
    TileWork work = {};
    work.k = sizes_.in;
    work.offsets = offsets_.data();
    work.weights = turned_->values.get() + unit * turned_->step;
    work.weight_step = turned_->step;
    work.bias = turned_->bias.get() + unit * kLanes;
    work.line_step = in[0].block_step;
    // Nothing that would not come by itself.
    work.ahead = work.bias;
    work.later = nowhere_.data();
    work.activation = sizes_.activation;
    return work;
  }
  template <class Rows>
  void in_tiles(int units, const Rows& rows) const {
    const int64_t parts = up(batch_, sizes_.kernels.tiles->pixels[units]);
    for (int64_t p = 0; p < parts; ++p) {
      const int64_t first = batch_ * p / parts, count = batch_ * (p + 1) / parts - first;
      rows(sizes_.kernels.tiles->tile(units, 1, static_cast<int>(count), kLanes), first, count);
    }
  }
  void compute(const View* in, const View& out, int64_t unit, int units) const {
    TileWork work = work_of(in, unit);
    work.out_line = out.block_step;
    work.out_unit = work.added_unit = kLanes;
    if (sizes_.residual) work.added_line = in[1].block_step;
    in_tiles(units, [&](Tile tile, int64_t first, int64_t) {
      tile(work, in[0].data + first * in[0].block_step,
           out.data + first * out.block_step + unit * kLanes,
           sizes_.residual ? in[1].data + first * in[1].block_step + unit * kLanes : nullptr);
    });
  }
  // The last unit, which is not whole, by way of scratch memory.
  void compute_edge(const View* in, const View& out, float* scratch) const {
    const int64_t unit = turned_->units - 1, column = unit * kLanes, filled = sizes_.out - column;
    TileWork work = work_of(in, unit);
    work.out_line = work.added_line = kLanes;
    float *more = scratch, *results = scratch + scratch_;
    std::fill_n(more, scratch_, 0.0f);
    in_tiles(1, [&](Tile tile, int64_t first, int64_t count) {
      for (int64_t i = 0; sizes_.residual && i < count; ++i)
        std::copy_n(in[1].data + (first + i) * in[1].block_step + column, filled, more + i * kLanes);
      tile(work, in[0].data + first * in[0].block_step, results, sizes_.residual ? more : nullptr);
      for (int64_t i = 0; i < count; ++i)
        std::copy_n(results + i * kLanes, filled, out.data + (first + i) * out.block_step + column);
    });
  }

  const Sizes sizes_;
  std::shared_ptr<const Turned> turned_;
  int64_t batch_;
  std::vector<int32_t> offsets_, nowhere_;
  int units_ = 0;
  int64_t grain_, scratch_;
  bool edge_;
};

class Sparse : public Ready {
 public:
  Sparse(const Given& given, int64_t batch)
      : sizes_(given.sizes),
        crow_(given.weights.crow),
        col_(given.weights.col),
        batch_(batch) {
    const std::optional<Tensor>& values = given.weights.values;
    if (values) values_.assign(data(*values), data(*values) + values->numel());
    if (given.weights.bias)
      bias_.assign(data(*given.weights.bias), data(*given.weights.bias) + sizes_.out);
    const int64_t threads = torch::stable::get_num_threads();
    // One entry of x for a row, four, or whole lines of the batch.
    lines_ = 0;
    width_ = batch == 1 ? 1 : 4;
    if (batch > kFew) {
      const int64_t most = std::clamp<int64_t>(kPanel / (sizes_.in * kLanes), 1,
                                               sizes_.kernels.tiles->most_lines);
      const int64_t all = up(batch, kLanes);
      lines_ = up(all, up(all, most));
      width_ = lines_ * kLanes;
    }
    panel_ = batch == 1 ? 0 : up(sizes_.in * width_, kLanes) * kLanes;
    results_ = kTile * width_;
    dense_ = lines_ ? kTile * kLanes : 0;
    const int64_t work = static_cast<int64_t>(values_.size()) * up(batch, 4);
    shares_ = std::clamp<int64_t>(work / (kGrain / 8), 1, std::min(threads, up(sizes_.out, kTile)));
  }

  int64_t scratch() const override { return panel_ + shares_ * (results_ + dense_); }

  void run(const View* in, const View& out, float* scratch) const override {
    const int64_t step = lines_ ? width_ : std::max<int64_t>(1, batch_);
    for (int64_t first = 0; first < batch_; first += step) {
      const int64_t count = std::min(step, batch_ - first);
      const float* x = in[0].data + first * in[0].block_step;
      if (batch_ > 1) {
        turn(x, in[0].block_step, count, scratch);
        x = scratch;
      }
      torch::stable::parallel_for(0, shares_, 1, [&](int64_t s0, int64_t s1) {
        for (int64_t s = s0; s < s1; ++s)
          multiply(x, in, out, first, count, sizes_.out * s / shares_,
                   sizes_.out * (s + 1) / shares_, scratch + panel_ + s * (results_ + dense_));
      });
    }
  }

 private:
  // `count` rows of x side by side, zeros where there are none.
  void turn(const float* x, int64_t step, int64_t count, float* to) const {
    if (!lines_) {
      for (int64_t k = 0; k < sizes_.in; ++k)
        for (int64_t b = 0; b < width_; ++b) to[k * width_ + b] = b < count ? x[b * step + k] : 0.0f;
      return;
    }
    for (int64_t line = 0; line < lines_; ++line) {
      const int64_t filled = std::clamp<int64_t>(count - line * kLanes, 0, kLanes);
      const float* rows = x + line * kLanes * step;
      if (filled == kLanes) {
        sizes_.kernels.interleave(sizes_.in, rows, step, 1, to + line * kLanes, width_);
        continue;
      }
      for (int64_t k = 0; k < sizes_.in; ++k)
        for (int64_t l = 0; l < kLanes; ++l)
          to[k * width_ + line * kLanes + l] = l < filled ? rows[l * step + k] : 0.0f;
    }
  }

  // Rows [from, to) of the weight, for rows [first, first + count) of the batch.
  void multiply(const float* x, const View* in, const View& out, int64_t first, int64_t count,
                int64_t from, int64_t to, float* results) const {
    const TileKernels& tiles = *sizes_.kernels.tiles;
    const EndKernels& ends = sizes_.kernels.ends[kFloat];
    const View* added = sizes_.residual ? in + 1 : nullptr;
    for (int64_t o = from; o < to; o += kTile) {
      const int64_t rows = std::min(kTile, to - o);
      const SparseWork work = {o, o + rows, crow_.data(), col_.data(), values_.data(),
                               bias_.empty() ? nullptr : bias_.data()};
      if (lines_)
        tiles.sparse_lines(static_cast<int>(lines_), work, x, results);
      else
        (width_ == 1 ? tiles.sparse_one : tiles.sparse_four)(work, x, results);
      for (int64_t b = 0; b < count; b += kLanes) {
        float* y = out.data + (first + b) * out.block_step + o;
        const float* more = added ? added->data + (first + b) * added->block_step + o : nullptr;
        if (lines_ && count - b >= kLanes) {
          float* dense = results + results_;
          sizes_.kernels.separate(rows, results + b, width_, dense, kTile);
          ends.put(kLanes, rows, dense, kTile, more, added ? added->block_step : 0, y,
                   out.block_step, sizes_.activation);
          continue;
        }
        for (int64_t i = 0; i < std::min(kLanes, count - b); ++i)
          ends.write(rows, results + b + i, width_, more ? more + i * added->block_step : nullptr, 1,
                     y + i * out.block_step, 1, sizes_.activation);
      }
    }
  }

  const Sizes sizes_;
  const std::vector<int32_t> crow_, col_;
  std::vector<float> values_, bias_;
  int64_t batch_, lines_, width_, panel_, results_, dense_, shares_;
};

class Linear : public Step {
 public:
  Linear(const Sizes& sizes, Weights weights) : given_(sizes, std::move(weights)) {}

  Shape infer(const std::vector<Shape>& in) const override {
    const Sizes& s = given_.sizes;
    const size_t wanted = s.residual ? 2 : 1;
    STD_TORCH_CHECK(in.size() == wanted, "a linear layer ", s.residual ? "with" : "without",
                    " residual has ", wanted, " inputs, got ", in.size());
    STD_TORCH_CHECK(in[0].rank == 2 && in[0].c == s.in, "x must be (N, ", s.in, "), got rank ",
                    in[0].rank, " with ", in[0].c, " features");
    if (s.residual)
      STD_TORCH_CHECK(in[1].rank == 2 && in[1].n == in[0].n && in[1].c == s.out,
                      "residual must be (", in[0].n, ", ", s.out, "), got rank ", in[1].rank, " (",
                      in[1].n, ", ", in[1].c, ")");
    return {2, in[0].n, s.out, 1, 1};
  }

  std::unique_ptr<Ready> ready(const std::vector<Spec>& in, const Spec& out) const override {
    for (const Spec& spec : in)
      STD_TORCH_CHECK(spec.order == kPlanar && spec.halo == 0, "linear layers read PLANAR values");
    STD_TORCH_CHECK(out.order == kPlanar && out.halo == 0, "linear layers write PLANAR values");
    if (given_.sizes.form == kDense) return std::make_unique<Dense>(given_, out.shape.n);
    return std::make_unique<Sparse>(given_, out.shape.n);
  }

 private:
  Given given_;
};

}  // namespace

std::unique_ptr<Step> make_linear(const Parts& parts) {
  const Sizes sizes(parts);
  return std::make_unique<Linear>(sizes, Weights(parts, sizes.form, sizes.out, sizes.in, false));
}

}  // namespace program
}  // namespace sparse_ops
