// How an output of CHANNELS order is cut into tiles, and these into pieces of work.
#pragma once
#include <vector>

#include "../cpu/tiles.h"
#include "program.h"

namespace sparse_ops {
namespace program {

// Units of one group of channels that are computed at once.
struct Bundle {
  int64_t first;
  int units;
  int64_t group;
};

// `count` pixels of `lines` lines, or of images, from here on.
struct Spot {
  int64_t image, line, column;
  Tile of_units[kMostUnits + 1];
};

// Images [image, image + images), lines [top, end), which spots cover; theirs are counted from
// `image`.
struct Piece {
  int64_t image, images, top, end, first, last;
};

// What tiles with more than one line are high in: COLUMNS where pixels are farther apart than tiles
// can have them.
enum class High { kLines, kImages, kColumns };

struct Tiling {
  High high;
  std::vector<Bundle> bundles;
  std::vector<Spot> spots;
  std::vector<Piece> pieces;
  bool bundles_outside;  // of the loops over bundles and pieces
  // Whether weights, and images, are larger than a second cache.
  bool far_weights, far_images;

  // Of an output of `size`, from images whose pixels are pixel_step apart, with columns() `k`;
  // in_line: floats that a line of x has over all channels. `spread`: images may be in one tile.
  Tiling(const TileKernels& tiles, const Shape& size, int64_t units, int64_t groups, int64_t k,
         int64_t pixel_step, int64_t in_line, bool spread);

  int64_t count() const { return static_cast<int64_t>(bundles.size() * pieces.size()); }
  const Bundle& bundle(int64_t i) const {
    return bundles[bundles_outside ? i / pieces.size() : i % bundles.size()];
  }
  const Piece& piece(int64_t i) const {
    return pieces[bundles_outside ? i % pieces.size() : i / bundles.size()];
  }
};

}  // namespace program
}  // namespace sparse_ops
