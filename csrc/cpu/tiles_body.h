// The body of tiles_<isa>.cpp, in the manner of row_sparse_body.h.
//
// The file that includes it defines
//   LANES       floats in a vector
//   REGISTERS   of vectors, 16 or 32
//   PIXELS(U)   the most pixels of a tile of U units, 0 where there is none: U * kLanes / LANES *
//   PIXELS(U) sums,
//               as many vectors of weights as a unit or more has, and a pixel have to fit the
//               registers
//   SPARSE_UNITS  the most units of sparse_lines: four sums for each vector of theirs
//   TILE_TABLE  the name of the table
//   KEEP_APART  as row_sparse_body.h
// and has set the instruction set for everything that follows.

#if !defined(LANES) || !defined(REGISTERS) || !defined(PIXELS) || !defined(SPARSE_UNITS) || \
    !defined(TILE_TABLE) || !defined(KEEP_APART)
#error "tiles_body.h: define what its first lines list before including it"
#endif

namespace sparse_ops {
namespace {

static_assert(LANES == 4 || LANES == 8 || LANES == 16, "a vector is 4, 8 or 16 floats");

#include "vector_body.h"

constexpr int kVectors = kLanes / LANES;  // of a unit

// Most activations only cut values off: without a branch at every store. NaN stays NaN.
INLINE Vec least_of(Activation activation) {
  return splat(activation.kind == kReLU || activation.kind == kReLU6 ? 0.0f : -__builtin_inff());
}
INLINE Vec most_of(Activation activation) {
  return splat(activation.kind == kReLU6 ? 6.0f : __builtin_inff());
}
INLINE Vec within(Vec v, Vec least, Vec most) {
  v = v < least ? least : v;
  return v > most ? most : v;
}

// The others are applied to what was stored: lines of `length` values, a multiple of kLanes.
INLINE bool bends(Activation activation) {
  return activation.kind == kHardswish || activation.kind == kLeakyReLU || is_curve(activation);
}
__attribute__((noinline)) void bend(int64_t lines, int64_t length, int64_t step, float* y,
                                    Activation activation) {
  if (is_curve(activation)) return curve(lines, length, step, y, activation);
  for (int64_t line = 0; line < lines; ++line, y += step)
    for (int64_t i = 0; i < length; i += LANES)
      store(y + i, activate_simply(load(y + i), activation));
}

template <int U, int C, int R, int STEP>
void tile(const TileWork& w, const float* panel, float* out, const float* added) {
  constexpr int V = U * kVectors;
  const int64_t line_step = w.line_step, k = w.k, weight_step = w.weight_step;
  Vec acc[V][R][C];
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v)
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) acc[v][r][c] = Vec{};
  Aside<V * R * C> aside(k);
  const float* weights = w.weights;
  const int32_t* offsets = w.offsets;
  // The next address is worked out one step ahead: loads wait for nothing then.
  const float* next = panel + offsets[0];
  const float* ahead = w.ahead;
  const int32_t* later = w.later;
  for (int64_t j = 0;; aside.put(&acc[0][0][0])) {
    const int64_t end = k - j > kPiece ? j + kPiece : k;
#pragma GCC unroll 1
    for (; j < end; ++j) {
      const float* p = next;
      next = panel + offsets[j + 1];
      asm("" : "+r"(p), "+r"(next));
      // A tile of one unit is short of loads.
      if (U > 1) __builtin_prefetch(ahead + later[j], 0, 2);
      Vec x[V];
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v)
        x[v] = load(weights + v / kVectors * weight_step + v % kVectors * LANES);
      weights += kLanes;
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c) {
          const Vec pixel = splat(p[c * STEP]);
#pragma GCC unroll 16
          for (int v = 0; v < V; ++v) acc[v][r][c] += x[v] * pixel;
        }
        p += line_step;
      }
    }
    if (j == k) break;
  }
  aside.take(&acc[0][0][0]);
  // Copies: what is stored might be anything, as far as the compiler knows.
  const int64_t out_line = w.out_line, out_unit = w.out_unit;
  const int64_t added_line = w.added_line, added_unit = w.added_unit;
  const Activation activation = w.activation;
  // The bias last: a sum that begins with a large one loses what is small beside it.
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v) {
    const Vec bias = load(w.bias + v * LANES);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) acc[v][r][c] += bias;
  }
  if (added) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v)
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c)
          acc[v][r][c] += load(added + v / kVectors * added_unit + r * added_line + c * kLanes +
                               v % kVectors * LANES);
  }
  const Vec least = least_of(activation), most = most_of(activation);
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v)
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c)
        store(out + v / kVectors * out_unit + r * out_line + c * kLanes + v % kVectors * LANES,
              within(acc[v][r][c], least, most));
  if (bends(activation))
    for (int u = 0; u < U; ++u) bend(R, C * kLanes, out_line, out + u * out_unit, activation);
}

