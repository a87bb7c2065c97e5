// What all bodies that are compiled once for each instruction set begin with: vectors of LANES floats.

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int32_t IVec __attribute__((vector_size(LANES * 4)));
// The same, at any address.
typedef float UVec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE Vec load(const float* p) { return *reinterpret_cast<const UVec*>(p); }
INLINE void store(float* p, Vec v) { *reinterpret_cast<UVec*>(p) = v; }
// Minus zero, and not plus zero: that would turn -0 into +0, so that it could not be left out.
INLINE Vec splat(float f) { return f - Vec{}; }

#include "activation_body.h"
