#include "test_step.h"

#include <algorithm>
#include <limits>

#include "../cpu/scratch.h"

namespace sparse_ops {
namespace {

using namespace program;

constexpr float kNothing = std::numeric_limits<float>::quiet_NaN();

// Where a value stands.
enum Place : int64_t { kAlone = 0, kPart = 1, kThere = 2 };

Order order_from(int64_t number) {
  STD_TORCH_CHECK(number >= 0 && number / 10 <= kThere && number % 10 <= kImages,
                  "no order has the number ", number);
  return static_cast<Order>(number % 10);
}

Shape shape_of(const Tensor& t) {
  STD_TORCH_CHECK(t.dim() == 4 || t.dim() == 2, "an input must be (N, C, H, W) or (N, C), got ",
                  t.dim(), " dimensions");
  return t.dim() == 4 ? Shape{4, t.size(0), t.size(1), t.size(2), t.size(3)}
                      : Shape{2, t.size(0), t.size(1), 1, 1};
}

// How many floats before, and after, each block a part of a larger value has.
int64_t margin(const Spec& spec, int64_t place) { return place == kPart ? 2 * spec.plane() : 0; }

// Where a number of a value is.
float& at(const View& v, int64_t n, int64_t c, int64_t y, int64_t x) {
  const Spec& s = v.spec;
  const int64_t block = s.order == kImages ? n / kLanes : n;
  const int64_t plane = s.order == kChannels ? c / kLanes : c;
  const int64_t lane = s.order == kImages ? n % kLanes : s.order == kChannels ? c % kLanes : 0;
  return v.inside(block, plane)[y * s.line() + x * s.lanes() + lane];
}

// Calls work(pointer to a pixel's lanes, whether it is in the halo) for all of a value.
template <class Work>
void for_each_pixel(const View& v, const Work& work) {
  const Spec& s = v.spec;
  const int64_t height = s.shape.h + 2 * s.halo, width = s.shape.w + 2 * s.halo;
  for (int64_t b = 0; b < s.blocks(); ++b)
    for (int64_t p = 0; p < s.planes(); ++p)
      for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x)
          work(v.data + b * v.block_step + p * s.plane() + y * s.line() + x * s.lanes(),
               y < s.halo || y >= height - s.halo || x < s.halo || x >= width - s.halo);
}

void clear_halo(const View& v) {
  for_each_pixel(v, [&](float* pixel, bool halo) {
    if (halo) std::fill(pixel, pixel + v.spec.lanes(), 0.0f);
  });
}

template <class Work>
void for_each_number(const Shape& s, const Work& work) {
  int64_t i = 0;
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t c = 0; c < s.c; ++c)
      for (int64_t y = 0; y < s.h; ++y)
        for (int64_t x = 0; x < s.w; ++x) work(i++, n, c, y, x);
}

// A value and its memory, all NaN at first.
struct Placed {
  Placed(const Spec& spec, int64_t place)
      : margin_(margin(spec, place)),
        count(spec.blocks() * (spec.block() + 2 * margin_)),
        memory(count),
        view{spec, memory.get() + margin_, spec.block() + 2 * margin_} {
    std::fill(memory.get(), memory.get() + count, kNothing);
  }
  const int64_t margin_, count;
  const Scratch<float> memory;
  const View view;
};

void fill(const View& v, const Tensor& t) {
  clear_halo(v);
  const float* from = data(t);
  for_each_number(v.spec.shape, [&](int64_t i, int64_t n, int64_t c, int64_t y, int64_t x) {
    at(v, n, c, y, x) = from[i];
  });
}

}  // namespace

Tensor test_step(const RowSparseKernels& kernels, const std::vector<Tensor>& inputs,
                 const Numbers& orders, const Numbers& halos, int64_t out_order, int64_t out_halo,
                 int64_t kind, const Numbers& attributes, const std::vector<Tensor>& constants) {
  const size_t count = inputs.size();
  STD_TORCH_CHECK(count >= 1 && orders.size() == count && halos.size() == count,
                  "each of at least one input must have an order and a halo");
  const Make make = maker_of(kind);
  STD_TORCH_CHECK(make, "no step has the number ", kind);
  Parts parts = {kernels, attributes, {}};
  for (const Tensor& constant : constants)
    parts.constants.push_back(constant.dim() ? &constant : nullptr);
  const std::unique_ptr<Step> step = make(parts);

  std::vector<Tensor> tensors;
  std::vector<Shape> shapes;
  std::vector<Spec> specs;
  for (size_t i = 0; i < count; ++i) {
    tensors.push_back(floats(inputs[i], "an input"));
    shapes.push_back(shape_of(inputs[i]));
    STD_TORCH_CHECK(halos[i] >= 0 && halos[i] <= 64, "a halo must be 0 to 64, got ", halos[i]);
    specs.push_back({shapes[i], order_from(orders[i]), halos[i]});
  }
  STD_TORCH_CHECK(out_halo >= 0 && out_halo <= 64, "a halo must be 0 to 64, got ", out_halo);
  const Spec spec = {step->infer(shapes), order_from(out_order), out_halo};
  const std::unique_ptr<Ready> ready = step->ready(specs, spec);

  const Placed out(spec, out_order / 10);
  std::vector<std::unique_ptr<Placed>> placed;
  std::vector<View> views;
  int64_t channel = 0;
  for (size_t i = 0; i < count; ++i) {
    const Spec& in = specs[i];
    if (orders[i] / 10 == kThere) {
      STD_TORCH_CHECK(in.order == spec.order && in.halo == spec.halo &&
                          in.shape.n == spec.shape.n && channel + in.shape.c <= spec.shape.c &&
                          (in.order != kChannels || channel % kLanes == 0),
                      "input ", i, " cannot stand in the output");
      const int64_t plane = in.order == kChannels ? channel / kLanes : channel;
      views.push_back({in, out.view.data + plane * spec.plane(), out.view.block_step});
    } else {
      placed.push_back(std::make_unique<Placed>(in, orders[i] / 10));
      views.push_back(placed.back()->view);
    }
    fill(views.back(), tensors[i]);
    channel += in.shape.c;
  }
  const Scratch<float> scratch(ready->scratch());
  std::fill(scratch.get(), scratch.get() + ready->scratch(), kNothing);
  ready->run(views.data(), out.view, scratch.get());

  for_each_pixel(out.view, [&](const float* pixel, bool halo) {
    for (int64_t l = 0; halo && l < spec.lanes(); ++l)
      STD_TORCH_CHECK(pixel[l] == 0, "the step left ", pixel[l], " in its output's halo");
  });
  for (int64_t b = 0; b < spec.blocks(); ++b)
    for (int64_t i = 1; i <= out.margin_; ++i) {
      const float* block = out.view.data + b * out.view.block_step;
      STD_TORCH_CHECK(
          block[-i] != block[-i] && block[spec.block() + i - 1] != block[spec.block() + i - 1],
          "the step wrote beside its output");
    }
  const Shape& s = spec.shape;
  Tensor y = s.rank == 4 ? torch::stable::new_empty(tensors[0], {s.n, s.c, s.h, s.w})
                         : torch::stable::new_empty(tensors[0], {s.n, s.c});
  float* to = y.mutable_data_ptr<float>();
  for_each_number(s, [&](int64_t i, int64_t n, int64_t c, int64_t y, int64_t x) {
    to[i] = at(out.view, n, c, y, x);
  });
  return y;
}

}  // namespace sparse_ops
