// The body of row_sparse_<isa>.cpp, written once in the compilers' vector extension.
//
// The file that includes it defines
//   LANES     floats in a vector
//   REGISTERS  vectors that sums and what goes into them may take
//   TILES(R)  vectors of positions per tile, for R rows at once: R * TILES(R) accumulators,
//   TILES(R)
//             vectors of the panel and a weight have to fit the registers
//   MAX_ROWS  4 or 8
//   MAX_UNITS, TILE_SIZES_1, TILE_SIZES_2  for channels_body.h
//   STRETCH_UNITS  cache lines of positions whose sums linear_body.h keeps in registers: 1, 2 or 4
//   MACHINE_CODE  true where conv_code.cpp knows the instructions, or false
//   KEEP_APART  a statement that keeps a scalar sum in a register of its own
//   TILE_TABLE  its table of tiles.h
//   HALF_CONVERSIONS  1 where <immintrin.h> is included and the F16C instructions may be used, or 0
// and has set the instruction set for everything that follows.

#if !defined(LANES) || !defined(REGISTERS) || !defined(TILES) || !defined(MAX_ROWS) || \
    !defined(MAX_UNITS) || !defined(TILE_SIZES_1) || !defined(TILE_SIZES_2) ||         \
    !defined(STRETCH_UNITS) || !defined(KEEP_APART) || !defined(TILE_TABLE) ||         \
    !defined(HALF_CONVERSIONS) || !defined(MACHINE_CODE)
#error "row_sparse_body.h: define what its first lines list before including it"
#endif

namespace sparse_ops {
extern const TileKernels TILE_TABLE;

static_assert(LANES == 4 || LANES == 8 || LANES == 16, "a vector is 4, 8 or 16 floats");
static_assert(MAX_ROWS == 4 || MAX_ROWS == 8, "a block of rows is up to 4 or 8");
static_assert(MAX_UNITS == 1 || MAX_UNITS == 2, "channels go by one or two units");
static_assert(STRETCH_UNITS == 1 || STRETCH_UNITS == 2 || STRETCH_UNITS == 4, "see linear_body.h");

namespace {

#include "vector_body.h"

// R rows by T vectors of positions. Rows of few accumulators are split into S sums, so that
// additions do not wait for each other.
template <int R, int T, int S>
void tile(int64_t k, const int32_t* columns, const int32_t* offsets, const float* const* weights,
          const float* bias, const float* panel, float* out, int64_t ld, Activation activation) {
  Vec acc[S][R][T];
  const float* w[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    w[r] = weights[r];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
      for (int s = 0; s < S; ++s) acc[s][r][t] = Vec{};
    }
  }
  static_assert(kPiece % S == 0, "a piece is a number of steps");
  Aside<S * R * T> aside(k);
  for (int64_t j = 0;; aside.put(&acc[0][0][0])) {
    const int64_t end = k - j > kPiece ? j + kPiece : k;
    if (S > 1) {
      for (; j + S <= end; j += S) {
#pragma GCC unroll 8
        for (int s = 0; s < S; ++s) {
          const float* p = panel + offsets[columns[j + s]];
#pragma GCC unroll 16
          for (int t = 0; t < T; ++t)
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) acc[s][r][t] += w[r][j + s] * load(p + t * LANES);
        }
      }
    }
#pragma GCC unroll 1
    for (; j < end; ++j) {
      const float* p = panel + offsets[columns[j]];
      // One address in one register: an index inside each load would be split off again and again.
      asm("" : "+r"(p));
      Vec x[T];
      if (R > 1) {
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) x[t] = load(p + t * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const Vec weight = splat(w[r][j]);
#pragma GCC unroll 16
          for (int t = 0; t < T; ++t) acc[0][r][t] += weight * x[t];
        }
      } else {
        const Vec weight = splat(w[0][j]);
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) acc[0][0][t] += weight * load(p + t * LANES);
      }
    }
    if (j == k) break;
  }
  aside.take(&acc[0][0][0]);
  // The bias last: a sum that begins with a large one loses what is small beside it.
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const Vec last = bias ? splat(bias[r]) : Vec{};
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      Vec v = acc[0][r][t];
#pragma GCC unroll 8
      for (int s = 1; s < S; ++s) v += acc[s][r][t];
      store(out + r * ld + t * LANES, activate_simply(v + last, activation));
    }
  }
  if (is_curve(activation)) curve(R, T * LANES, ld, out, activation);
}

constexpr int sums(int accumulators) {
  return accumulators >= 8 ? 1 : accumulators >= 4 ? 2 : accumulators >= 2 ? 4 : 8;
}

struct Rows {
  int64_t k;
  const int32_t* columns;
  const int32_t* offsets;
  const float* const* weights;
  const float* bias;
  const float* panel;
  float* out;
  int64_t ld;
  Activation activation;
};

// R rows by `vectors` vectors from position `from` on; T of them or fewer.
template <int R, int T>
INLINE void tile_of(int64_t vectors, const Rows& w, int64_t from) {
  if (vectors == T)
    return tile<R, T, sums(R * T)>(w.k, w.columns, w.offsets, w.weights, w.bias, w.panel + from,
                                   w.out + from, w.ld, w.activation);
  if constexpr (T > 1) tile_of<R, T - 1>(vectors, w, from);
}

