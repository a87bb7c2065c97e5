// periodic_conv2d.cuh by the products of sm_90a, wgmma. Four warps multiply 64 pixels at once; what
// they multiply in which order is text, made for a weight (kernels/wgmma_text.py) and included here:
// nothing is looked up or branched on between two products.
//
// All of y is written, sums are in float32, rounded once. What a tile of neighbouring pixels of y reads
// are neighbouring pixels of x: they are copied as they lie. They come to the products by ldmatrix, at
// an address of each lane's own for each tap, so that 64 of them are packed whatever H, W and the
// stride are; where a tap is in the padding, that is one of eight rows of zeros, the one in whose banks
// the pixel would have been: rows of eight neighbours are in different banks. Pixels are loaded once
// for all filters that keep weights under a tap. Weights are read by the products themselves, from
// shared memory, where they are copied in order of use.
//
// A block goes from tile to tile. WARPGROUPS times four warps multiply; four more copy, always ahead,
// also into the next tile: three of them chunks of the channels, to PLACES in turn, and one thread the
// weights of 16 channels, to STAGES. Each place and each stage has two barriers: it is full, it is
// empty. Nobody else waits for anybody.
#pragma once
#include "ptx_barrier.cuh"
#include "ptx_wgmma.cuh"
#include "tile.cuh"
#include "head.cuh"

namespace sparse_ops {

// The places of a ring, one after another: where it is, and in which turn.
template <int COUNT>
struct Ring {
  u32 at = COUNT - 1, turn = 1;
  SPARSE_OPS_INLINE void next() {
    at = at + 1 == COUNT ? 0 : at + 1;
    turn ^= at == 0;
    // Else the places of a whole tile are worked out at its begin, and kept in registers.
    ptx::as_it_is(at), ptx::as_it_is(turn);
  }
};

// Rows of zeros at the end of each place.
constexpr int ZEROS = 8;

// Where in shared memory everything is.
template <int WARPGROUPS, int CHUNK, int PLACES, int STAGES, int STAGE, int EIGHTS, int GROUPS>
struct Plan {
  static constexpr int PITCH = CHUNK * 2 + 16, BLOCK = EIGHTS * 256, SLICE = GROUPS * EIGHTS * 8;
  int rows;  // of a place, before the zeros: a multiple of 8
  u32 pixels, place, weights, barriers;
  float* bias;  // (filters of all slices)
  int* eights;  // as Problem's
  SPARSE_OPS_INLINE Plan(const Problem& p, unsigned char* memory) {
    rows = (p.positions + 7) / 8 * 8;
    place = ((rows + ZEROS) * PITCH + 127) / 128 * 128;
    weights = ptx::shared_address(memory);
    pixels = weights + STAGES * STAGE * BLOCK;
    barriers = pixels + PLACES * place;
    bias = (float*)(memory + (barriers - weights) + 16 * (PLACES + STAGES));
    eights = (int*)(bias + p.slices * SLICE);
  }
  SPARSE_OPS_INLINE u32 full_pixels(int at) const { return barriers + 8 * at; }
  SPARSE_OPS_INLINE u32 empty_pixels(int at) const { return barriers + 8 * (PLACES + at); }
  SPARSE_OPS_INLINE u32 full_weights(int at) const { return barriers + 8 * (2 * PLACES + at); }
  SPARSE_OPS_INLINE u32 empty_weights(int at) const {
    return barriers + 8 * (2 * PLACES + STAGES + at);
  }
};

// A pixel of y, and where in x its window begins, which may be in the padding.
struct Window {
  int image, y, x;
  SPARSE_OPS_INLINE Window(const Problem& p, int m) {
    const int out = p.out_height * p.out_width, rest = m % out;
    image = m / out;
    y = rest / p.out_width * p.stride_h - p.pad_h, x = rest % p.out_width * p.stride_w - p.pad_w;
  }
  // Among all pixels of x, were there no padding.
  SPARSE_OPS_INLINE int number(const Problem& p) const {
    return (image * p.height + y) * p.width + x;
  }
};

// Threads that copy pixels, and those of all four warps that copy.
constexpr int PIXEL_COPIERS = 96, COPIERS = 128;

#define BEGIN(chunk) return chunk;
SPARSE_OPS_INLINE int first_chunk([[maybe_unused]] int slice) {
#include "turns.cuh"
}

template <class P, int CHUNK, int PLACES>
SPARSE_OPS_INLINE void copy_all_pixels(const Problem& p, const P& plan, int thread, int tile) {
  constexpr int PIECES = CHUNK / 8, ROWS = PIXEL_COPIERS / PIECES;
  static_assert(PIXEL_COPIERS % PIECES == 0, "a thread copies the same piece of each row");
  const int piece = thread % PIECES, row = thread / PIECES;
  const int all = p.pixels / (p.out_height * p.out_width) * p.height * p.width;
  Ring<PLACES> ring;
  for (int item = ptx::block(); item < p.items; item += p.grid) {
    const int first = Window(p, item / p.slices * tile).number(p);
    const int begin = first_chunk(item % p.slices);
    for (int chunk = 0; chunk < p.chunks; chunk++) {
      const int turned = chunk + begin < p.chunks ? chunk + begin : chunk + begin - p.chunks;
      const int channel = turned * CHUNK + piece * 8;
      const bool kept = channel < p.channels_in;
      ring.next();
      // The first time that a place is waited for, it is empty.
      ptx::wait_phase(plan.empty_pixels(ring.at), ring.turn ^ 1);
      const u32 to = plan.pixels + ring.at * plan.place + piece * 16;
#pragma unroll 4
      for (int r = row; r < p.positions; r += ROWS) {
        const bool there = first + r >= 0 && first + r < all;
        const u16* from = p.x + (size_t)(there ? first + r : 0) * p.channels_in;
        if (there) ptx::copy16(to + r * P::PITCH, kept ? from + channel : p.x, kept);
      }
      ptx::copies_arrive(plan.full_pixels(ring.at));
    }
  }
}

#define COPY(steps, block, blocks) \
  for (int s = 0; s < steps; s++) copy(block + s * blocks, blocks);
template <class P, int STAGES, int STAGE>
SPARSE_OPS_INLINE void copy_all_weights(const Problem& p, const P& plan) {
  Ring<STAGES> ring;
  const auto copy = [&](int first, u32 blocks) {
    ring.next();
    ptx::wait_phase(plan.empty_weights(ring.at), ring.turn ^ 1);
    const u32 barrier = plan.full_weights(ring.at), bytes = blocks * P::BLOCK;
    ptx::expect_bytes(barrier, bytes);
    ptx::copy_bytes(plan.weights + ring.at * (STAGE * P::BLOCK),
                    p.weight + (size_t)first * (P::BLOCK / 2), bytes, barrier);
  };
  for (int item = ptx::block(); item < p.items; item += p.grid) {
    [[maybe_unused]] const int slice = item % p.slices;
#include "weights.cuh"
  }
}

// What the included text is made of.
template <class P, bool BF16, int EIGHTS, int GROUPS, int PLACES, int STAGES, int STAGE, int AT_ONCE>
struct Multiplier {
  static constexpr int BLOCK = EIGHTS * 256;
  const Problem& p;
  const P& plan;
  const bool first;  // lane of its warp
  Ring<PLACES> place;
  Ring<STAGES> stage, freed;
  u32 own[TAPS];  // where in a place the lane's row begins under each tap
  u32 now;        // the place
  u32 weights;
  u32 a[2][AT_ONCE][4];
  float sums[GROUPS][EIGHTS * 4];

