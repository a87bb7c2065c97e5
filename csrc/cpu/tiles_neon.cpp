// NEON: 32 registers of 4 floats.
#include "tiles.h"

#if defined(__aarch64__)

#define LANES 4
#define REGISTERS 32
// A unit is four vectors.
#define PIXELS(U) ((U) == 1 ? 6 : (U) == 2 ? 2 : (U) == 3 ? 1 : 0)
#define SPARSE_UNITS 1
#define TILE_TABLE kTilesNEON
#define KEEP_APART(sum) asm("" : "+w"(sum))
#include "tiles_body.h"

#else

namespace sparse_ops {
const TileKernels kTilesNEON = {};
}  // namespace sparse_ops

#endif