// Tiles of U units, C pixels or fewer, R lines or fewer.
template <int U, int C, int R, int STEP>
Tile find_lines(int lines) {
  if (lines == R) return tile<U, C, R, STEP>;
  if constexpr (R > 1) return find_lines<U, C, R - 1, STEP>(lines);
  return nullptr;
}

template <int U, int C, int STEP>
Tile find_wide(int width, int lines) {
  // One line where pixels are next to each other; steps do not matter to single pixels.
  constexpr int most = STEP < kLanes && C > 1 ? 1 : PIXELS(U) / C;
  if (width == C) return find_lines<U, C, most, C == 1 ? kLanes : STEP>(lines);
  if constexpr (C > 1) return find_wide<U, C - 1, STEP>(width, lines);
  return nullptr;
}

template <int U>
Tile find_units(int units, int width, int lines, int64_t step) {
  if constexpr (PIXELS(U) > 0) {
    if (units == U) {
      if (step == kLanes) return find_wide<U, PIXELS(U), kLanes>(width, lines);
      if (step == 2 * kLanes) return find_wide<U, PIXELS(U), 2 * kLanes>(width, lines);
      if constexpr (U <= 2) {
        if (step == 1) return find_wide<U, PIXELS(U), 1>(width, lines);
        if (step == 2) return find_wide<U, PIXELS(U), 2>(width, lines);
      }
      return nullptr;
    }
  }
  if constexpr (U > 1) return find_units<U - 1>(units, width, lines, step);
  return nullptr;
}

Tile find_tile(int units, int width, int lines, int64_t pixel_step) {
  return find_units<kMostUnits>(units, width, lines, width == 1 ? kLanes : pixel_step);
}

template <int T>
INLINE void depthwise_tap(const float* p, int64_t step, Vec weight, Vec* sums) {
  // One address in one register.
  asm("" : "+r"(p));
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) sums[t] += weight * load(p + t * step);
}

// T pixels of a line. STEP is the distance between pixels, TAPS their number, or 0 where it is
// known only at run time: the end of a loop over nine taps is guessed wrong too often.
template <int T, int STEP, int TAPS>
void depthwise_tile(const DepthwiseWork& w, const float* panel, float* out, const float* added,
                    int part) {
  const int64_t step = STEP ? STEP : w.pixel_step, taps = TAPS ? TAPS : w.taps;
  const Vec bias = load(w.bias + part);
  Vec acc[T];
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) acc[t] = bias;
  const float* weights = w.weights + part;
  const int32_t* offsets = w.offsets;
  if (TAPS) {
#pragma GCC unroll 16
    for (int64_t j = 0; j < TAPS; ++j)
      depthwise_tap<T>(panel + offsets[j] + part, step, load(weights + j * kLanes), acc);
  } else {
#pragma GCC unroll 1
    for (int64_t j = 0; j < taps; ++j)
      depthwise_tap<T>(panel + offsets[j] + part, step, load(weights + j * kLanes), acc);
  }
  const Vec least = least_of(w.activation), most = most_of(w.activation);
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) {
    Vec sum = acc[t];
    if (added) sum += load(added + t * kLanes + part);
    store(out + t * kLanes + part, within(sum, least, most));
  }
}

// As many pixels as there are sums without waiting for each other.
constexpr int kDepthwise = REGISTERS == 32 ? 14 : 10;

template <int T, int STEP, int TAPS>
INLINE void depthwise_of(int64_t pixels, const DepthwiseWork& w, const float* panel, float* out,
                         const float* added, int part) {
  if (pixels == T) return depthwise_tile<T, STEP, TAPS>(w, panel, out, added, part);
  if constexpr (T > 1) depthwise_of<T - 1, STEP, TAPS>(pixels, w, panel, out, added, part);
}

template <int STEP, int TAPS>
void depthwise_lines(const DepthwiseWork& w) {
  const int64_t tiles = (w.width + kDepthwise - 1) / kDepthwise;
  for (int64_t l = 0; l < w.lines; ++l) {
    const float* panel = w.panel + l * w.line_step;
    float* out = w.out + l * w.out_line;
    const float* added = w.added ? w.added + l * w.added_line : nullptr;
    for (int part = 0; part < kLanes; part += LANES)
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t p = w.width * i / tiles;
        depthwise_of<kDepthwise, STEP, TAPS>(w.width * (i + 1) / tiles - p, w,
                                             panel + p * w.pixel_step, out + p * kLanes,
                                             added ? added + p * kLanes : nullptr, part);
      }
    if (bends(w.activation)) bend(1, w.width * kLanes, 0, out, w.activation);
  }
}

