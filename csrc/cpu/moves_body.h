// A part of steps_body.h: pixels and lanes that move, and pixels between others.

// Floats [D, D + LANES) of two vectors.
template <int D>
INLINE Vec between(Vec a, Vec b) {
  if constexpr (D == 0) {
    return a;
  } else {
#if LANES == 16
    return __builtin_shufflevector(a, b, D, D + 1, D + 2, D + 3, D + 4, D + 5, D + 6, D + 7, D + 8,
                                   D + 9, D + 10, D + 11, D + 12, D + 13, D + 14, D + 15);
#elif LANES == 8
    return __builtin_shufflevector(a, b, D, D + 1, D + 2, D + 3, D + 4, D + 5, D + 6, D + 7);
#else
    return __builtin_shufflevector(a, b, D, D + 1, D + 2, D + 3);
#endif
  }
}

// Vector i of two pixels, one after the other.
INLINE Vec of_pixels(const float* a, const float* b, int64_t i) {
  return i < kVectorsOfLanes ? load(a + i * LANES) : load(b + (i - kVectorsOfLanes) * LANES);
}

template <int D>
void shift_by(const Lines& w, const float* next, const float* kept) {
  constexpr int whole = D / LANES, rest = D % LANES;
  for (int64_t l = 0; l < w.lines; ++l) {
    const float *a = w.from + l * w.from_step, *b = next + l * w.from_step;
    float* to = w.to + l * w.to_step;
    for (int64_t p = 0; p < w.length; p += kLanes)
#pragma GCC unroll 4
      for (int i = 0; i < kVectorsOfLanes; ++i) {
        const Vec moved = between<rest>(of_pixels(a + p, b + p, whole + i),
                                        of_pixels(a + p, b + p, whole + i + (rest != 0)));
        float* at = to + p + i * LANES;
        store(at, load(kept + i * LANES) != Vec{} ? load(at) : moved);
      }
  }
}

void shift(const Lines& w, const float* next, int64_t distance, int64_t first) {
  float kept[kLanes];
  for (int64_t l = 0; l < kLanes; ++l) kept[l] = l < first;
  switch (distance) {
#define CASE(d) \
  case d:       \
    return shift_by<d>(w, next, kept);
    CASE(0)
    CASE(1)
    CASE(2)
    CASE(3)
    CASE(4)
    CASE(5)
    CASE(6)
    CASE(7)
    CASE(8)
    CASE(9)
    CASE(10)
    CASE(11)
    CASE(12)
    CASE(13)
    CASE(14)
    CASE(15)
#undef CASE
    default:
      __builtin_trap();
  }
}

void pick(int64_t pixels, const float* const* from, float* to) {
  const float* lane[kLanes];
  for (int64_t l = 0; l < kLanes; ++l) lane[l] = from[l];
  for (int64_t i = 0; i < pixels * kLanes; i += kLanes) {
#pragma GCC unroll 16
    for (int l = 0; l < kLanes; ++l) to[i + l] = lane[l][i];
  }
}

void repeat(bool plane, int64_t pixels, const int32_t* index, const float* from, float* to) {
  if (plane) {
    for (int64_t p = 0; p < pixels; ++p) to[p] = from[index[p]];
    return;
  }
  for (int64_t p = 0; p < pixels; ++p)
#pragma GCC unroll 4
    for (int i = 0; i < kLanes; i += LANES)
      store(to + p * kLanes + i, load(from + index[p] * kLanes + i));
}

#if LANES == 16
#define LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif LANES == 8
#define LOW 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LOW 0, 4, 1, 5
#define HIGH 2, 6, 3, 7
#endif

