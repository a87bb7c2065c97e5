// NEON: 32 registers of 4 floats. Every aarch64 has it.
#include "row_sparse.h"
#include "steps.h"

#if defined(__aarch64__)

#define LANES 4
#define REGISTERS 32
// A vector of the panel has to be loaded before it is multiplied.
#define TILES(R) ((R) == 1 ? 14 : (R) == 2 ? 9 : (R) == 4 ? 6 : 3)
#define MAX_ROWS 8
// A unit is four vectors: 24 sums, and as many weights.
#define MAX_UNITS 1
// clang-format off
#define TILE_SIZES_1(X) \
  X(1, 6, 1) X(1, 4, 1) X(1, 3, 2) X(1, 2, 3) X(1, 2, 2) X(1, 2, 1) X(1, 1, 6) X(1, 1, 4) X(1, 1, 1)
#define TILE_SIZES_2(X)
// clang-format on
#define STRETCH_UNITS 4
#define MACHINE_CODE false
#define HALF_CONVERSIONS 0
#define KEEP_APART(sum) asm("" : "+w"(sum))
#define TILE_TABLE kTilesNEON
#include "row_sparse_body.h"

namespace sparse_ops {
const RowSparseKernels* row_sparse_neon() { return &kKernels; }
}  // namespace sparse_ops

#else

namespace sparse_ops {
const RowSparseKernels* row_sparse_neon() { return nullptr; }
}  // namespace sparse_ops

#endif