void depthwise(const DepthwiseWork& w) {
  const bool nine = w.taps == 9;
  if (w.pixel_step == kLanes)
    (nine ? depthwise_lines<kLanes, 9> : depthwise_lines<kLanes, 0>)(w);
  else if (w.pixel_step == 2 * kLanes)
    (nine ? depthwise_lines<2 * kLanes, 9> : depthwise_lines<2 * kLanes, 0>)(w);
  else
    depthwise_lines<0, 0>(w);
}

// A large weight comes from memory: asked for a few thousand weights ahead, as in linear_body.h.
constexpr int kAhead = 2048;

typedef float Quad __attribute__((vector_size(16)));

// Four sums, so that additions do not wait for each other; weight k goes to sum k mod 4.
template <class V>
INLINE void sparse_few(const SparseWork& w, const V* x, V* y) {
  for (int64_t o = w.first; o < w.last; ++o) {
    V acc[4] = {};
    int64_t k = w.crow[o];
    const int64_t end = w.crow[o + 1];
    const int32_t* columns = w.columns;
    const float* values = w.values;
#define ADD(i)                                   \
  {                                              \
    acc[i] += values[k + i] * x[columns[k + i]]; \
    KEEP_APART(acc[i]);                          \
  }
#pragma GCC unroll 1
    for (; k + 4 <= end; k += 4) {
      __builtin_prefetch(columns + k + kAhead);
      __builtin_prefetch(values + k + kAhead);
      ADD(0) ADD(1) ADD(2) ADD(3)
    }
    if (k < end) ADD(0)
    if (k + 1 < end) ADD(1)
    if (k + 2 < end) ADD(2)
#undef ADD
    const V total = (acc[0] + acc[1]) + (acc[2] + acc[3]);
    y[o - w.first] = w.bias ? total + w.bias[o] : total;
  }
}

void sparse_one(const SparseWork& w, const float* x, float* y) { sparse_few<float>(w, x, y); }
void sparse_four(const SparseWork& w, const float* x, float* y) {
  sparse_few<Quad>(w, reinterpret_cast<const Quad*>(x), reinterpret_cast<Quad*>(y));
}

template <int V>
INLINE void add_line(const float* p, float value, Vec* acc) {
  asm("" : "+r"(p));
  const Vec weight = splat(value);
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v) acc[v] += weight * load(p + v * LANES);
}

template <int V>
void lines_of(const SparseWork& w, const float* x, float* y) {
  for (int64_t o = w.first; o < w.last; ++o, y += V * LANES) {
    Vec acc[4][V] = {};
    int64_t k = w.crow[o];
    const int64_t end = w.crow[o + 1];
    const int32_t* columns = w.columns;
    const float* values = w.values;
#define ADD(i) add_line<V>(x + columns[k + i] * int64_t{V * LANES}, values[k + i], acc[i]);
#pragma GCC unroll 1
    for (; k + 4 <= end; k += 4) {
      __builtin_prefetch(columns + k + kAhead);
      __builtin_prefetch(values + k + kAhead);
      ADD(0) ADD(1) ADD(2) ADD(3)
    }
    if (k < end) ADD(0)
    if (k + 1 < end) ADD(1)
    if (k + 2 < end) ADD(2)
#undef ADD
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      const Vec total = (acc[0][v] + acc[1][v]) + (acc[2][v] + acc[3][v]);
      store(y + v * LANES, w.bias ? total + splat(w.bias[o]) : total);
    }
  }
}

void sparse_lines(int units, const SparseWork& w, const float* x, float* y) {
  switch (units) {
    case 1:
      return lines_of<kVectors>(w, x, y);
#if SPARSE_UNITS >= 2
    case 2:
      return lines_of<2 * kVectors>(w, x, y);
#endif
#if SPARSE_UNITS >= 4
    case 3:
      return lines_of<3 * kVectors>(w, x, y);
    case 4:
      return lines_of<4 * kVectors>(w, x, y);
#endif
  }
}

constexpr TileKernels tile_kernels() {
  TileKernels tiles = {};
  tiles.tile = find_tile;
  tiles.depthwise = depthwise;
  tiles.sparse_one = sparse_one;
  tiles.sparse_four = sparse_four;
  tiles.sparse_lines = sparse_lines;
  for (int units = 1; units <= kMostUnits; ++units) tiles.pixels[units] = PIXELS(units);
  tiles.lanes = LANES;
  tiles.most_lines = SPARSE_UNITS;
  return tiles;
}

}  // namespace

const TileKernels TILE_TABLE = tile_kernels();

}  // namespace sparse_ops
