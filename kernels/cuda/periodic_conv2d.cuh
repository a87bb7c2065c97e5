// y = activation(conv(x) + bias + residual) by tensor cores, for weights whose filters and channels
// come in groups of eight and more that are alike; x is read once from global memory.
//
// Layouts: x (N, H, W, channels) and y, residual (N, H', W', filters), halves, channels innermost,
// without gaps; rows of 16 bytes are aligned. All of y is written. Sums are in float32, rounded once.
//
// A block owns TILE pixels of y, counted through all images, and a slice of the filters. A pixel of
// x stands at q = n Hp Wp + (y + pad_h) Wp + x + pad_w, where Wp = W + pad_w and Hp = H + pad_h: zero
// columns between two rows serve both, as do zero rows between two images. So output pixel
// (n, y, x) begins at q = n Hp Wp + y stride_h Wp + x stride_w, and a tap is the same shift for all
// pixels, whatever H and W are. The positions that a tile can need go to shared memory, CHUNK channels
// at a time; each lane keeps the address of its own pixel, and a tap is added to it.
//
// A warp has 64 pixels and GROUPS groups of 8 EIGHTS filters. What it does is a list (made by
// kernels/tap_tables.py): an entry is 16 channels under one tap, as a byte offset, and the set of its
// groups that keep weights there. The pixels under a tap are loaded once for all of these groups. The
// weights, 16 channels by a group, lie in memory in order of use, and each lane reads its part of
// them right into the registers of the product, one entry ahead.
#pragma once
#include "fragments.cuh"
#include "tile.cuh"

