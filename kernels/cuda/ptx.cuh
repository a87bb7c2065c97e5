// What the hardware does and C++ has no word for. All assembly of our CUDA kernels is here, each
// function with a second branch for a host that runs the same kernels in tests
// (tests/kernels/cuda_on_host.h, which is then included first). Nothing else is included.
#pragma once

#ifdef SPARSE_OPS_HOST
#define SPARSE_OPS_ARCH SPARSE_OPS_HOST
#else
#define SPARSE_OPS_ARCH __CUDA_ARCH__
#endif
#define SPARSE_OPS_INLINE __device__ __forceinline__

namespace sparse_ops {

typedef unsigned u32;
typedef unsigned long long u64;
typedef unsigned short u16;

namespace ptx {

// The block's dynamic shared memory, as a pointer and as a shared address.
SPARSE_OPS_INLINE unsigned char* shared_memory() {
#ifdef SPARSE_OPS_HOST
  return host::shared_memory();
#else
  extern __shared__ __align__(128) unsigned char memory[];
  return memory;
#endif
}

SPARSE_OPS_INLINE u32 shared_address(const void* p) {
#ifdef SPARSE_OPS_HOST
  return (u32)((const unsigned char*)p - host::shared_memory());
#else
  return (u32)__cvta_generic_to_shared(p);
#endif
}

// 16 bytes from global to shared memory, zeros if not `there`. From sm_80 on the copy goes on by
// itself until copies_done; before, it is done at once.
SPARSE_OPS_INLINE void copy16(u32 to, const void* from, bool there) {
#ifdef SPARSE_OPS_HOST
  host::copy16(to, from, there, SPARSE_OPS_ARCH >= 800);
#elif SPARSE_OPS_ARCH >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
#else
  u32 a = 0, b = 0, c = 0, d = 0;
  if (there)
    asm volatile("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
                 : "l"(from));
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
#endif
}

// Waits for all copies that this thread has started.
SPARSE_OPS_INLINE void copies_done() {
#ifdef SPARSE_OPS_HOST
  host::copies_done();
#elif SPARSE_OPS_ARCH >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

SPARSE_OPS_INLINE uint4 load16(const void* from) {
#ifdef SPARSE_OPS_HOST
  return host::load<uint4>(from);
#else
  uint4 v;
  asm volatile("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
#endif
}

SPARSE_OPS_INLINE uint2 load8(const void* from) {
#ifdef SPARSE_OPS_HOST
  return host::load<uint2>(from);
#else
  uint2 v;
  asm volatile("ld.global.nc.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from));
  return v;
#endif
}

SPARSE_OPS_INLINE u32 load4(const void* from) {
#ifdef SPARSE_OPS_HOST
  return host::load<u32>(from);
#else
  u32 v;
  asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(from));
  return v;
#endif
}

SPARSE_OPS_INLINE void store16(void* to, uint4 v) {
#ifdef SPARSE_OPS_HOST
  host::store(to, v);
#else
  asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z),
               "r"(v.w)
               : "memory");
#endif
}

SPARSE_OPS_INLINE uint4 load16_shared(u32 from) {
#ifdef SPARSE_OPS_HOST
  return host::load<uint4>(host::shared_memory() + from);
#else
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(from)
               : "memory");
  return v;
#endif
}

SPARSE_OPS_INLINE u16 load2(const void* from) {
#ifdef SPARSE_OPS_HOST
  return host::load<u16>(from);
#else
  return *(const u16*)from;
#endif
}

SPARSE_OPS_INLINE void store16_shared(void* to, uint4 v) {
#ifdef SPARSE_OPS_HOST
  host::store(to, v);
#else
  *(uint4*)to = v;
#endif
}

SPARSE_OPS_INLINE u32 load4_shared(u32 from) {
#ifdef SPARSE_OPS_HOST
  return host::load<u32>(host::shared_memory() + from);
#else
  u32 v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(from) : "memory");
  return v;
#endif
}

// How many bits are set.
SPARSE_OPS_INLINE int ones(u32 bits) {
#ifdef SPARSE_OPS_HOST
  return __builtin_popcount(bits);
#else
  return __popc(bits);
#endif
}

