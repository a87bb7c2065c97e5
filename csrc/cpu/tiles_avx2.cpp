// AVX2 and FMA: 16 registers of 8 floats.
#include "tiles.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#define LANES 8
#define REGISTERS 16
// A unit is two vectors.
#define PIXELS(U) ((U) == 1 ? 6 : (U) == 2 ? 2 : (U) == 4 ? 1 : 0)
#define SPARSE_UNITS 1
#define TILE_TABLE kTilesAVX2
#define KEEP_APART(sum) asm("" : "+x"(sum))
#include "tiles_body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else

namespace sparse_ops {
const TileKernels kTilesAVX2 = {};
}  // namespace sparse_ops

#endif
