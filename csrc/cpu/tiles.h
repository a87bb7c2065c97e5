// The microkernels of programs' convolutions and linear layers with 16 channels innermost, as a
// table of functions on raw pointers. As in row_sparse.h: free of torch and of std.
#pragma once
#include "row_sparse.h"

namespace sparse_ops {

// What all tiles of a layer have in common. One tile is some units of kLanes channels, at `width`
// pixels of `lines` lines:
//     out[u * out_unit + l * out_line + p * kLanes + i] = activation(bias[u * kLanes + i]
//         + added[u * added_unit + l * added_line + p * kLanes + i]
//         + sum_j  weights[u * weight_step + j * kLanes + i] * panel[offsets[j] + l * line_step + p
//         * pixel_step])
// Sums are added up in the order of j whatever the tile, in pieces (vector_body.h), so that results
// do not depend on how an image is cut. One more offset than k is read. `added` may be null. Tiles
// of several units ask for ahead[later[j]] to come to the second cache, meanwhile.
struct TileWork {
  int64_t k;
  const int32_t* offsets;
  const float* weights;
  int64_t weight_step;
  const float* bias;
  int64_t line_step;
  int64_t out_line, out_unit, added_line, added_unit;
  const float* ahead;
  const int32_t* later;
  Activation activation;
};
using Tile = void (*)(const TileWork& work, const float* panel, float* out, const float* added);

// A convolution of each channel with itself, for kLanes channels:
//     out[l * out_line + p * kLanes + i] = activation(bias[i] + added[l * added_line + p * kLanes +
//     i]
//         + sum_t  weights[t * kLanes + i] * panel[offsets[t] + l * line_step + p * pixel_step +
//         i])
struct DepthwiseWork {
  int64_t lines, width, taps;
  const int32_t* offsets;
  const float* weights;
  const float* bias;
  const float* panel;
  int64_t line_step, pixel_step;
  float* out;
  int64_t out_line;
  const float* added;  // or null
  int64_t added_line;
  Activation activation;
};

// Rows [first, last) of a sparse matrix, with which x is multiplied.
struct SparseWork {
  int64_t first, last;
  const int32_t* crow;
  const int32_t* columns;
  const float* values;
  const float* bias;  // of all rows, or null
};

constexpr int kMostUnits = 8;

struct TileKernels {
  // The tile of a size, for pixels that are a step of kLanes, 2 * kLanes, 1 or 2 apart, or null
  // where there is none: there are those of up to `pixels[units]` pixels, for steps of 1 and 2
  // those of one line and up to two units. With a width of 1, the step does not matter.
  Tile (*tile)(int units, int width, int lines, int64_t pixel_step);

  // See DepthwiseWork.
  void (*depthwise)(const DepthwiseWork& work);

  // y[(o - first) * width + b] = bias[o] + sum_k values[k] * x[columns[k] * width + b], where width
  // is 1 or 4, or `units` times kLanes. The order of additions is the same for all three.
  void (*sparse_one)(const SparseWork& work, const float* x, float* y);
  void (*sparse_four)(const SparseWork& work, const float* x, float* y);
  void (*sparse_lines)(int units, const SparseWork& work, const float* x, float* y);

  // By units: how many pixels a tile may have; 0: there is none of so many units.
  int pixels[kMostUnits + 1];

  // Floats in a vector.
  int lanes;

  // The most units of `sparse_lines`.
  int most_lines;
};

extern const TileKernels kTilesScalar;
extern const TileKernels kTilesAVX2;
extern const TileKernels kTilesAVX512;
extern const TileKernels kTilesNEON;

}  // namespace sparse_ops
