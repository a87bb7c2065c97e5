// wgmma: products by the four warps of a warpgroup, on sm_90a. As in ptx.cuh, each function has a
// second branch for a host that runs the kernel in tests.
//
// A product runs on by itself. Its registers must be left alone until wait_products says that it is
// done, and what it reads of shared memory is what see_copies has shown to it.
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
SPARSE_OPS_INLINE u64 descriptor(u32 at) {
  return (u64)(256 >> 4) << 32 | (u64)(128 >> 4) << 16 | (at & 0x3ffff) >> 4;
}

// What this thread has copied to shared memory is seen by products from the next barrier on.
SPARSE_OPS_INLINE void see_copies() {
#ifdef SPARSE_OPS_HOST
  host::see_copies();
#elif SPARSE_OPS_HAS_WGMMA
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

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
// column i / 4 * 8 + 2 (l % 4) + i % 2.
template <bool BF16, int COUNT>
struct Product;

#ifdef SPARSE_OPS_HOST
template <bool BF16, int COUNT>
struct Product {
  static void add(float (&d)[COUNT], const u32 (&a)[4], u64 b) { host::wgmma<BF16>(d, COUNT, a, b); }
};
#elif SPARSE_OPS_HAS_WGMMA
#define SPARSE_OPS_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SPARSE_OPS_D8(i) SPARSE_OPS_D4(i), SPARSE_OPS_D4(i + 4)
#define SPARSE_OPS_D16(i) SPARSE_OPS_D8(i), SPARSE_OPS_D8(i + 8)
#define SPARSE_OPS_D32(i) SPARSE_OPS_D16(i), SPARSE_OPS_D16(i + 16)
// N: the columns; WHERE: the operands d, a and b; COUNT: how many d has.
#define SPARSE_OPS_PRODUCT(HALF, TYPE, COUNT, N, WHERE)                                           \
  template <>                                                                                     \
  struct Product<HALF, COUNT> {                                                                   \
    static SPARSE_OPS_INLINE void add(float (&d)[COUNT], const u32 (&a)[4], u64 b) {              \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE " " WHERE        \
                   ", 1, 1, 1, 0;"                                                                \
                   : SPARSE_OPS_D##COUNT(0)                                                       \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)                           \
                   : "memory");                                                                   \
    }                                                                                             \
  };
#define SPARSE_OPS_PRODUCTS(COUNT, N, WHERE)          \
  SPARSE_OPS_PRODUCT(true, "bf16", COUNT, N, WHERE)   \
  SPARSE_OPS_PRODUCT(false, "f16", COUNT, N, WHERE)

SPARSE_OPS_PRODUCTS(4, "8",
                    "{%0, %1, %2, %3}, {%4, %5, %6, %7}, %8")
SPARSE_OPS_PRODUCTS(8, "16",
                    "{%0, %1, %2, %3, %4, %5, %6, %7}, {%8, %9, %10, %11}, %12")
SPARSE_OPS_PRODUCTS(16, "32",
                    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, {%16, "
                    "%17, %18, %19}, %20")
SPARSE_OPS_PRODUCTS(32, "64",
                    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, "
                    "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                    "{%32, %33, %34, %35}, %36")
#endif

}  // namespace ptx
}  // namespace sparse_ops
