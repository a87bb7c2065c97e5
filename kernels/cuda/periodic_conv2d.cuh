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

namespace sparse_ops {

struct Problem {
  const u16* x;
  const u16* weight;     // blocks of 16 channels by a group
  const u16* bias;       // (filters), or null
  const u16* residual;   // as y, or null
  u16* y;
  const u32* entries;    // offset << 8 | set of groups; two of 0 end each warp's list
  const int* starts;     // (slices, FILTER_WARPS, chunks + 1): in entries
  const int* blocks;     // (slices, FILTER_WARPS): a warp's first block of weights
  const int* channels;   // (chunks, CHUNK / 8): the first of eight channels of x, or -1: zeros
  const u16* columns;    // (slices, FILTER_WARPS GROUPS 8 EIGHTS): where in a slice a filter stands
  const int* eights;     // (slices, filters of a slice / 8): the first of eight filters, or -1
  int channels_in, filters, chunks, slices, positions, pixels;
  int height, width, out_height, out_width;
  int stride_h, stride_w, pad_h, pad_w, activation;
};

SPARSE_OPS_INLINE float activated(float y, int activation) {
  if (activation == 1) return y < 0.f ? 0.f : y;
  if (activation == 2) return y < 0.f ? 0.f : y > 6.f ? 6.f : y;
  if (activation == 3) return y / (1.f + expf(-y));
  if (activation == 4) {
    const float gate = y + 3.f;
    return y * (gate < 0.f ? 0.f : gate > 6.f ? 6.f : gate) / 6.f;
  }
  // As csrc/cpu/row_sparse_body.h, which says what these numbers are.
  if (activation == 5) {
    float a = y < 0.f ? -y : y;
    if (a > 13.25f) a = 13.25f;
    const float s = 1.f / (a + 2.25f), u = a * s;
    float p = -0.0920174271f * u + 0.352038741f;
    p = p * u - 0.491666585f;
    p = p * u + 0.353157014f;
    p = p * u - 0.22954932f;
    p = p * u + 0.0481571704f;
    p = p * u + 0.0931105837f;
    p = p * u + 0.202055767f;
    p = p * u - 0.0667005181f;
    p = p * u - 0.894643843f;
    p = p * u + 1.125f;
    const float tail = a < 13.25f ? p * expf(-0.5f * a * a) : 0.f;
    return y < 0.f ? y * s * tail : y - u * tail;
  }
  if (activation == 6) return y / (1.f + expf(-1.5957691216f * (y + 0.044715f * y * y * y)));
  return y;
}

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
  constexpr int UNITS = 64 / UNIT, PIECES = CHUNK / 8;
  // 16 bytes more than the channels: rows that follow each other then differ in their banks.
  constexpr int PITCH = CHUNK * 2 + 16;
  constexpr int SLICE = FILTER_WARPS * GROUPS * EIGHTS * 8;
  static_assert(THREADS % PIECES == 0, "a thread copies the same piece of each row");
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int pixel_warp = warp % PIXEL_WARPS, filter_warp = warp / PIXEL_WARPS;
  // Slices run fastest: blocks at work together read the same pixels.
  const int slice = blockIdx.x % p.slices, m0 = blockIdx.x / p.slices * TILE;
  const int Wp = p.width + p.pad_w, Hp = p.height + p.pad_h, out = p.out_height * p.out_width;
  const auto position = [&](int m) {
    const int n = m / out, r = m % out;
    return (n * Hp + r / p.out_width * p.stride_h) * Wp + r % p.out_width * p.stride_w;
  };
  const int q0 = position(m0), images = p.pixels / out;

  unsigned char* memory = ptx::shared_memory();
  const u32 base = ptx::shared_address(memory), half = p.positions * PITCH;
  // Which pixel of x stands at each position, or -1 where there is none.
  int* source = (int*)(memory + 2 * half);
  for (int r = thread; r < p.positions; r += THREADS) {
    const int n = (q0 + r) / (Hp * Wp), rest = (q0 + r) % (Hp * Wp);
    const int y = rest / Wp - p.pad_h, x = rest % Wp - p.pad_w;
    source[r] = y >= 0 && x >= 0 && n < images ? (n * p.height + y) * p.width + x : -1;
  }
  u32 own[UNITS];
#pragma unroll
  for (int u = 0; u < UNITS; u++) {
    const int m = m0 + pixel_warp * 64 + u * UNIT + pixel_of(lane);
    own[u] = base + (position(m < p.pixels ? m : p.pixels - 1) - q0) * PITCH + bytes_of(lane);
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
    const int channel = p.channels[chunk * PIECES + thread % PIECES];
    const u32 to = base + (chunk & 1) * half + thread % PIECES * 16;
    for (int r = thread / PIECES; r < p.positions; r += THREADS / PIECES) {
      const int pixel = source[r];
      const bool there = pixel >= 0 && channel >= 0;
      const u16* from = p.x + (there ? (size_t)pixel * p.channels_in + channel : 0);
      ptx::copy16(to + r * PITCH, from, there);
    }
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
    for (int k = thread; k < ROWS * (SLICE / 8); k += THREADS) {
      const int row = k / (SLICE / 8), eight = k % (SLICE / 8);
      const int filter = p.eights[slice * (SLICE / 8) + eight];
      const int m = m0 + row / UNIT * 64 + u * UNIT + row % UNIT;
      if (filter < 0 || m >= p.pixels) continue;
      const size_t place = (size_t)m * p.filters + filter;
      const uint4 b = p.bias ? ptx::load16(p.bias + filter) : uint4{};
      const uint4 r = p.residual ? ptx::load16(p.residual + place) : uint4{};
      const u32 more[2][4] = {{b.x, b.y, b.z, b.w}, {r.x, r.y, r.z, r.w}};
      u32 packed[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float v[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
          v[h] = tile[row * STEP + eight * 8 + 2 * i + h];
          v[h] += ptx::to_float<BF16>(more[0][i] >> (16 * h) & 0xffff);
          v[h] += ptx::to_float<BF16>(more[1][i] >> (16 * h) & 0xffff);
          v[h] = activated(v[h], p.activation);
        }
        packed[i] = ptx::to_halves<BF16>(v[0], v[1]);
      }
      ptx::store16(p.y + place, uint4{packed[0], packed[1], packed[2], packed[3]});
    }
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