void interleave(bool plane, int64_t stride, int64_t pixels, const float* from, int64_t step,
                float* to) {
  if (!plane) {
    for (int64_t r = 0; r < stride; ++r)
      for (int64_t p = r, q = 0; p < pixels; p += stride, q += kLanes)
#pragma GCC unroll 4
        for (int i = 0; i < kLanes; i += LANES)
          store(to + p * kLanes + i, load(from + r * step + q + i));
    return;
  }
  int64_t done = 0;
  if (stride == 2)
    for (; done + 2 * LANES <= pixels; done += 2 * LANES) {
      const Vec a = load(from + done / 2), b = load(from + step + done / 2);
      store(to + done, __builtin_shufflevector(a, b, LOW));
      store(to + done + LANES, __builtin_shufflevector(a, b, HIGH));
    }
  for (int64_t r = 0; r < stride; ++r) {
    const float* own = from + r * step + done / stride;
    for (int64_t p = done + r; p < pixels; p += stride) to[p] = *own++;
  }
}

#undef LOW
#undef HIGH

INLINE Vec mixed(Vec a, Vec b, Vec weight) { return a * (1.0f - weight) + b * weight; }

// Pixels of one number: first between the lines, into a buffer, then between its pixels.
INLINE void blend_plane(int64_t pixels, const int32_t* left, const int32_t* right,
                        const float* weights, const float* upper, const float* lower, Vec weight,
                        float* to) {
  float buffer[kBuffer + LANES];
  for (int64_t p0 = 0; p0 < pixels;) {
    const int64_t start = left[p0];
    int64_t p1 = p0 + 1;
    while (p1 < pixels && right[p1] + 1 - start <= kBuffer) ++p1;
    const int64_t span = right[p1 - 1] + 1 - start;
    for (int64_t x = 0; x < span; x += LANES) {
      const int64_t some = span - x;
      const float *a = upper + start + x, *b = lower + start + x;
      store(buffer + x, some >= LANES ? mixed(load(a), load(b), weight)
                                      : mixed(load_some(a, some), load_some(b, some), weight));
    }
    for (int64_t p = p0; p < p1; p += LANES) {
      const int64_t some = p1 - p < LANES ? p1 - p : LANES;
      float a[LANES] = {}, b[LANES] = {};
      for (int64_t i = 0; i < some; ++i) {
        a[i] = buffer[left[p + i] - start];
        b[i] = buffer[right[p + i] - start];
      }
      if (some == LANES)
        store(to + p, mixed(load(a), load(b), load(weights + p)));
      else
        store_some(to + p, mixed(load(a), load(b), load_some(weights + p, some)), some);
    }
    p0 = p1;
  }
}

void blend(bool plane, int64_t pixels, const int32_t* left, const int32_t* right,
           const float* weights, const float* upper, const float* lower, float weight, float* to) {
  const Vec down = splat(weight);
  if (plane) return blend_plane(pixels, left, right, weights, upper, lower, down, to);
  for (int64_t p = 0; p < pixels; ++p) {
    const Vec across = splat(weights[p]);
    const int64_t l = left[p] * kLanes, r = right[p] * kLanes;
#pragma GCC unroll 4
    for (int i = 0; i < kLanes; i += LANES)
      store(to + p * kLanes + i,
            mixed(mixed(load(upper + l + i), load(lower + l + i), down),
                  mixed(load(upper + r + i), load(lower + r + i), down), across));
  }
}

float greatest(int64_t length, const float* from) { return line_of<true>(from, length); }

double exponentials(int64_t length, const float* from, float shift, float* to) {
  const Vec less = splat(shift);
  DVec total = {};
  for (int64_t i = 0; i < length; i += LANES) {
    const int64_t left = length - i;
    Vec v = exp_of((left >= LANES ? load(from + i) : load_some(from + i, left)) - less);
    if (left >= LANES) {
      if (to) store(to + i, v);
    } else {
      if (to) store_some(to + i, v, left);
      float t[LANES];
      store(t, v);
      for (int64_t l = left; l < LANES; ++l) t[l] = 0;
      v = load(t);
    }
    total += __builtin_convertvector(v, DVec);
  }
  double sum = 0;
  for (int i = 0; i < LANES; ++i) sum += total[i];
  return sum;
}
