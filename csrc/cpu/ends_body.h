// The third part of row_sparse_body.h: the ends, where tensors become the kernels' floats and
// results become tensors, on the way to another order or another type.

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

typedef uint16_t Shorts __attribute__((vector_size(LANES * 2)));
typedef uint16_t AnyShorts __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
typedef uint16_t FourShorts __attribute__((vector_size(8)));
typedef uint16_t AnyFourShorts __attribute__((vector_size(8), aligned(2), may_alias));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef uint32_t FourWords __attribute__((vector_size(16)));

INLINE Words words(const uint16_t* p) {
  return __builtin_convertvector(static_cast<Shorts>(*reinterpret_cast<const AnyShorts*>(p)),
                                 Words);
}
INLINE void shorts(uint16_t* p, Words w) {
  *reinterpret_cast<AnyShorts*>(p) = __builtin_convertvector(w, Shorts);
}
INLINE FourWords four_words(const uint16_t* p) {
  return __builtin_convertvector(
      static_cast<FourShorts>(*reinterpret_cast<const AnyFourShorts*>(p)), FourWords);
}
INLINE float as_float(uint32_t bits) {
  float f;
  __builtin_memcpy(&f, &bits, sizeof f);
  return f;
}
INLINE uint32_t as_bits(float f) {
  uint32_t bits;
  __builtin_memcpy(&bits, &f, sizeof f);
  return bits;
}

