// AVX-512: 32 registers of 16 floats.
#include "tiles.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,fma,f16c,prefer-vector-width=512")
#endif

#define LANES 16
#define REGISTERS 32
// Up to 28 sums, and the weights of all units.
#define PIXELS(U) ((U) <= 2 ? 14 : (U) == 3 ? 9 : (U) == 4 ? 6 : (U) == 8 ? 2 : 0)
#define SPARSE_UNITS 4
#define TILE_TABLE kTilesAVX512
#define KEEP_APART(sum) asm("" : "+v"(sum))
#include "tiles_body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else

namespace sparse_ops {
const TileKernels kTilesAVX512 = {};
}  // namespace sparse_ops

#endif
