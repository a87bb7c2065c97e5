// Halves, and the products of tensor cores, for cuda_on_host.h: after PTX's own description of which
// lane holds what.
#pragma once

namespace host {

inline float from_bits(unsigned u) {
  float v;
  memcpy(&v, &u, 4);
  return v;
}
inline unsigned to_bits(float v) {
  unsigned u;
  memcpy(&u, &v, 4);
  return u;
}
inline float from_bf16(uint16_t h) { return from_bits((unsigned)h << 16); }
inline uint16_t to_bf16(float v) {
  const unsigned u = to_bits(v);
  if (v != v) return 0x7fff;
  return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}
inline float from_fp16(uint16_t h) {
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  float v = exponent == 31 ? (mantissa ? NAN : INFINITY)
            : exponent     ? std::ldexp(1024.f + mantissa, exponent - 25)
                           : std::ldexp((float)mantissa, -24);
  return h >> 15 ? -v : v;
}
inline uint16_t to_fp16(float v) {
  const uint16_t sign = to_bits(v) >> 16 & 0x8000;
  const float a = std::fabs(v);
  if (v != v) return 0x7fff;
  if (a >= 65520.f) return sign | 0x7c00;
  // In steps of the last place that it will have; nearbyint rounds to nearest even.
  const int exponent = a < std::ldexp(1.f, -14) ? -14 : std::ilogb(a);
  const float steps = std::nearbyint(std::ldexp(a, 10 - exponent));
  return sign | (uint16_t)((exponent + 14) * 1024 + (int)steps);
}

inline void about_to_write(const void* registers);

inline void ldmatrix(unsigned (&a)[4], unsigned row) {
  about_to_write(a);
  together(
      1,
      [&](Fiber* warp) {
        for (int m = 0; m < 4; m++) {
          const unsigned at = *(const unsigned*)warp[8 * m + thread % 32 / 4].brought[0];
          check(memory + at, 16);
          memcpy(&a[m], memory + at + thread % 4 * 4, 4);
        }
      },
      &row);
}

// What lane l brought in its i-th half: of a matrix operand.
template <bool BF16>
float half_of(Fiber* warp, int lane, int operand, int i) {
  uint16_t h;
  memcpy(&h, (const char*)warp[lane].brought[operand] + 2 * i, 2);
  return BF16 ? from_bf16(h) : from_fp16(h);
}

template <bool BF16>
void mma(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  const unsigned b[2] = {b0, b1};
  together(
      2,
      [&](Fiber* warp) {
        const int lane = thread % 32;
        for (int i = 0; i < 4; i++) {
          const int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
          double sum = 0;
          for (int k = 0; k < 16; k++) {
            const int from = row % 8 * 4 + k % 8 / 2, high = 2 * (k / 8);
            sum += (double)half_of<BF16>(warp, from, 0, 2 * (high + row / 8) + k % 2) *
                   half_of<BF16>(warp, column * 4 + k % 8 / 2, 1, high + k % 2);
          }
          d[i] += sum;
        }
      },
      a, b);
}

inline void mma884(float (&d)[8], unsigned a0, unsigned a1, unsigned b0, unsigned b1) {
  const unsigned a[2] = {a0, a1}, b[2] = {b0, b1};
  together(
      3,
      [&](Fiber* warp) {
        const int lane = thread % 32, pair = lane & 12;
        for (int i = 0; i < 8; i++) {
          const int row = (lane & 1) + (i & 2) + (lane < 16 ? 0 : 4);
          const int column = (i & 4) + (lane & 2) + (i & 1);
          const auto brings = [&](int r) { return pair + r % 4 + (r < 4 ? 0 : 16); };
          double sum = 0;
          for (int k = 0; k < 4; k++)
            sum += (double)half_of<false>(warp, brings(row), 0, k) *
                   half_of<false>(warp, brings(column), 1, k);
          d[i] += sum;
        }
      },
      a, b);
}

}  // namespace host