namespace sparse_ops {

// The weights of all groups of an entry; `from` moves on past those.
template <int GROUPS, int EIGHTS>
SPARSE_OPS_INLINE void load(Weights<EIGHTS> (&w)[GROUPS], const u16*& from, u32 entry, int lane) {
#pragma unroll
  for (int g = 0; g < GROUPS; g++)
    if (entry >> g & 1) {
      w[g].load(from, lane);
      from += EIGHTS * 128;
    }
}

template <bool BF16, int EIGHTS, int GROUPS, int PIXEL_WARPS, int FILTER_WARPS, int CHUNK>
SPARSE_OPS_INLINE void run(const Problem& p) {
  constexpr int THREADS = 32 * PIXEL_WARPS * FILTER_WARPS, TILE = 64 * PIXEL_WARPS;
  constexpr int UNITS = 64 / UNIT, PITCH = CHUNK * 2 + 16;
  constexpr int SLICE = FILTER_WARPS * GROUPS * EIGHTS * 8;
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int pixel_warp = warp % PIXEL_WARPS, filter_warp = warp / PIXEL_WARPS;
  // Slices run fastest: blocks at work together read the same pixels.
  const int slice = blockIdx.x % p.slices, m0 = blockIdx.x / p.slices * TILE;
  const int q0 = position(p, m0);

  unsigned char* memory = ptx::shared_memory();
  const u32 base = ptx::shared_address(memory), half = p.positions * PITCH;
  int* source = (int*)(memory + 2 * half);
  find_sources<THREADS>(p, source, q0);
  u32 own[UNITS];
#pragma unroll
  for (int u = 0; u < UNITS; u++) {
    const int m = m0 + pixel_warp * 64 + u * UNIT + pixel_of(lane);
    own[u] = base + (position(p, m < p.pixels ? m : p.pixels - 1) - q0) * PITCH + bytes_of(lane);
  }
  Sums sums[GROUPS][UNITS][EIGHTS];
#pragma unroll
  for (int g = 0; g < GROUPS; g++)
#pragma unroll
    for (int u = 0; u < UNITS; u++)
#pragma unroll
      for (int e = 0; e < EIGHTS; e++)
#pragma unroll
        for (int i = 0; i < (int)(sizeof(Sums) / 4); i++) sums[g][u][e].d[i] = 0.f;

  const auto copy = [&](int chunk) {
    copy_pixels<THREADS, CHUNK>(p, source, base + (chunk & 1) * half, chunk);
  };
  const int list = slice * FILTER_WARPS + filter_warp;
  const int* starts = p.starts + list * (p.chunks + 1);
  const u32* entries = p.entries + starts[0];
  const u16* from = p.weight + (size_t)p.blocks[list] * (EIGHTS * 128);
  Weights<EIGHTS> next[GROUPS] = {};
  u32 entry = entries[0], after = entries[1];
  load<GROUPS>(next, from, entry, lane);
  __syncthreads();  // `source` is written
  copy(0);
  for (int chunk = 0; chunk < p.chunks; chunk++) {
    ptx::copies_done();
    __syncthreads();  // everybody's copies are done, and the other half is no longer read
    if (chunk + 1 < p.chunks) copy(chunk + 1);
    const u32 at = (chunk & 1) * half;
    for (int left = starts[chunk + 1] - starts[chunk]; left > 0; left--) {
      const u32 now = entry;
      Weights<EIGHTS> w[GROUPS];
#pragma unroll
      for (int g = 0; g < GROUPS; g++) w[g] = next[g];
      entry = after;
      load<GROUPS>(next, from, entry, lane);
      after = entries[2], entries++;
      Pixels a[UNITS];
#pragma unroll
      for (int u = 0; u < UNITS; u++) load(a[u], own[u] + at + (now >> 8));
#pragma unroll
      for (int g = 0; g < GROUPS; g++)
        if (GROUPS == 1 || (now >> g & 1))
#pragma unroll
          for (int u = 0; u < UNITS; u++)
#pragma unroll
            for (int e = 0; e < EIGHTS; e++) multiply<BF16>(sums[g][u][e], a[u], w[g], e);
    }
  }

  // The sums change hands in shared memory, so that a thread writes eight neighbouring filters.
  constexpr int ROWS = PIXEL_WARPS * UNIT, STEP = SLICE + 4;
  float* tile = (float*)memory;
  const u16* columns = p.columns + (slice * FILTER_WARPS + filter_warp) * (GROUPS * EIGHTS * 8);
#pragma unroll 1
  for (int u = 0; u < UNITS; u++) {
    __syncthreads();  // the tile is no longer read
#pragma unroll
    for (int v = 0; v < UNITS; v++) {
      // Registers have no index: each unit has its own code, and what follows is there once.
      if (v != u) continue;
#pragma unroll
      for (int g = 0; g < GROUPS; g++)
#pragma unroll
        for (int e = 0; e < EIGHTS; e++)
#pragma unroll
          for (int i = 0; i < (int)(sizeof(Sums) / 4); i++)
            tile[(pixel_warp * UNIT + row_of(lane, i)) * STEP +
                 columns[(g * EIGHTS + e) * 8 + column_of(lane, i)]] = sums[g][v][e].d[i];
    }
    __syncthreads();  // the tile is whole
    write_rows<BF16, SLICE, UNIT, THREADS>(p, tile, slice, m0, ROWS, u);
  }
}

}  // namespace sparse_ops

// Compiled once for each set of these numbers; SPARSE_OPS_BLOCKS is how many blocks a
// multiprocessor is to hold.
#ifdef SPARSE_OPS_EIGHTS
extern "C" __global__ void __launch_bounds__(32 * SPARSE_OPS_PIXEL_WARPS *
                                                 SPARSE_OPS_FILTER_WARPS,
                                             SPARSE_OPS_BLOCKS)
    periodic_conv2d(const sparse_ops::Problem problem) {
  sparse_ops::run<SPARSE_OPS_BF16, SPARSE_OPS_EIGHTS, SPARSE_OPS_GROUPS, SPARSE_OPS_PIXEL_WARPS,
                  SPARSE_OPS_FILTER_WARPS, SPARSE_OPS_CHUNK>(problem);
}
#endif
