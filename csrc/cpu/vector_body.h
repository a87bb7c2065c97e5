// What all bodies that are compiled once for each instruction set begin with: vectors of LANES
// floats.

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int32_t IVec __attribute__((vector_size(LANES * 4)));
// The same, at any address.
typedef float UVec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

#define INLINE_MEMBER inline __attribute__((always_inline))
#define INLINE static INLINE_MEMBER

INLINE Vec load(const float* p) { return *reinterpret_cast<const UVec*>(p); }
INLINE void store(float* p, Vec v) { *reinterpret_cast<UVec*>(p) = v; }
// Minus zero, and not plus zero: that would turn -0 into +0, so that it could not be left out.
INLINE Vec splat(float f) { return f - Vec{}; }

#include "activation_body.h"

// Long sums come in pieces of so many products: what rounding loses grows with the length of a sum.
constexpr int64_t kPiece = 256;

// N sums; between two pieces they wait in memory, where they are never touched if there is only
// one.
template <int N>
struct Aside {
  Vec sums[N];
  const bool used;

  explicit INLINE_MEMBER Aside(int64_t k) : used(k > kPiece) {
    if (used) __builtin_memset(sums, 0, sizeof sums);
  }
  INLINE_MEMBER void put(Vec* now) {
#pragma GCC unroll 32
    for (int n = 0; n < N; ++n) {
      sums[n] += now[n];
      now[n] = Vec{};
    }
  }
  INLINE_MEMBER void take(Vec* now) const {
    if (!used) return;
#pragma GCC unroll 32
    for (int n = 0; n < N; ++n) now[n] += sums[n];
  }
};
