// Portable: whatever the compiler makes of vectors of four floats on this machine.
#include "tiles.h"

#define LANES 4
#define REGISTERS 16
// A unit is four vectors.
#define PIXELS(U) ((U) == 1 ? 2 : 0)
#define SPARSE_UNITS 1
#define TILE_TABLE kTilesScalar
#define KEEP_APART(sum)
#include "tiles_body.h"
