// Dense linear layers as steps: tiles of one pixel, which is a row of the batch.
#include "linear.h"

namespace sparse_ops {
namespace program {
namespace {

int64_t up(int64_t value, int64_t step) { return (value + step - 1) / step; }

// Some units, and rows [first, first + rows) of the batch, as `rows` tiles of one pixel.
class Dense : public Ready {
 public:
  Dense(const GivenLinear& given, int64_t batch)
      : sizes_(given.sizes),
        turned_(given.turned()),
        batch_(batch),
        offsets_(sizes_.in + 1),
        nowhere_(sizes_.in) {
    for (int64_t k = 0; k < sizes_.in; ++k) offsets_[k] = static_cast<int32_t>(k);
    const TileKernels& tiles = *sizes_.kernels.tiles;
    // Where there are few rows, many units: what is read of a weight is used by all of them, and
    // additions do not wait for each other.
    for (int units = kMostUnits; units >= 1; --units)
      if (tiles.pixels[units] > tiles.pixels[units_] &&
          (units_ == 0 || tiles.pixels[units_] < batch))
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
        std::copy_n(in[1].data + (first + i) * in[1].block_step + column, filled,
                    more + i * kLanes);
      tile(work, in[0].data + first * in[0].block_step, results, sizes_.residual ? more : nullptr);
      for (int64_t i = 0; i < count; ++i)
        std::copy_n(results + i * kLanes, filled, out.data + (first + i) * out.block_step + column);
    });
  }

  const LinearSizes sizes_;
  std::shared_ptr<const TurnedLinear> turned_;
  int64_t batch_;
  std::vector<int32_t> offsets_, nowhere_;
  int units_ = 0;
  int64_t grain_, scratch_;
  bool edge_;
};

}  // namespace

std::unique_ptr<Ready> ready_dense_linear(const GivenLinear& given, int64_t batch) {
  return std::make_unique<Dense>(given, batch);
}

}  // namespace program
}  // namespace sparse_ops