// bfloat16 is the upper half of a float. Half of the last place that is kept, less one if that is
// even, carries over where it has to; a NaN would become an infinity.
INLINE Vec load(const BFloat* p) { return (Vec)(words(&p->bits) << 16); }
INLINE void store(BFloat* p, Vec v) {
  const Words bits = (Words)v, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  shorts(&p->bits, v != v ? Words{} + 0x7fc0 : rounded);
}
INLINE Quad quad(const BFloat* p) { return (Quad)(four_words(&p->bits) << 16); }
INLINE float one(const BFloat* p) { return as_float(static_cast<uint32_t>(p->bits) << 16); }
INLINE void set_one(BFloat* p, float f) {
  const uint32_t bits = as_bits(f);
  p->bits = static_cast<uint16_t>(f != f ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#if HALF_CONVERSIONS
#if LANES == 16
INLINE Vec load(const Half* p) {
  return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
INLINE void store(Half* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
}
#else
INLINE Vec load(const Half* p) {
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
INLINE void store(Half* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}
#endif
INLINE Quad quad(const Half* p) {
  return (Quad)_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
INLINE float one(const Half* p) { return _cvtsh_ss(p->bits); }
INLINE void set_one(Half* p, float f) {
  p->bits = static_cast<uint16_t>(_cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT));
}
#else
// float16 has 5 bits of exponent and 10 of mantissa. What is under its normal numbers becomes a
// mantissa under a fixed exponent by an addition, and back by a subtraction: exact, or rounded as
// it should be.
INLINE Vec widened(Words h) {
  const Words sign = (h & 0x8000) << 16, rest = (h & 0x7fff) << 13;
  const Words small = (Words)((Vec)(rest + (113u << 23)) - as_float(113u << 23));
  const Words normal = rest + (112u << 23), special = rest | (255u << 23);
  const Words whole = rest >= (31u << 23) ? special : normal;
  return (Vec)(sign | (rest < (1u << 23) ? small : whole));
}
INLINE Words narrowed(Vec v) {
  const Words bits = (Words)v, sign = bits & 0x80000000u, rest = bits ^ sign;
  // The sum's last place is that of the smallest float16.
  const Words small = (Words)((Vec)rest + as_float(126u << 23)) - (126u << 23);
  const Words normal = (rest - (112u << 23) + 0xfff + ((rest >> 13) & 1)) >> 13;
  const Words special = rest > (255u << 23) ? Words{} + 0x7e00 : Words{} + 0x7c00;
  const Words whole = rest >= (143u << 23) ? special : normal;
  return (rest < (113u << 23) ? small : whole) | sign >> 16;
}
INLINE Vec load(const Half* p) { return widened(words(&p->bits)); }
INLINE void store(Half* p, Vec v) { shorts(&p->bits, narrowed(v)); }
INLINE Quad quad(const Half* p) { return load(p); }
INLINE float one(const Half* p) { return widened(Words{} + p->bits)[0]; }
INLINE void set_one(Half* p, float f) { p->bits = static_cast<uint16_t>(narrowed(splat(f))[0]); }
#endif

INLINE float one(const float* p) { return *p; }
INLINE void set_one(float* p, float f) { *p = f; }

#if LANES == 16
// Stage S of four: bit S of the row's number and of the column's change places.
#define PICK(S, l) ((l) & (S) ? 16 + (l) - (S) : (l))
#define PICK_HIGH(S, l) ((l) & (S) ? 16 + (l) : (l) + (S))
#define ALL(P, S)                                                                           \
  P(S, 0), P(S, 1), P(S, 2), P(S, 3), P(S, 4), P(S, 5), P(S, 6), P(S, 7), P(S, 8), P(S, 9), \
      P(S, 10), P(S, 11), P(S, 12), P(S, 13), P(S, 14), P(S, 15)
#define STAGE(S)                                                          \
  _Pragma("GCC unroll 16") for (int i = 0; i < 16; ++i) if (!(i & (S))) { \
    const Vec a = v[i], b = v[i + (S)];                                   \
    v[i] = __builtin_shufflevector(a, b, ALL(PICK, S));                   \
    v[i + (S)] = __builtin_shufflevector(a, b, ALL(PICK_HIGH, S));        \
  }
template <class T>
INLINE void transpose16(const T* from, int64_t from_step, float* to, int64_t to_step) {
  Vec v[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) v[i] = load(from + i * from_step);
  STAGE(1)
  STAGE(2)
  STAGE(4)
  STAGE(8)
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) store(to + i * to_step, v[i]);
}
#undef PICK
#undef PICK_HIGH
#undef ALL
#undef STAGE
#endif

// Sixteen lines a power of two apart, as they often are, share one cache set. Where vectors are not
// whole cache lines, each is needed twice, and gone by then: four lanes are turned at a time,
// otherwise sixteen, where registers hold them.
INLINE bool crowded(const void* lines, int64_t step) {
  return step % 512 == 0 && reinterpret_cast<uintptr_t>(lines) % 64;
}

template <class T>
void interleave_of(int64_t length, const T* from, int64_t lane_step, int64_t step, float* to,
                   int64_t to_step) {
  int64_t done = 0;
#if LANES == 16
  if (step == 1 && !crowded(from, lane_step))
    for (; done + 16 <= length; done += 16)
      transpose16(from + done, lane_step, to + done * to_step, to_step);
#endif
  for (int64_t l = 0; l < kLanes; l += 4) {
    const T* p = from + l * lane_step;
    int64_t i = done;
    if (step == 1)
      for (; i + 4 <= length; i += 4) {
        Quad a = quad(p + i), b = quad(p + lane_step + i), c = quad(p + 2 * lane_step + i),
             d = quad(p + 3 * lane_step + i);
        transpose4(a, b, c, d);
        float* q = to + i * to_step + l;
        set_quad(q, a);
        set_quad(q + to_step, b);
        set_quad(q + 2 * to_step, c);
        set_quad(q + 3 * to_step, d);
      }
    for (; i < length; ++i)
      for (int64_t j = 0; j < 4; ++j) to[i * to_step + l + j] = one(p + j * lane_step + i * step);
  }
}

template <class T>
void separate_of(int64_t length, const T* from, int64_t from_step, float* to, int64_t lane_step) {
  int64_t done = 0;
#if LANES == 16
  if (!crowded(to, lane_step))
    for (; done + 16 <= length; done += 16)
      transpose16(from + done * from_step, from_step, to + done, lane_step);
#endif
  for (int64_t l = 0; l < kLanes; l += 4) {
    float* q = to + l * lane_step;
    int64_t i = done;
    for (; i + 4 <= length; i += 4) {
      const T* p = from + i * from_step + l;
      Quad a = quad(p), b = quad(p + from_step), c = quad(p + 2 * from_step),
           d = quad(p + 3 * from_step);
      transpose4(a, b, c, d);
      set_quad(q + i, a);
      set_quad(q + lane_step + i, b);
      set_quad(q + 2 * lane_step + i, c);
      set_quad(q + 3 * lane_step + i, d);
    }
    for (; i < length; ++i)
      for (int64_t j = 0; j < 4; ++j) q[j * lane_step + i] = one(from + i * from_step + l + j);
  }
}

// The last vector of a line may lie over the one before it: no tail is copied float by float.
template <class T>
void copy(int64_t lines, int64_t length, const void* values, int64_t from_step, float* to,
          int64_t to_step, int64_t gap) {
  const T* from = static_cast<const T*>(values);
  for (int64_t line = 0; line < lines; ++line, from += from_step, to += to_step) {
    if (length >= LANES) {
      int64_t i = 0;
      for (; i + LANES <= length; i += LANES) store(to + i, load(from + i));
      if (i < length) store(to + length - LANES, load(from + length - LANES));
    } else if (length >= 4) {
      int64_t i = 0;
      for (; i + 4 <= length; i += 4) set_quad(to + i, quad(from + i));
      if (i < length) set_quad(to + length - 4, quad(from + length - 4));
    } else {
      for (int64_t i = 0; i < length; ++i) to[i] = one(from + i);
    }
    if (line + 1 < lines)
      for (int64_t i = 0; i < gap; ++i) to[length + i] = 0.0f;
  }
}

#if LANES == 16
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#elif LANES == 8
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14
#else
#define EVEN 0, 2, 4, 6
#endif

template <class T>
void read(int64_t length, const void* values, int64_t step, float* to, int64_t to_step) {
  const T* from = static_cast<const T*>(values);
  int64_t i = 0;
  // The value after the last one may not be there: that is read alone. The vector before it may lie
  // over the one before.
  if (step == 2 && to_step == 1 && length > LANES)
    while (i < length - 1) {
      if (i > length - 1 - LANES) i = length - 1 - LANES;
      const Vec a = load(from + 2 * i), b = load(from + 2 * i + LANES);
      store(to + i, __builtin_shufflevector(a, b, EVEN));
      i += LANES;
    }
  for (; i < length; ++i) to[i * to_step] = one(from + i * step);
}
#undef EVEN

template <class T>
void interleave_from(int64_t length, const void* from, int64_t lane_step, int64_t step, float* to,
                     int64_t to_step) {
  interleave_of(length, static_cast<const T*>(from), lane_step, step, to, to_step);
}

template <class T>
void separate_from(int64_t length, const void* from, int64_t from_step, float* to,
                   int64_t lane_step) {
  separate_of(length, static_cast<const T*>(from), from_step, to, lane_step);
}

template <class T>
void pick(int64_t length, int64_t lanes, const void* values, int64_t step, const int64_t* index,
          float* to, int64_t to_step) {
  const T* from = static_cast<const T*>(values);
  for (int64_t i = 0; i < length; ++i, from += step, to += to_step)
    for (int64_t l = 0; l < lanes; ++l) to[l] = one(from + index[l]);
}

template <class T>
void scatter(int64_t length, int64_t lanes, const float* from, int64_t from_step,
             const int64_t* index, const void* added, int64_t residual_step, void* values,
             int64_t to_step, Activation activation) {
  const T* residual = static_cast<const T*>(added);
  T* to = static_cast<T*>(values);
  float sums[kLanes] = {};
  for (int64_t i = 0; i < length; ++i, from += from_step, to += to_step) {
    const float* results = from;
    if (residual) {
      for (int64_t l = 0; l < lanes; ++l) sums[l] = from[l] + one(residual + index[l]);
      for (int64_t l = 0; l < kLanes; l += LANES)
        store(sums + l, activate(load(sums + l), activation));
      results = sums;
      residual += residual_step;
    }
    for (int64_t l = 0; l < lanes; ++l) set_one(to + index[l], results[l]);
  }
}

// Some values, fewer than a vector or apart from each other.
template <class T>
INLINE void put_some(int64_t count, const float* from, int64_t from_step, const T* residual,
                     int64_t residual_step, T* to, int64_t to_step, Activation activation) {
  float some[LANES] = {};
  for (int64_t i = 0; i < count; ++i)
    some[i] = from[i * from_step] + (residual ? one(residual + i * residual_step) : -0.0f);
  store(some, activate(load(some), activation));
  for (int64_t i = 0; i < count; ++i) set_one(to + i * to_step, some[i]);
}

template <class T>
void put(int64_t lines, int64_t length, const float* from, int64_t from_step, const void* added,
         int64_t residual_step, void* values, int64_t to_step, Activation activation) {
  const T* residual = static_cast<const T*>(added);
  T* to = static_cast<T*>(values);
  for (int64_t line = 0; line < lines; ++line, from += from_step, to += to_step) {
    int64_t i = 0;
    if (residual) {
      for (; i + LANES <= length; i += LANES)
        store(to + i, activate(load(from + i) + load(residual + i), activation));
    } else {
      for (; i + LANES <= length; i += LANES) store(to + i, activate(load(from + i), activation));
    }
    if (i < length)
      put_some(length - i, from + i, 1, residual ? residual + i : nullptr, 1, to + i, 1,
               activation);
    if (residual) residual += residual_step;
  }
}

template <class T>
void write(int64_t length, const float* from, int64_t from_step, const void* added,
           int64_t residual_step, void* values, int64_t to_step, Activation activation) {
  const T* residual = static_cast<const T*>(added);
  T* to = static_cast<T*>(values);
  if (!residual && activation.kind == kNone) {
    for (int64_t i = 0; i < length; ++i) set_one(to + i * to_step, from[i * from_step]);
    return;
  }
  for (int64_t i = 0; i < length; i += LANES)
    put_some(length - i < LANES ? length - i : LANES, from + i * from_step, from_step,
             residual ? residual + i * residual_step : nullptr, residual_step, to + i * to_step,
             to_step, activation);
}
