// periodic_conv2d.cuh by the products of sm_90a, wgmma: four warps multiply 64 pixels at once, and go
// on while they do. Off unless it is asked for: no card has run it.
//
// Layouts, positions and the tile are those of periodic_conv2d.cuh; all of y is written, sums are in
// float32, rounded once. Pixels come from shared memory by ldmatrix, at each lane's own address, so
// that 64 of them are packed whatever H, W and the stride are; they are loaded once for all groups of
// filters that keep weights under a tap. Weights are read by the products themselves, from shared
// memory, where they are copied in order of use.
//
// All warps of a block do the same on other pixels: a slice has one list (kernels/wgmma_tables.py),
// cut into stages of at most STAGE blocks of weights, 16 channels by a group. While a stage is
// multiplied the next is copied to one of three places; the third is that of the stage before, whose
// last products may still be at work. Each product is a group of its own (`commit_products`): which
// of them an entry has is known only as it is read, and what they have read may be loaded anew when
// no more are left at work than the newest entry has.
//
// In a CLUSTER of two, blocks have the same slice and other pixels. Each copies one half of a stage's
// weights to both, by a copy that counts its bytes at a barrier of either; both wait for each other
// before a place is copied to anew.
#pragma once
#include "ptx_cluster.cuh"
#include "ptx_wgmma.cuh"
#include "tile.cuh"

namespace sparse_ops {

// What starts has for each stage; the list's last ones are two of nothing.
struct Stage {
  u32 first;    // entry, a multiple of four
  u32 entries;  // a multiple of three, and not none; two of 0 follow
  u32 block;    // of weights, the first
  u32 blocks;   // how many of them << 16 | chunk of the channels
};

SPARSE_OPS_INLINE Stage stage_at(const Problem& p, int slice, int s) {
  const uint4 v = ptx::load16(p.starts + ((size_t)slice * (p.stages + 2) + s) * 4);
  return Stage{v.x, v.y, v.z, v.w};
}

// Waits for all products but those of the newest entry, which has so many.
template <int GROUPS>
SPARSE_OPS_INLINE void wait_for_older(int newest) {
  // A wait for all in one of the branches, and the compiler lets products wait for each other.
  if (newest == 0) ptx::commit_products();
  if (newest <= 1 || GROUPS == 1)
    ptx::wait_products<1>();
  else if (newest == 2 || GROUPS == 2)
    ptx::wait_products<2>();
  else if (newest == 3 || GROUPS == 3)
    ptx::wait_products<3>();
  else
    ptx::wait_products<4>();
}

template <bool BF16, int EIGHTS, int GROUPS, int WARPGROUPS, int CHUNK, int STAGE, int CLUSTER>
SPARSE_OPS_INLINE void run_wgmma(const Problem& p) {
  constexpr int THREADS = 128 * WARPGROUPS, PITCH = CHUNK * 2 + 16, SLICE = GROUPS * EIGHTS * 8;
  constexpr u32 BLOCK = EIGHTS * 256;
  // A stage in shared memory: its entries, then its weights (WgmmaConfig.stage_bytes).
  constexpr u32 HEADER = (STAGE * 4 + 32 + 127) / 128 * 128, PLACE = HEADER + STAGE * BLOCK;
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  // Slices run fastest: blocks at work together read the same pixels.
  const int rank = CLUSTER > 1 ? ptx::cluster_rank() : 0, pair = blockIdx.x / CLUSTER;
  const int slice = pair % p.slices, tile_number = pair / p.slices * CLUSTER + rank;
  const int m0 = tile_number * (64 * WARPGROUPS);
  // The last block of a cluster may be of no pixels: it copies, and writes nothing.
  const int q0 = position(p, m0 < p.pixels ? m0 : p.pixels - 1);

  unsigned char* memory = ptx::shared_memory();
  const u32 base = ptx::shared_address(memory), half = p.positions * PITCH;
  int* source = (int*)(memory + 2 * half);
  const u32 ring = base + (2 * half + p.positions * 4 + 127) / 128 * 128;
  const u32 barriers = ring + 3 * PLACE;
  find_sources<THREADS>(p, source, q0);
  const int m = m0 + warp * 16 + (lane & 15);
  const u32 own = base + (position(p, m < p.pixels ? m : p.pixels - 1) - q0) * PITCH +
                  (lane >> 4) * 16;
  float sums[GROUPS][EIGHTS * 4];
#pragma unroll
  for (int g = 0; g < GROUPS; g++)
#pragma unroll
    for (int i = 0; i < EIGHTS * 4; i++) sums[g][i] = 0.f;

  const auto copy_stage = [&](const Stage& stage, u32 to, int at) {
    const u32* entries = p.entries + stage.first;
    if constexpr (CLUSTER > 1) {
      if (thread != 0) return;
      const u32 listed = (stage.entries + 5) / 4 * 16, blocks = stage.blocks >> 16;
      const u32 first = rank == 0 ? 0 : (blocks + 1) / 2, end = rank == 0 ? (blocks + 1) / 2 : blocks;
      const u32 barrier = barriers + 8 * at;
      ptx::expect_bytes(barrier, listed + blocks * BLOCK);
      if (rank == 0) ptx::copy_to_all(to, entries, listed, barrier);
      if (first < end)
        ptx::copy_to_all(to + HEADER + first * BLOCK,
                         p.weight + (size_t)(stage.block + first) * (EIGHTS * 128),
                         (end - first) * BLOCK, barrier);
    } else {
      for (u32 k = thread; k < (stage.entries + 5) / 4; k += THREADS)
        ptx::copy16(to + 16 * k, entries + 4 * k, true);
      const u16* from = p.weight + (size_t)stage.block * (EIGHTS * 128);
      for (u32 k = thread; k < (stage.blocks >> 16) * (EIGHTS * 16); k += THREADS)
        ptx::copy16(to + HEADER + 16 * k, from + 8 * k, true);
    }
  };
  Stage next = stage_at(p, slice, 0), after = stage_at(p, slice, 1);
  u32 entry[3], a[3][4];
  int chunk = -1, place = 0, parity = 0;
  if (CLUSTER > 1 && thread == 0) {
    for (int i = 0; i < 3; i++) ptx::init_barrier(barriers + 8 * i, 1);
    ptx::show_barriers();
  }
  __syncthreads();  // `source` is written
  if (CLUSTER > 1) ptx::cluster_arrive(), ptx::cluster_wait();  // all barriers are there
  copy_pixels<THREADS, CHUNK>(p, source, base, 0);
  copy_stage(next, ring, 0);
  for (int s = 0; s < p.stages; s++) {
    const Stage now = next;
    next = after, after = stage_at(p, slice, s + 2 < p.stages ? s + 2 : p.stages);
    ptx::copies_done();
    if (CLUSTER == 1) ptx::see_copies();
    __syncthreads();  // everybody's copies are done, and what the next ones replace is not read
    if (CLUSTER > 1 && s > 0) ptx::cluster_wait();  // nor in the other block
    u32 list = ring + place * PLACE;
    u64 weights = ptx::descriptor(list + HEADER);
    const u32 barrier = barriers + 8 * place;
    const int phase = parity;
    place = place == 2 ? 0 : place + 1;
    if (place == 0) parity ^= 1;
    if (s + 1 < p.stages) copy_stage(next, ring + place * PLACE, place);
    if ((int)(now.blocks & 0xffff) != chunk) {
      chunk = now.blocks & 0xffff;
      const u32 to = base + (chunk + 1 & 1) * half;
      if (chunk + 1 < p.chunks) copy_pixels<THREADS, CHUNK>(p, source, to, chunk + 1);
    }
    if (CLUSTER > 1) ptx::wait_phase(barrier, phase);
    const u32 pixels = own + (chunk & 1) * half;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      entry[h] = ptx::load4_shared(list + 4 * h);
      ptx::ldmatrix(a[h], pixels + (entry[h] >> 8));
    }
    for (int left = now.entries; left > 0; left -= 3, list += 12) {
#pragma unroll
      for (int h = 0; h < 3; h++) {
        constexpr int THREE = 3;
        const int older = (h + 2) % THREE;
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
          if (entry[h] >> g & 1) {
            ptx::before_products();
            ptx::Product<BF16, EIGHTS * 4>::add(sums[g], a[h], weights);
            ptx::commit_products();
            weights += BLOCK >> 4;
          }
        wait_for_older<GROUPS>(ptx::ones(entry[h] & 0xff));
        ptx::until_here(a[older]);
        entry[older] = ptx::load4_shared(list + 4 * (h + 2));
        ptx::ldmatrix(a[older], pixels + (entry[older] >> 8));
      }
      // The products of the stage before are done.
      if (CLUSTER > 1 && left == (int)now.entries) ptx::cluster_arrive();
    }
  }
  if (CLUSTER > 1) ptx::cluster_wait();
  ptx::wait_products<0>();  // the sums are whole
#pragma unroll
  for (int g = 0; g < GROUPS; g++) ptx::until_here(sums[g]);

