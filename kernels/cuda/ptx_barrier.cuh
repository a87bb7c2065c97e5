// Barriers of sm_90 in shared memory, which count arrivals and bytes, copies that arrive at them, and
// registers that change hands. As in ptx.cuh, each function has a second branch for a host that runs
// the kernel in tests.
#pragma once
#include "ptx.cuh"

namespace sparse_ops {
namespace ptx {

// Which block this is.
SPARSE_OPS_INLINE int block() { return blockIdx.x; }

// The same number in all lanes of a warp, known to be.
SPARSE_OPS_INLINE int uniform(int v) {
#ifdef SPARSE_OPS_HOST
  return v;
#else
  return __shfl_sync(0xffffffffu, v, 0);
#endif
}

// The number of the lane whose number differs in one bit.
template <int BIT>
SPARSE_OPS_INLINE u32 of_lane(u32 v) {
#ifdef SPARSE_OPS_HOST
  return host::of_lane(v, BIT);
#else
  return __shfl_xor_sync(0xffffffffu, v, BIT);
#endif
}

// A number that the compiler takes for any: what follows from it is not worked out ahead.
SPARSE_OPS_INLINE void as_it_is(u32& v) {
#ifndef SPARSE_OPS_HOST
  asm volatile("" : "+r"(v));
#endif
}

SPARSE_OPS_INLINE void whole_warp() {
#ifdef SPARSE_OPS_HOST
  host::whole_warp();
#else
  __syncwarp();
#endif
}

// A barrier of so many threads of a block, whole warps, of this number.
template <int NUMBER, int COUNT>
SPARSE_OPS_INLINE void some_threads() {
#ifdef SPARSE_OPS_HOST
  host::some_threads(NUMBER, COUNT);
#else
  asm volatile("bar.sync %0, %1;" ::"n"(NUMBER), "n"(COUNT) : "memory");
#endif
}

// Each warp of a warpgroup gives registers back, or takes more, up to COUNT a thread.
template <int COUNT>
SPARSE_OPS_INLINE void fewer_registers() {
#if !defined(SPARSE_OPS_HOST) && SPARSE_OPS_ARCH >= 900
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
#endif
}
template <int COUNT>
SPARSE_OPS_INLINE void more_registers() {
#if !defined(SPARSE_OPS_HOST) && SPARSE_OPS_ARCH >= 900
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
#endif
}

// A barrier in shared memory, at which so many arrive in each phase.
SPARSE_OPS_INLINE void init_barrier(u32 at, u32 count) {
#ifdef SPARSE_OPS_HOST
  host::init_barrier(at, count);
#elif SPARSE_OPS_ARCH >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory");
#endif
}

// Barriers that were initialised are there for copies, from the block's next barrier on.
SPARSE_OPS_INLINE void show_barriers() {
#ifdef SPARSE_OPS_HOST
  // There at once.
#elif SPARSE_OPS_ARCH >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

SPARSE_OPS_INLINE void arrive(u32 at) {
#ifdef SPARSE_OPS_HOST
  host::expect_bytes(at, 0);
#elif SPARSE_OPS_ARCH >= 900
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
#endif
}

// Arrives at a barrier, and lets its phase wait for so many bytes.
SPARSE_OPS_INLINE void expect_bytes(u32 at, u32 bytes) {
#ifdef SPARSE_OPS_HOST
  host::expect_bytes(at, bytes);
#elif SPARSE_OPS_ARCH >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes)
               : "memory");
#endif
}

// Arrives at a barrier once all that this thread has copied by copy16 is there.
SPARSE_OPS_INLINE void copies_arrive(u32 at) {
#ifdef SPARSE_OPS_HOST
  host::copies_arrive(at);
#elif SPARSE_OPS_ARCH >= 900
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(at) : "memory");
#endif
}

// Waits until the phase of a parity is over. Its bytes are then seen, by products, too.
SPARSE_OPS_INLINE void wait_phase(u32 at, u32 parity) {
#ifdef SPARSE_OPS_HOST
  host::wait_phase(at, parity);
#elif SPARSE_OPS_ARCH >= 900
  asm volatile(
      "{.reg .pred p;\n"
      "WAIT%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra DONE%=;\n"
      "bra WAIT%=;\n"
      "DONE%=:}" ::"r"(at),
      "r"(parity)
      : "memory");
#endif
}

// Copies bytes, a multiple of 16, to shared memory; they are counted at a barrier.
SPARSE_OPS_INLINE void copy_bytes(u32 to, const void* from, u32 size, u32 barrier) {
#ifdef SPARSE_OPS_HOST
  host::copy_bytes(to, from, size, barrier);
#elif SPARSE_OPS_ARCH >= 900
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          to),
      "l"(from), "r"(size), "r"(barrier)
      : "memory");
#endif
}

}  // namespace ptx
}  // namespace sparse_ops
