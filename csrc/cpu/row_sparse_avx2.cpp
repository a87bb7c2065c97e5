// AVX2 and FMA: 16 registers of 8 floats.
#include "row_sparse.h"
#include "steps.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#define LANES 8
#define REGISTERS 16
#define TILES(R) ((R) == 1 ? 10 : (R) == 2 ? 5 : 3)
#define MAX_ROWS 4
// A unit is two vectors.
#define MAX_UNITS 1
// clang-format off
#define TILE_SIZES_1(X) \
  X(1, 6, 1) X(1, 4, 1) X(1, 3, 2) X(1, 2, 3) X(1, 2, 2) X(1, 2, 1) X(1, 1, 6) X(1, 1, 4) \
  X(1, 1, 1)
#define TILE_SIZES_2(X)
// clang-format on
#define STRETCH_UNITS 4
#define MACHINE_CODE false
#define HALF_CONVERSIONS 1
#define KEEP_APART(sum) asm("" : "+x"(sum))
#define TILE_TABLE kTilesAVX2
#include "row_sparse_body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace sparse_ops {
const RowSparseKernels* row_sparse_avx2() { return &kKernels; }
}  // namespace sparse_ops

#else

namespace sparse_ops {
const RowSparseKernels* row_sparse_avx2() { return nullptr; }
}  // namespace sparse_ops

#endif
