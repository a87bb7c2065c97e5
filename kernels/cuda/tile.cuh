// What the kernels of periodic_conv2d share: what they are told, which pixels of x a tile of y reads,
// and how a tile of sums becomes y. periodic_conv2d.cuh says what a position is.
#pragma once
#include "ptx.cuh"

namespace sparse_ops {

constexpr int MOST_TAPS = 25;

struct Problem {
  const u16* x;
  const u16* weight;     // blocks of 16 channels by a group
  const u16* bias;       // (filters), or null
  const u16* residual;   // as y, or null
  u16* y;
  const u32* entries;    // offset << 8 | set of groups; two of 0 end each list
  const int* starts;     // (slices, FILTER_WARPS, chunks + 1): in entries
  const int* blocks;     // (slices, FILTER_WARPS): a warp's first block of weights
  const int* channels;   // (chunks, CHUNK / 8): the first of eight channels of x, or -1: zeros
  const u16* columns;    // (slices, FILTER_WARPS GROUPS 8 EIGHTS): where in a slice a filter stands
  const int* eights;     // (slices, filters of a slice / 8): the first of eight filters, or -1
  int channels_in, filters, chunks, slices, positions, pixels;
  int height, width, out_height, out_width;
  int stride_h, stride_w, pad_h, pad_w, activation;
  // For wgmma: slices of tiles, blocks that share them, and how far down << 16 | right taps are.
  int items, grid, taps[MOST_TAPS];
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

// The first position that pixel m of y reads.
SPARSE_OPS_INLINE int position(const Problem& p, int m) {
  const int out = p.out_height * p.out_width, n = m / out, r = m % out;
  return (n * (p.height + p.pad_h) + r / p.out_width * p.stride_h) * (p.width + p.pad_w) +
         r % p.out_width * p.stride_w;
}

// Which pixel of x stands at each of a tile's positions, or -1 where there is none.
template <int THREADS>
SPARSE_OPS_INLINE void find_sources(const Problem& p, int* source, int q0) {
  const int Wp = p.width + p.pad_w, Hp = p.height + p.pad_h;
  const int images = p.pixels / (p.out_height * p.out_width);
  for (int r = threadIdx.x; r < p.positions; r += THREADS) {
    const int n = (q0 + r) / (Hp * Wp), rest = (q0 + r) % (Hp * Wp);
    const int y = rest / Wp - p.pad_h, x = rest % Wp - p.pad_w;
    source[r] = y >= 0 && x >= 0 && n < images ? (n * p.height + y) * p.width + x : -1;
  }
}

// Starts to copy a chunk of the channels at all positions, into rows of so many bytes and 16 more:
// rows that follow each other then differ in their banks.
template <int THREADS, int CHUNK>
SPARSE_OPS_INLINE void copy_pixels(const Problem& p, const int* source, u32 to, int chunk) {
  constexpr int PIECES = CHUNK / 8, PITCH = CHUNK * 2 + 16;
  static_assert(THREADS % PIECES == 0, "a thread copies the same piece of each row");
  const int thread = threadIdx.x;
  const int channel = p.channels[chunk * PIECES + thread % PIECES];
  to += thread % PIECES * 16;
  for (int r = thread / PIECES; r < p.positions; r += THREADS / PIECES) {
    const int pixel = source[r];
    const bool there = pixel >= 0 && channel >= 0;
    const u16* from = p.x + (there ? (size_t)pixel * p.channels_in + channel : 0);
    ptx::copy16(to + r * PITCH, from, there);
  }
}

// Writes rows of a tile of sums, rows of SLICE + 4: UNIT pixels of each 64, from u UNIT on.
template <bool BF16, int SLICE, int UNIT, int THREADS>
SPARSE_OPS_INLINE void write_rows(const Problem& p, const float* tile, int slice, int m0, int rows,
                                  int u) {
  constexpr int STEP = SLICE + 4;
  for (int k = threadIdx.x; k < rows * (SLICE / 8); k += THREADS) {
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

}  // namespace sparse_ops
