// Portable: whatever the compiler makes of vectors of four floats on this machine.
#include "row_sparse.h"
#include "steps.h"

#define LANES 4
#define REGISTERS 13
#define TILES(R) ((R) == 1 ? 8 : (R) == 2 ? 4 : 2)
#define MAX_ROWS 4
// A unit is four vectors.
#define MAX_UNITS 1
// clang-format off
#define TILE_SIZES_1(X) \
  X(1, 2, 1) X(1, 1, 2) X(1, 1, 1)
#define TILE_SIZES_2(X)
// clang-format on
#define STRETCH_UNITS 2
#define MACHINE_CODE false
#define HALF_CONVERSIONS 0
#define KEEP_APART(sum)
#define TILE_TABLE kTilesScalar
#include "row_sparse_body.h"

namespace sparse_ops {
const RowSparseKernels* row_sparse_scalar() { return &kKernels; }
}  // namespace sparse_ops
