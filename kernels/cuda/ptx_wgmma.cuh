// wgmma: products by the four warps of a warpgroup, on sm_90a. As in ptx.cuh, each function has a
// second branch for a host that runs the kernel in tests.
//
// A product runs on by itself. Its registers must be left alone until wait_products says that it is
// done, and what it reads of shared memory is what bulk copies have brought there.
#pragma once
#include "ptx.cuh"

#ifdef SPARSE_OPS_HOST
#define SPARSE_OPS_HAS_WGMMA (SPARSE_OPS_HOST >= 900)
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SPARSE_OPS_HAS_WGMMA 1
#else
#define SPARSE_OPS_HAS_WGMMA 0
#endif

namespace sparse_ops {
namespace ptx {

// Blocks of 8 rows by 8 halves, each 128 bytes without gaps: two of them along k, then 8 rows on.
// Not swizzled, so that a block may begin at any 16 bytes.
// Its upper half is the same for all: how far apart eights of rows are.
constexpr u32 ROWS_APART = 256 >> 4;
SPARSE_OPS_INLINE u32 descriptor(u32 at) { return (128 >> 4) << 16 | (at & 0x3ffff) >> 4; }

// Between writing a product's registers and the product.
SPARSE_OPS_INLINE void before_products() {
#ifdef SPARSE_OPS_HOST
  host::before_products();
#elif SPARSE_OPS_HAS_WGMMA
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// The products since the last call are a group.
SPARSE_OPS_INLINE void commit_products() {
#ifdef SPARSE_OPS_HOST
  host::commit_products();
#elif SPARSE_OPS_HAS_WGMMA
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Waits until no more than the LEFT newest groups are at work.
template <int LEFT>
SPARSE_OPS_INLINE void wait_products() {
#ifdef SPARSE_OPS_HOST
  host::wait_products(LEFT);
#elif SPARSE_OPS_HAS_WGMMA
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
#endif
}

// These registers were a product's until here: no others may have been put into them.
SPARSE_OPS_INLINE void until_here(u32 (&a)[4]) {
#ifndef SPARSE_OPS_HOST
  asm volatile("" : "+r"(a[0]), "+r"(a[1]), "+r"(a[2]), "+r"(a[3])::"memory");
#endif
}
template <int COUNT>
SPARSE_OPS_INLINE void until_here(float (&d)[COUNT]) {
#ifndef SPARSE_OPS_HOST
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(d[i])::"memory");
#endif
}

// d (64 x 2 COUNT) += a (64 x 16) b (16 x 2 COUNT), a from ldmatrix, 16 rows a warp; b the rows that a
// descriptor finds, 16 halves each; sums in float32. d[i] is row l / 4 + 8 (i / 2 % 2) of the warp's,
// column i / 4 * 8 + 2 (l % 4) + i % 2. Which there are is text, too (kernels/wgmma_text.py).
template <bool BF16, int COUNT>
struct Product;

#ifdef SPARSE_OPS_HOST
template <bool BF16, int COUNT>
struct Product {
  static void add(float (&d)[COUNT], const u32 (&a)[4], u32 b) {
    host::wgmma<BF16>(d, COUNT, a, (u64)ROWS_APART << 32 | b);
  }
};
#endif

}  // namespace ptx
}  // namespace sparse_ops
