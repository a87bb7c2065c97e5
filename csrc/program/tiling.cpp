#include "tiling.h"

#include <algorithm>
#include <array>
#include <utility>

#include "../cpu/second_cache.h"

namespace sparse_ops {
namespace program {
namespace {

// What a piece reads and writes, in floats, should leave room for weights in the second cache.
int64_t most_in_piece() { return second_cache() / 4; }

int64_t up(int64_t value, int64_t step) { return (value + step - 1) / step; }

// [0, size) in `parts` parts of equal size or nearly.
struct Cuts {
  int64_t size, parts;
  int64_t at(int64_t i) const { return size * i / parts; }
  int64_t length(int64_t i) const { return at(i + 1) - at(i); }
};

// In about cycles: additions, loads, or additions that wait for each other; and what else a tile
// is.
double cost_of(const TileKernels& tiles, int64_t units, int64_t pixels, int64_t k) {
  const double vectors = static_cast<double>(units * kLanes / tiles.lanes);
  const double steps = std::max({vectors * pixels / 2, (vectors + pixels) / 2, 4.0});
  return k * steps + 20 + 1.5 * vectors * pixels;
}

struct Choice {
  High high;
  int units;
  Cuts across, down;  // of columns; of lines, images or columns
  double cost;
};

// Of `units` of one group: as many as `most` at once, of equal number or nearly, as there are tiles
// for.
std::vector<int> parts_of(const TileKernels& tiles, int64_t units, int most) {
  std::vector<int> parts;
  if (most <= 4) {
    const Cuts cuts{units, up(units, most)};
    for (int64_t i = 0; i < cuts.parts; ++i) parts.push_back(static_cast<int>(cuts.length(i)));
    bool good = true;
    for (const int part : parts) good = good && tiles.pixels[part] > 0;
    if (good) return parts;
    parts.clear();
  }
  for (int64_t left = units; left > 0;) {
    int part = static_cast<int>(std::min<int64_t>(most, left));
    while (tiles.pixels[part] == 0) --part;
    parts.push_back(part);
    left -= part;
  }
  return parts;
}

// The cost of one group's units over all images.
double cost_of(const TileKernels& tiles, const Choice& c, const std::vector<int>& parts, int64_t k,
               int64_t times) {
  const auto sizes = [](const Cuts& cuts) {
    const int64_t longer = cuts.size % cuts.parts;
    return std::array<std::pair<int64_t, int64_t>, 2>{
        {{cuts.size / cuts.parts, cuts.parts - longer}, {cuts.size / cuts.parts + 1, longer}}};
  };
  double cost = 0;
  for (const int units : parts)
    for (const auto& [width, columns] : sizes(c.across))
      for (const auto& [height, lines] : sizes(c.down))
        if (columns * lines > 0)
          cost += static_cast<double>(columns * lines * times) *
                  cost_of(tiles, units, width * height, k);
  return cost;
}

Choice choose(const TileKernels& tiles, const Shape& size, int64_t units, int64_t k,
              int64_t pixel_step, bool spread) {
  Choice best = {};
  best.units = 0;
  const auto consider = [&](High high, int most, int64_t width, int64_t height, int64_t length,
                            int64_t breadth, int64_t times) {
    Choice c = {high, most, {breadth, up(breadth, width)}, {length, up(length, height)}, 0};
    c.cost = cost_of(tiles, c, parts_of(tiles, units, most), k, times);
    if (best.units == 0 || c.cost < best.cost) best = c;
  };
  const bool near = pixel_step == kLanes || pixel_step == 2 * kLanes;
  const bool planes = pixel_step == 1 || pixel_step == 2;
  for (int most = 1; most <= kMostUnits && most < units + 1; ++most) {
    if (tiles.pixels[most] == 0) continue;
    if (planes && most > 2) break;
    const int64_t pixels = tiles.pixels[most];
    if (!near && !planes) {
      consider(High::kColumns, most, 1, pixels, size.w, 1, size.n * size.h);
      continue;
    }
    for (int64_t width = 1; width <= std::min(pixels, size.w); ++width) {
      const int64_t high = planes && width > 1 ? 1 : pixels / width;
      consider(High::kLines, most, width, std::min(high, size.h), size.h, size.w, size.n);
      if (spread && size.n > 1 && !planes)
        consider(High::kImages, most, width, std::min(high, size.n), size.n, size.w, size.h);
    }
  }
  return best;
}

}  // namespace

Tiling::Tiling(const TileKernels& tiles, const Shape& size, int64_t units, int64_t groups,
               int64_t k, int64_t pixel_step, int64_t in_line, bool spread) {
  const int64_t per_group = units / groups, threads = torch::stable::get_num_threads();
  const Choice choice = choose(tiles, size, per_group, k, pixel_step, spread);
  const std::vector<int> parts = parts_of(tiles, per_group, choice.units);
  high = choice.high;
  for (int64_t g = 0, unit = 0; g < groups; ++g)
    for (const int part : parts) {
      bundles.push_back({unit, part, g});
      unit += part;
    }

  const auto spot = [&](int64_t image, int64_t line, int64_t column, int64_t width,
                        int64_t height) {
    Spot s = {image, line, column, {}};
    for (const int part : parts) {
      s.of_units[part] =
          tiles.tile(part, static_cast<int>(width), static_cast<int>(height), pixel_step);
      STD_TORCH_CHECK(s.of_units[part], "there is no tile of ", part, " units, ", height, " x ",
                      width, " pixels");
    }
    spots.push_back(s);
  };
  // Lines of an image that are a piece.
  const int64_t line = in_line + units * kLanes * size.w;
  int64_t most = std::max<int64_t>(1, most_in_piece() / std::max<int64_t>(1, line));
  // Every thread should have some.
  const int64_t pieces_wanted =
      threads == 1 ? 1 : up(4 * threads, static_cast<int64_t>(bundles.size()));
  most = std::clamp<int64_t>(
      most, 1, up(size.h, std::max<int64_t>(1, pieces_wanted / std::max<int64_t>(1, size.n))));

  if (high == High::kImages) {
    const Cuts cuts{size.h, up(size.h, most)};
    // Parts of the batch have one of two sizes.
    int64_t known[2] = {-1, -1};
    for (int64_t i = 0; i < choice.down.parts; ++i) {
      const int64_t images = choice.down.length(i);
      int64_t& first = known[images - size.n / choice.down.parts];
      const bool fresh = first < 0;
      if (fresh) first = static_cast<int64_t>(spots.size());
      if (fresh)
        for (int64_t l = 0; l < size.h; ++l)
          for (int64_t c = 0; c < choice.across.parts; ++c)
            spot(0, l, choice.across.at(c), choice.across.length(c), images);
      for (int64_t p = 0; p < cuts.parts; ++p)
        pieces.push_back({choice.down.at(i), images, cuts.at(p), cuts.at(p + 1),
                          first + cuts.at(p) * choice.across.parts,
                          first + cuts.at(p + 1) * choice.across.parts});
    }
  } else {
    const bool lines = high == High::kLines;
    const int64_t rows = lines ? choice.down.parts : size.h;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < (lines ? choice.across.parts : choice.down.parts); ++c)
        if (lines)
          spot(0, choice.down.at(r), choice.across.at(c), choice.across.length(c),
               choice.down.length(r));
        else
          spot(0, r, choice.down.at(c), 1, choice.down.length(c));
    const int64_t each = lines ? choice.across.parts : choice.down.parts;
    const int64_t step = lines ? std::max<int64_t>(1, most / up(size.h, rows)) : most;
    const Cuts cuts{rows, up(rows, step)};
    for (int64_t n = 0; n < size.n; ++n)
      for (int64_t p = 0; p < cuts.parts; ++p) {
        const int64_t r0 = cuts.at(p), r1 = cuts.at(p + 1);
        pieces.push_back({n, 1, lines ? choice.down.at(r0) : r0, lines ? choice.down.at(r1) : r1,
                          r0 * each, r1 * each});
      }
  }

  // What is read again and again from beyond the second cache: weights for each piece, or x for
  // each bundle.
  const int64_t weights = units * kLanes * k, images = in_line * size.h * size.n;
  const int64_t again_weights =
      weights > second_cache() ? weights * static_cast<int64_t>(pieces.size()) : weights;
  const int64_t again_images =
      images > second_cache() ? images * static_cast<int64_t>(bundles.size()) : images;
  bundles_outside = weights + again_images < again_weights + images;
  far_weights = weights > second_cache();
  far_images = images > second_cache();
}

}  // namespace program
}  // namespace sparse_ops