// Four matrices of 8 rows of 16 bytes; lane l names row l % 8 of matrix l / 8, and gets columns
// 2 (l % 4), +1 of row l / 4 of each.
SPARSE_OPS_INLINE void ldmatrix(u32 (&a)[4], u32 row) {
#ifdef SPARSE_OPS_HOST
  host::ldmatrix(a, row);
#elif SPARSE_OPS_ARCH >= 750
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(row)
               : "memory");
#endif
}

// d (16 x 8) += a (16 x 16) b (16 x 8), a from ldmatrix, b two registers; sums in float32.
template <bool BF16>
SPARSE_OPS_INLINE void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#ifdef SPARSE_OPS_HOST
  host::mma<BF16>(d, a, b0, b1);
#elif SPARSE_OPS_ARCH >= 800
  if (BF16)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#elif SPARSE_OPS_ARCH >= 750
  // Here k goes by eights, whose fragments are the halves of the other's.
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

// Volta: four products of 8 x 8 x 4, one for each quad pair, lanes 4 q .. 4 q + 3 and those 16
// further. A lane brings row (or column) l % 4 + 4 (l / 16) of a (or b), 4 halves of k.
// d[i] is row l % 2 + (i & 2) + 4 (l / 16), column (i & 4) + (l & 2) + i % 2.
SPARSE_OPS_INLINE void mma884(float (&d)[8], u32 a0, u32 a1, u32 b0, u32 b1) {
#ifdef SPARSE_OPS_HOST
  host::mma884(d, a0, a1, b0, b1);
#elif SPARSE_OPS_ARCH < 750
  asm volatile(
      "mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9}, {%10,%11}, {%0,%1,%2,%3,%4,%5,%6,%7};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7])
      : "r"(a0), "r"(a1), "r"(b0), "r"(b1));
#endif
}

template <bool BF16>
SPARSE_OPS_INLINE float to_float(u32 half) {
#ifdef SPARSE_OPS_HOST
  return BF16 ? host::from_bf16((u16)half) : host::from_fp16((u16)half);
#else
  if (BF16) return __uint_as_float(half << 16);
  float v;
  asm("{.reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h;}" : "=f"(v) : "r"(half));
  return v;
#endif
}

// Two numbers, each rounded once to nearest even; `low` comes first in memory.
template <bool BF16>
SPARSE_OPS_INLINE u32 to_halves(float low, float high) {
#ifdef SPARSE_OPS_HOST
  return BF16 ? host::to_bf16(low) | (u32)host::to_bf16(high) << 16
              : host::to_fp16(low) | (u32)host::to_fp16(high) << 16;
#else
  u32 v = 0;
#if SPARSE_OPS_ARCH >= 800
  if (BF16) asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
#endif
  if (!BF16)
    asm("{.reg .b16 l, h; cvt.rn.f16.f32 l, %1; cvt.rn.f16.f32 h, %2; mov.b32 %0, {l, h};}"
        : "=r"(v)
        : "f"(low), "f"(high));
  return v;
#endif
}

// Two infinities of a sign.
template <bool BF16>
SPARSE_OPS_INLINE u32 infinities(bool negative) {
  return (BF16 ? 0x7f807f80u : 0x7c007c00u) | (negative ? 0x80008000u : 0);
}

// Each of two numbers, but not under the one and not over the other; what is none stays none.
template <bool BF16>
SPARSE_OPS_INLINE u32 bounded(u32 v, u32 least, u32 most) {
#ifdef SPARSE_OPS_HOST
  const auto one = [&](int shift) {
    const float y = to_float<BF16>(v >> shift & 0xffff);
    const u32 own = y < to_float<BF16>(least >> shift & 0xffff)  ? least
                    : y > to_float<BF16>(most >> shift & 0xffff) ? most
                                                                 : v;
    return own & 0xffffu << shift;
  };
  return one(0) | one(16);
#elif SPARSE_OPS_ARCH >= 800
  if (BF16)
    asm("max.NaN.bf16x2 %0, %0, %1;\n min.NaN.bf16x2 %0, %0, %2;" : "+r"(v) : "r"(least), "r"(most));
  else
    asm("max.NaN.f16x2 %0, %0, %1;\n min.NaN.f16x2 %0, %0, %2;" : "+r"(v) : "r"(least), "r"(most));
  return v;
#else
  return v;
#endif
}

}  // namespace ptx
}  // namespace sparse_ops