// In as few tiles as registers allow, all of the same size or nearly: each reads all weights again.
template <int R>
INLINE void walk(const Rows& w, int64_t positions) {
  const int64_t vectors = (positions + LANES - 1) / LANES;
  const int64_t tiles = (vectors + TILES(R) - 1) / TILES(R);
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t first = vectors * i / tiles, last = vectors * (i + 1) / tiles;
    tile_of<R, TILES(R)>(last - first, w, first * LANES);
  }
}

void rows(int count, int64_t k, const int32_t* columns, const int32_t* offsets,
          const float* const* weights, const float* bias, const float* panel, int64_t positions,
          float* out, int64_t ld, Activation activation) {
  const Rows w = {k, columns, offsets, weights, bias, panel, out, ld, activation};
  switch (count) {
    case 1:
      return walk<1>(w, positions);
    case 2:
      return walk<2>(w, positions);
    case 4:
      return walk<4>(w, positions);
#if MAX_ROWS == 8
    case 8:
      return walk<8>(w, positions);
#endif
    default:
      __builtin_trap();
  }
}

// Four floats, and the same at any address. Not through a reference, which would forget that.
typedef float Quad __attribute__((vector_size(16)));
typedef float AnyQuad __attribute__((vector_size(16), aligned(4), may_alias));

INLINE Quad quad(const float* p) { return *reinterpret_cast<const AnyQuad*>(p); }
INLINE void set_quad(float* p, Quad q) { *reinterpret_cast<AnyQuad*>(p) = q; }

INLINE void transpose4(Quad& a, Quad& b, Quad& c, Quad& d) {
  const Quad ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Quad ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Quad cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Quad cd1 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(ab0, cd0, 0, 1, 4, 5);
  b = __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7);
  c = __builtin_shufflevector(ab1, cd1, 0, 1, 4, 5);
  d = __builtin_shufflevector(ab1, cd1, 2, 3, 6, 7);
}

INLINE float sum(Vec v) {
  float total = 0;
#pragma GCC unroll 16
  for (int i = 0; i < LANES; ++i) total += v[i];
  return total;
}

// D columns at once share the loads of dy.
template <int D>
void dot(const int32_t* columns, const int32_t* offsets, const float* dy, const float* panel,
         int64_t positions, float* out) {
  const float* p[D];
  Vec acc[D][2];
#pragma GCC unroll 4
  for (int d = 0; d < D; ++d) {
    p[d] = panel + offsets[columns[d]];
    acc[d][0] = acc[d][1] = Vec{};
  }
  int64_t i = 0;
  for (; i + 2 * LANES <= positions; i += 2 * LANES) {
    const Vec a = load(dy + i), b = load(dy + i + LANES);
#pragma GCC unroll 4
    for (int d = 0; d < D; ++d) {
      acc[d][0] += a * load(p[d] + i);
      acc[d][1] += b * load(p[d] + i + LANES);
    }
  }
#pragma GCC unroll 4
  for (int d = 0; d < D; ++d) {
    float total = sum(acc[d][0] + acc[d][1]);
    for (int64_t q = i; q < positions; ++q) total += dy[q] * p[d][q];
    out[d] += total;
  }
}

void dots(int64_t k, const int32_t* columns, const int32_t* offsets, const float* dy,
          const float* panel, int64_t positions, float* out) {
  int64_t j = 0;
  for (; j + 4 <= k; j += 4) dot<4>(columns + j, offsets, dy, panel, positions, out + j);
  for (; j < k; ++j) dot<1>(columns + j, offsets, dy, panel, positions, out + j);
}

INLINE float activate_one(float f, Activation activation) {
  return activate(splat(f), activation)[0];
}

#include "channels_body.h"
#include "linear_body.h"
#include "blocked_body.h"
#include "winograd_body.h"
#include "ends_body.h"
#include "steps_body.h"

template <class T>
constexpr EndKernels end_kernels() {
  EndKernels ends = {};
  ends.copy = copy<T>;
  ends.read = read<T>;
  ends.interleave = interleave_from<T>;
  ends.separate = separate_from<T>;
  ends.put = put<T>;
  ends.pick = pick<T>;
  ends.scatter = scatter<T>;
  ends.write = write<T>;
  return ends;
}

constexpr RowSparseKernels row_sparse_kernels() {
  RowSparseKernels kernels = {};
  kernels.rows = rows;
  kernels.blocked = blocked;
  kernels.pool = pool;
  kernels.winograd_in = winograd_in;
  kernels.winograd_out = winograd_out;
  kernels.interleave = interleave_of<float>;
  kernels.separate = separate_of<float>;
  kernels.channels = channels;
  kernels.weave = weave;
  kernels.finish = finish;
  kernels.dots = dots;
  kernels.gather = gather;
  kernels.gather4 = gather4;
  kernels.stretch = stretch;
  kernels.in_range = in_range;
  kernels.max_rows = MAX_ROWS;
  kernels.max_units = MAX_UNITS;
  kernels.max_stretch = STRETCH_UNITS;
  kernels.code = MACHINE_CODE;
  kernels.ends[kFloat] = end_kernels<float>();
  kernels.ends[kHalf] = end_kernels<Half>();
  kernels.ends[kBFloat] = end_kernels<BFloat>();
  kernels.tiles = &TILE_TABLE;
  kernels.steps = &kStepKernels;
  return kernels;
}

constexpr RowSparseKernels kKernels = row_sparse_kernels();

}  // namespace
}  // namespace sparse_ops