  SPARSE_OPS_INLINE Multiplier(const Problem& p, const P& plan, int lane)
      : p(p), plan(plan), first(lane == 0) {}
  // Begins a tile: the rows of pixel m, of one that begins with the window of `first`.
  SPARSE_OPS_INLINE void begin(const Window& pixel, const Window& first, int slice, int lane) {
    const int begin = pixel.number(p) - first.number(p);
#pragma unroll
    for (int t = 0; t < TAPS; t++) {
      const int down = p.taps[t] >> 16, right = p.taps[t] & 0xffff;
      const int r = begin + down * p.width + right;
      const bool inside = (u32)(pixel.y + down) < (u32)p.height && (u32)(pixel.x + right) < (u32)p.width;
      own[t] = (inside ? r : plan.rows + (r & ZEROS - 1)) * P::PITCH + (lane >> 4) * 16;
    }
    const float* bias = plan.bias + slice * P::SLICE + lane % 4 * 2;
#pragma unroll
    for (int g = 0; g < GROUPS; g++)
#pragma unroll
      for (int i = 0; i < EIGHTS * 4; i++)
        sums[g][i] = bias[(g * EIGHTS + i / 4) * 8 + (i & 1)];
  }
  SPARSE_OPS_INLINE void next_chunk() {
    place.next();
    ptx::wait_phase(plan.full_pixels(place.at), place.turn);
    now = plan.pixels + place.at * plan.place;
    ptx::as_it_is(now);
  }
  SPARSE_OPS_INLINE void free_chunk() {
    ptx::whole_warp();
    if (first) ptx::arrive(plan.empty_pixels(place.at));
  }
  SPARSE_OPS_INLINE void next_stage() {
    stage.next();
    ptx::wait_phase(plan.full_weights(stage.at), stage.turn);
    weights = ptx::descriptor(plan.weights + stage.at * (STAGE * BLOCK));
    ptx::as_it_is(weights);
  }
  SPARSE_OPS_INLINE void free_stage() {
    freed.next();
    if (first) ptx::arrive(plan.empty_weights(freed.at));
  }
  // So many steps of 16 channels on.
  SPARSE_OPS_INLINE void skip(int steps) {
    now += 32 * steps;
    ptx::as_it_is(now);
  }
  template <int TAP>
  SPARSE_OPS_INLINE void load(u32 (&to)[4]) {
    ptx::ldmatrix(to, own[TAP] + now);
  }
  template <int GROUP, int AT>
  SPARSE_OPS_INLINE void add(const u32 (&pixels)[4]) {
    ptx::Product<BF16, EIGHTS * 4>::add(sums[GROUP], pixels, weights + AT * (BLOCK >> 4));
  }
};

#define NEXT_CHUNK m.next_chunk();
#define FREE_CHUNK m.free_chunk();
#define NEXT_STAGE m.next_stage();
#define FREE_STAGE m.free_stage();
#define SKIP(steps) m.skip(steps);
#define LOAD(buffer, n, tap) m.template load<tap>(m.a[buffer][n]);
#define FENCE ptx::before_products();
#define ADD(buffer, n, group, at) m.template add<group, at>(m.a[buffer][n]);
#define COMMIT ptx::commit_products();
#define WAIT(left) ptx::wait_products<left>();
#define REPEAT(count) _Pragma("unroll 1") for (int k = 0; k < count; k++) {
#define AGAIN(what) if (k) { what }
#define UNLESS_LAST(count, ...) if (k + 1 < count) { __VA_ARGS__ }
#define END }
template <class M>
SPARSE_OPS_INLINE void multiply(M& m, [[maybe_unused]] int slice) {
#include "schedule.cuh"
}

// Of four numbers a lane, those of four neighbours change places: number k of lane l % 4 becomes
// number l % 4 of lane k.
SPARSE_OPS_INLINE void transpose(u32 (&v)[4], int lane) {
#pragma unroll
  for (int k = 0; k < 4; k += 2) {
    const u32 low = v[k], high = v[k + 1], other = ptx::of_lane<1>(lane & 1 ? low : high);
    v[k] = lane & 1 ? other : low, v[k + 1] = lane & 1 ? high : other;
  }
#pragma unroll
  for (int k = 0; k < 2; k++) {
    const u32 low = v[k], high = v[k + 2], other = ptx::of_lane<2>(lane & 2 ? low : high);
    v[k] = lane & 2 ? other : low, v[k + 2] = lane & 2 ? high : other;
  }
}

// Sums of 64 pixels by a slice become y. A warp has 16 of the pixels, from m0 on.
template <bool BF16, bool RESIDUAL, int EIGHTS, int GROUPS, class P>
SPARSE_OPS_INLINE void write_sums(const Problem& p, const P& plan,
                                  const float (&sums)[GROUPS][EIGHTS * 4], int slice, int m0,
                                  int lane) {
  const int* eights = plan.eights + slice * (P::SLICE / 8);
  // None, relu and relu6 are bounds.
  const u32 least = p.activation ? 0 : ptx::infinities<BF16>(true);
  const u32 most = p.activation == 2 ? ptx::to_halves<BF16>(6.f, 6.f) : ptx::infinities<BF16>(false);
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int m = m0 + (lane >> 2) + 8 * h;
    const bool inside = m < p.pixels;
    const size_t place = (size_t)m * p.filters;
#pragma unroll
    for (int four = 0; four < P::SLICE / 32; four++) {
      u32 v[4];
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const float* own = &sums[(4 * four + k) / EIGHTS][(4 * four + k) % EIGHTS * 4 + 2 * h];
        float low = own[0], high = own[1];
        if (RESIDUAL) {
          const int eight = eights[4 * four + k];
          const u16* from = p.residual + place + eight + lane % 4 * 2;
          const u32 r = inside && eight >= 0 ? ptx::load4(from) : 0;
          low += ptx::to_float<BF16>(r & 0xffff), high += ptx::to_float<BF16>(r >> 16);
        }
        v[k] = ptx::bounded<BF16>(ptx::to_halves<BF16>(low, high), least, most);
      }
      transpose(v, lane);
      const int filter = eights[4 * four + lane % 4];
      if (inside && filter >= 0) ptx::store16(p.y + place + filter, uint4{v[0], v[1], v[2], v[3]});
    }
  }
}

