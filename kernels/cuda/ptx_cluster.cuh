// Clusters of sm_90: blocks that copy to each other's shared memory, and barriers that count bytes. As
// in ptx.cuh, each function has a second branch for a host that runs the kernel in tests.
#pragma once
#include "ptx.cuh"

namespace sparse_ops {
namespace ptx {

// Which block of its cluster this is.
SPARSE_OPS_INLINE int cluster_rank() {
#ifdef SPARSE_OPS_HOST
  return host::rank();
#else
  u32 v = 0;
#if SPARSE_OPS_ARCH >= 900
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(v));
#endif
  return v;
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

// Barriers that were initialised are there for copies, from the next barrier of the cluster on.
SPARSE_OPS_INLINE void show_barriers() {
#ifdef SPARSE_OPS_HOST
  // There at once.
#elif SPARSE_OPS_ARCH >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
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

// Copies bytes, a multiple of 16, to the same place in both blocks of a cluster; they are counted at
// the same barrier of each.
SPARSE_OPS_INLINE void copy_to_all(u32 to, const void* from, u32 size, u32 barrier) {
#ifdef SPARSE_OPS_HOST
  host::copy_to_all(to, from, size, barrier);
#elif SPARSE_OPS_ARCH >= 900
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1], %2, [%3], %4;" ::"r"(to),
      "l"(from), "r"(size), "r"(barrier), "h"((u16)3)
      : "memory");
#endif
}

// The barrier of all threads of a cluster, in two halves: what comes before cluster_arrive in one is
// done when cluster_wait is over in the others.
SPARSE_OPS_INLINE void cluster_arrive() {
#ifdef SPARSE_OPS_HOST
  host::cluster_arrive();
#elif SPARSE_OPS_ARCH >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

SPARSE_OPS_INLINE void cluster_wait() {
#ifdef SPARSE_OPS_HOST
  host::cluster_wait();
#elif SPARSE_OPS_ARCH >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

}  // namespace ptx
}  // namespace sparse_ops
