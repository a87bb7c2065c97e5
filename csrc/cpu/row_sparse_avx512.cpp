// AVX-512: 32 registers of 16 floats.
#include "row_sparse.h"
#include "steps.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,fma,f16c,prefer-vector-width=512")
#endif

#define LANES 16
#define REGISTERS 32
#define TILES(R) ((R) == 1 ? 14 : (R) == 2 ? 10 : (R) == 4 ? 6 : 3)
#define MAX_ROWS 8
// 14 to 28 sums, one or two vectors of weights, a pixel.
#define MAX_UNITS 2
// clang-format off
#define TILE_SIZES_1(X) \
  X(1, 14, 2) X(1, 14, 1) X(1, 8, 3) X(1, 8, 2) X(1, 8, 1) X(1, 7, 4) X(1, 7, 3) X(1, 7, 2) \
  X(1, 7, 1) X(1, 4, 6) X(1, 4, 4) X(1, 4, 2) X(1, 4, 1) X(1, 2, 8) X(1, 2, 4) X(1, 2, 2) \
  X(1, 2, 1) X(1, 1, 8) X(1, 1, 4) X(1, 1, 1)
#define TILE_SIZES_2(X) \
  X(2, 14, 1) X(2, 8, 1) X(2, 7, 2) X(2, 7, 1) X(2, 4, 3) X(2, 4, 2) X(2, 4, 1) X(2, 2, 6) \
  X(2, 2, 4) X(2, 2, 2) X(2, 2, 1) X(2, 1, 8) X(2, 1, 4) X(2, 1, 1)
// clang-format on
#define STRETCH_UNITS 4
#define MACHINE_CODE true
#define HALF_CONVERSIONS 1
#define KEEP_APART(sum) asm("" : "+v"(sum))
#define TILE_TABLE kTilesAVX512
#include "row_sparse_body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace sparse_ops {
const RowSparseKernels* row_sparse_avx512() { return &kKernels; }
}  // namespace sparse_ops

#else

namespace sparse_ops {
const RowSparseKernels* row_sparse_avx512() { return nullptr; }
}  // namespace sparse_ops

#endif