  // The sums change hands in shared memory, so that a thread writes eight neighbouring filters.
  constexpr int STEP = SLICE + 4;
  float* tile = (float*)memory;
  const u16* columns = p.columns + slice * SLICE;
#pragma unroll 1
  for (int u = 0; u < 4; u++) {
    __syncthreads();  // the tile is no longer read
    if (warp % 4 == u)
#pragma unroll
      for (int g = 0; g < GROUPS; g++)
#pragma unroll
        for (int i = 0; i < EIGHTS * 4; i++)
          tile[(warp / 4 * 16 + (lane >> 2) + (i & 2) * 4) * STEP +
               columns[g * EIGHTS * 8 + i / 4 * 8 + (lane & 3) * 2 + (i & 1)]] = sums[g][i];
    __syncthreads();  // the tile is whole
    write_rows<BF16, SLICE, 16, THREADS>(p, tile, slice, m0, WARPGROUPS * 16, u);
  }
}

}  // namespace sparse_ops

// Compiled once for each set of these numbers; SPARSE_OPS_BLOCKS is how many blocks a
// multiprocessor is to hold.
#ifdef SPARSE_OPS_STAGE
extern "C" __global__ void __cluster_dims__(SPARSE_OPS_CLUSTER, 1, 1)
    __launch_bounds__(128 * SPARSE_OPS_WARPGROUPS, SPARSE_OPS_BLOCKS)
        periodic_conv2d_wgmma(const sparse_ops::Problem problem) {
  sparse_ops::run_wgmma<SPARSE_OPS_BF16, SPARSE_OPS_EIGHTS, SPARSE_OPS_GROUPS,
                        SPARSE_OPS_WARPGROUPS, SPARSE_OPS_CHUNK, SPARSE_OPS_STAGE,
                        SPARSE_OPS_CLUSTER>(problem);
}
#endif
