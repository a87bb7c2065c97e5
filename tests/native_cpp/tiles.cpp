// Convolutions of programs, with 16 channels innermost.
#include "microkernels.h"

namespace checking {

namespace {

void check_tile(Tile tile, int64_t units, int64_t width, int64_t lines, int64_t pixel, int64_t k) {
  const int64_t line = width * pixel + 3, out_line = width * kLanes;
  const int64_t out_unit = lines * out_line + 16, step = (k + 1) * kLanes;
  const auto offsets = places(k, 20, 1), later = places(k, 20, 1);
  Floats panel(line * lines + 20), weights(units * step), bias(units * kLanes);
  Floats out(units * out_unit, false), added(units * out_unit);
  TileWork work = {};
  work.k = k;
  work.offsets = offsets.data();
  work.weights = weights.get();
  work.weight_step = step;
  work.bias = bias.get();
  work.line_step = line;
  work.out_line = work.added_line = out_line;
  work.out_unit = work.added_unit = out_unit;
  work.ahead = panel.get();
  work.later = later.data();
  work.activation = any_activation();
  const bool adds = below(2);
  tile(work, panel.get(), out.get(), adds ? added.get() : nullptr);
  over({units, lines, width, kLanes}, [&](int64_t u, int64_t l, int64_t p, int64_t i) {
    const int64_t at = u * out_unit + l * out_line + p * kLanes + i;
    const float* x = panel.get() + l * line + p * pixel;
    Exact exact = products(k, work.weights + u * step + i, kLanes, offsets, x);
    exact.plus(bias[u * kLanes + i]);
    if (adds) exact.plus(added[at]);
    compare("tile", out[at], exact, work.activation);
  });
}

}  // namespace

// Every tile there is.
void test_tiles(const RowSparseKernels& kernels) {
  const TileKernels& tiles = *kernels.tiles;
  int64_t found = 0;
  for (int units = 1; units <= kMostUnits; ++units)
    for (const int64_t pixel : {int64_t{1}, int64_t{2}, kLanes, 2 * kLanes})
      for (int width = 1; width <= tiles.pixels[units]; ++width)
        for (int lines = 1; lines * width <= tiles.pixels[units]; ++lines) {
          const Tile tile = tiles.tile(units, width, lines, pixel);
          if (!tile) continue;
          ++found;
          for (const int64_t k : kLengths) check_tile(tile, units, width, lines, pixel, k);
        }
  if (found < 4) fail("there are only " + std::to_string(found) + " tiles");
}

void test_depthwise(const RowSparseKernels& kernels) {
  const int64_t all_taps[] = {1, 9, 25};
  over({3, 3, 29}, [&](int64_t count, int64_t steps, int64_t size) {
    const int64_t taps = all_taps[count], pixel = (steps + 1) * kLanes, width = size + 1, lines = 2;
    const int64_t line = (width + 2) * pixel, out_line = width * kLanes;
    auto offsets = places(taps, 2);
    for (int32_t& each : offsets) each *= kLanes;
    Floats panel(line * lines + 2 * kLanes), weights(taps * kLanes), bias(kLanes);
    Floats out(lines * out_line, false), added(lines * out_line);
    DepthwiseWork work = {};
    work.lines = lines;
    work.width = width;
    work.taps = taps;
    work.offsets = offsets.data();
    work.weights = weights.get();
    work.bias = bias.get();
    work.panel = panel.get();
    work.line_step = line;
    work.pixel_step = pixel;
    work.out = out.get();
    work.out_line = work.added_line = out_line;
    work.added = width % 2 ? added.get() : nullptr;
    work.activation = any_activation();
    kernels.tiles->depthwise(work);
    over({lines, width, kLanes}, [&](int64_t l, int64_t p, int64_t i) {
      const int64_t at = l * out_line + p * kLanes + i;
      const float* x = work.panel + l * line + p * pixel + i;
      Exact exact = products(work.taps, work.weights + i, kLanes, offsets, x).plus(bias[i]);
      if (work.added) exact.plus(added[at]);
      compare("depthwise", out[at], exact, work.activation);
    });
  });
}

}  // namespace checking