template <bool BF16, int EIGHTS, int GROUPS, int WARPGROUPS, int CHUNK, int PLACES, int STAGES,
          int STAGE, int AT_ONCE, int MORE, int FEWER>
SPARSE_OPS_INLINE void run_wgmma(const Problem& p) {
  constexpr int TILE = 64 * WARPGROUPS, MULTIPLIERS = 128 * WARPGROUPS;
  typedef Plan<WARPGROUPS, CHUNK, PLACES, STAGES, STAGE, EIGHTS, GROUPS> P;
  static_assert(P::SLICE % 32 == 0, "a lane writes eight filters, and four lanes a row");
  unsigned char* memory = ptx::shared_memory();
  const P plan(p, memory);
  const int thread = threadIdx.x, group = ptx::uniform(thread >> 7);
  if (thread == 0) {
    for (int i = 0; i < PLACES; i++) {
      ptx::init_barrier(plan.full_pixels(i), PIXEL_COPIERS);
      ptx::init_barrier(plan.empty_pixels(i), 4 * WARPGROUPS);
    }
    for (int i = 0; i < STAGES; i++) {
      ptx::init_barrier(plan.full_weights(i), 1);
      ptx::init_barrier(plan.empty_weights(i), 4 * WARPGROUPS);
    }
    ptx::show_barriers();
  }
  __syncthreads();
  if (group == WARPGROUPS) {
    if constexpr (FEWER > 0) ptx::fewer_registers<FEWER>();
    const int own = thread & 127;
    if (own >= COPIERS - PIXEL_COPIERS)
      copy_all_pixels<P, CHUNK, PLACES>(p, plan, own - (COPIERS - PIXEL_COPIERS), TILE);
    else if (own == 0)
      copy_all_weights<P, STAGES, STAGE>(p, plan);
  } else {
    if constexpr (MORE > 0) ptx::more_registers<MORE>();
    // Nobody else needs these.
    for (int i = thread; i < PLACES * ZEROS * P::PITCH / 16; i += MULTIPLIERS) {
      const int at = i / (ZEROS * P::PITCH / 16), rest = i % (ZEROS * P::PITCH / 16);
      const u32 from = plan.pixels - plan.weights + at * plan.place + plan.rows * P::PITCH;
      ptx::store16_shared(memory + from + 16 * rest, uint4{});
    }
    for (int i = thread; i < p.slices * P::SLICE / 8; i += MULTIPLIERS) {
      const int eight = p.eights[i];
      plan.eights[i] = eight;
      for (int k = 0; k < 8; k++)
        plan.bias[8 * i + k] =
            p.bias && eight >= 0 ? ptx::to_float<BF16>(ptx::load2(p.bias + eight + k)) : 0.f;
    }
    ptx::some_threads<1, MULTIPLIERS>();
    const int lane = thread & 31, warp = ptx::uniform(thread >> 5);
    Multiplier<P, BF16, EIGHTS, GROUPS, PLACES, STAGES, STAGE, AT_ONCE> m(p, plan, lane);
    for (int item = ptx::block(); item < p.items; item += p.grid) {
      const int slice = item % p.slices, m0 = item / p.slices * TILE;
      const int pixel = m0 + warp * 16 + (lane & 15);
      m.begin(Window(p, pixel < p.pixels ? pixel : p.pixels - 1), Window(p, m0), slice, lane);
      multiply(m, slice);
#pragma unroll
      for (int g = 0; g < GROUPS; g++) ptx::until_here(m.sums[g]);
      if (p.residual)
        write_sums<BF16, true, EIGHTS, GROUPS>(p, plan, m.sums, slice, m0 + warp * 16, lane);
      else
        write_sums<BF16, false, EIGHTS, GROUPS>(p, plan, m.sums, slice, m0 + warp * 16, lane);
    }
  }
}

}  // namespace sparse_ops

// Compiled once for each set of these numbers and each text.
#ifdef SPARSE_OPS_STAGE
extern "C" __global__ void __launch_bounds__(128 * (SPARSE_OPS_WARPGROUPS + 1), 1)
    periodic_conv2d_wgmma(const __grid_constant__ sparse_ops::Problem problem) {
  sparse_ops::run_wgmma<SPARSE_OPS_BF16, SPARSE_OPS_EIGHTS, SPARSE_OPS_GROUPS,
                        SPARSE_OPS_WARPGROUPS, SPARSE_OPS_CHUNK, SPARSE_OPS_PLACES,
                        SPARSE_OPS_STAGES, SPARSE_OPS_STAGE, SPARSE_OPS_AT_ONCE, SPARSE_OPS_MORE,
                        SPARSE_OPS_FEWER>(problem);
}
#endif
