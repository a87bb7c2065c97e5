// Which pixels, weights and sums a lane holds of a product, and how it gets them: for the tensor cores
// of sm_75 and newer, and for those of sm_70. kernels/tap_tables.py (`lane_order`) lays out weights so.
#pragma once
#include "ptx.cuh"

namespace sparse_ops {

// The registers of a product: UNIT pixels by 8 filters by 16 channels.
#if SPARSE_OPS_ARCH >= 750
constexpr int UNIT = 16;
struct Pixels { u32 a[4]; };
struct Sums { float d[4]; };
SPARSE_OPS_INLINE int pixel_of(int lane) { return lane & 15; }
SPARSE_OPS_INLINE int bytes_of(int lane) { return (lane >> 4) * 16; }
SPARSE_OPS_INLINE int row_of(int lane, int i) { return (lane >> 2) + (i & 2) * 4; }
SPARSE_OPS_INLINE int column_of(int lane, int i) { return (lane & 3) * 2 + (i & 1); }
SPARSE_OPS_INLINE void load(Pixels& p, u32 at) { ptx::ldmatrix(p.a, at); }

template <int EIGHTS>
struct Weights {
  u32 b[EIGHTS][2];
  SPARSE_OPS_INLINE void load(const u16* block, int lane) {
    if (EIGHTS == 1) {
      const uint2 v = ptx::load8(block + lane * 4);
      b[0][0] = v.x, b[0][1] = v.y;
    }
#pragma unroll
    for (int e = 0; e + 1 < EIGHTS; e += 2) {
      const uint4 v = ptx::load16(block + e * 128 + lane * 8);
      b[e][0] = v.x, b[e][1] = v.y, b[e + 1][0] = v.z, b[e + 1][1] = v.w;
    }
  }
};

template <bool BF16, int EIGHTS>
SPARSE_OPS_INLINE void multiply(Sums& s, const Pixels& p, const Weights<EIGHTS>& w, int e) {
  ptx::mma<BF16>(s.d, p.a, w.b[e][0], w.b[e][1]);
}
#else
// Any pixel may be any row of a quad pair: lane l has pixel l, so that 8 lanes read 8 banks.
constexpr int UNIT = 32;
struct Pixels { u32 a[8]; };
struct Sums { float d[8]; };
SPARSE_OPS_INLINE int pixel_of(int lane) { return lane; }
SPARSE_OPS_INLINE int bytes_of(int) { return 0; }
SPARSE_OPS_INLINE int row_of(int lane, int i) {
  return (lane & 1) + (i & 2) + (lane & 12) + (lane & 16);
}
SPARSE_OPS_INLINE int column_of(int lane, int i) { return (i & 4) + (lane & 2) + (i & 1); }
SPARSE_OPS_INLINE void load(Pixels& p, u32 at) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const uint4 v = ptx::load16_shared(at + h * 16);
    p.a[4 * h] = v.x, p.a[4 * h + 1] = v.y, p.a[4 * h + 2] = v.z, p.a[4 * h + 3] = v.w;
  }
}

template <int EIGHTS>
struct Weights {
  u32 b[EIGHTS][8];
  SPARSE_OPS_INLINE void load(const u16* block, int lane) {
    const u16* own = block + ((lane & 3) + (lane >> 4) * 4) * 16;
#pragma unroll
    for (int e = 0; e < EIGHTS; e++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const uint4 v = ptx::load16(own + e * 128 + h * 8);
        b[e][4 * h] = v.x, b[e][4 * h + 1] = v.y, b[e][4 * h + 2] = v.z, b[e][4 * h + 3] = v.w;
      }
  }
};

template <bool BF16, int EIGHTS>
SPARSE_OPS_INLINE void multiply(Sums& s, const Pixels& p, const Weights<EIGHTS>& w, int e) {
#pragma unroll
  for (int k = 0; k < 8; k += 2) ptx::mma884(s.d, p.a[k], p.a[k + 1], w.b[e][k], w.b[e][k + 1]);
}
#endif

}  // namespace sparse_ops
