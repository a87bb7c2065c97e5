// A part of steps_body.h: pooling.

constexpr int64_t kVectorsOfLanes = kLanes / LANES;
// Sums of more numbers than this one after the other are in double.
constexpr int64_t kFewToSum = 64;

// The larger one, NaN if either is; or the sum.
template <bool Most>
INLINE Vec joined(Vec v, Vec next) {
  if (Most) return ((next > v) | (next != next)) ? next : v;
  return v + next;
}
template <bool Most>
INLINE float joined_one(float f, float next) {
  if (Most) return next > f || next != next ? next : f;
  return f + next;
}
template <bool Most>
INLINE Vec neutral() {
  return Most ? splat(-__builtin_inff()) : Vec{};
}

// A vector of each of `pixels` pixels that are a step apart. With four results, so that the next
// need not wait.
template <bool Most>
INLINE Vec along(const float* from, int64_t pixels, int64_t step) {
  Vec v[4] = {neutral<Most>(), neutral<Most>(), neutral<Most>(), neutral<Most>()};
  int64_t x = 0;
  for (; x + 4 <= pixels; x += 4) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) v[i] = joined<Most>(v[i], load(from + (x + i) * step));
  }
  for (; x < pixels; ++x) v[0] = joined<Most>(v[0], load(from + x * step));
  return joined<Most>(joined<Most>(v[0], v[1]), joined<Most>(v[2], v[3]));
}

// A vector of a window of any size, over pixels of kLanes.
template <bool Most>
INLINE Vec window(const float* from, int64_t from_step, int64_t lines, int64_t pixels) {
  // No number goes through more additions than this.
  if (Most || lines + pixels / 4 <= kFewToSum) {
    Vec v = along<Most>(from, pixels, kLanes);
    for (int64_t l = 1; l < lines; ++l)
      v = joined<Most>(v, along<Most>(from + l * from_step, pixels, kLanes));
    return v;
  }
  DVec total = {};
  for (int64_t l = 0; l < lines; ++l)
    for (int64_t x = 0; x < pixels; x += kFewToSum) {
      const int64_t left = pixels - x;
      total += __builtin_convertvector(along<Most>(from + l * from_step + x * kLanes,
                                                   left < kFewToSum ? left : kFewToSum, kLanes),
                                       DVec);
    }
  return __builtin_convertvector(total, Vec);
}

// The largest so far, and whether any was NaN, apart: fewer instructions than in one. A comparison
// with NaN is false, so that it never becomes the largest.
struct Largest {
  Vec most;
#if LANES == 16
  __mmask16 numbers;
#else
  IVec odd;
#endif
};
#if LANES == 16
INLINE void begin(Largest& v) {
  v.most = splat(-__builtin_inff());
  v.numbers = 0xffff;
}
INLINE void take(Largest& v, Vec next) {
  v.most = (Vec)_mm512_max_ps((__m512)next, (__m512)v.most);
  v.numbers = _mm512_mask_cmp_ps_mask(v.numbers, (__m512)next, (__m512)next, _CMP_ORD_Q);
}
INLINE Vec result(const Largest& v) {
  return (Vec)_mm512_mask_blend_ps(v.numbers, (__m512)splat(__builtin_nanf("")), (__m512)v.most);
}
#else
INLINE void begin(Largest& v) {
  v.most = splat(-__builtin_inff());
  v.odd = IVec{};
}
INLINE void take(Largest& v, Vec next) {
#if LANES == 8
  v.most = (Vec)_mm256_max_ps((__m256)next, (__m256)v.most);
#else
  v.most = next > v.most ? next : v.most;
#endif
  v.odd |= next != next;
}
INLINE Vec result(const Largest& v) { return v.odd ? splat(__builtin_nanf("")) : v.most; }
#endif

struct Sum {
  Vec total;
};
INLINE void begin(Sum& v) { v.total = Vec{}; }
INLINE void take(Sum& v, Vec next) { v.total += next; }
INLINE Vec result(const Sum& v) { return v.total; }

template <bool Most>
struct Choice {
  typedef Sum Result;
};
template <>
struct Choice<true> {
  typedef Largest Result;
};

// P windows of the same size, up to 64 pixels, that are `apart`.
template <bool Most, int P>
INLINE void windows_beside(const float* from, int64_t from_step, int64_t lines, int64_t pixels,
                           int64_t apart, float count, float* to) {
  typename Choice<Most>::Result v[P][kVectorsOfLanes];
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int i = 0; i < kVectorsOfLanes; ++i) begin(v[p][i]);
  for (int64_t l = 0; l < lines; ++l)
    for (int64_t x = 0; x < pixels; ++x) {
      const float* pixel = from + l * from_step + x * kLanes;
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
        for (int i = 0; i < kVectorsOfLanes; ++i)
          take(v[p][i], load(pixel + p * apart + i * LANES));
    }
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int i = 0; i < kVectorsOfLanes; ++i) {
      const Vec y = result(v[p][i]);
      store(to + p * kLanes + i * LANES, Most ? y : y / splat(count));
    }
}

template <bool Most>
void windows_of(const WindowWork& w) {
  constexpr int P = 4 / kVectorsOfLanes;
  for (int64_t l = 0; l < w.lines; ++l) {
    const float* from = w.from + w.top[l] * w.from_step;
    const int64_t lines = w.bottom[l] - w.top[l];
    float* to = w.to + l * w.to_step;
    for (int64_t p = 0; p < w.width;) {
      const int64_t pixels = w.right[p] - w.left[p];
      const float* first = from + w.left[p] * kLanes;
      const float count = Most ? 1.0f : w.rows[l] * w.columns[p];
      if (p >= w.steady && p + P <= w.steady_end && lines * pixels <= kFewToSum) {
        windows_beside<Most, P>(first, w.from_step, lines, pixels, w.stride * kLanes, count,
                                to + p * kLanes);
        p += P;
        continue;
      }
      for (int64_t i = 0; i < kLanes; i += LANES) {
        const Vec v = window<Most>(first + i, w.from_step, lines, pixels);
        store(to + p * kLanes + i, Most ? v : v / splat(count));
      }
      ++p;
    }
  }
}

void windows(const WindowWork& w) { return w.most ? windows_of<true>(w) : windows_of<false>(w); }

template <bool Most>
INLINE float across(Vec v) {
  float f = v[0];
#pragma GCC unroll 16
  for (int i = 1; i < LANES; ++i) f = joined_one<Most>(f, v[i]);
  return f;
}

// Numbers next to each other.
template <bool Most>
INLINE float line_of(const float* from, int64_t length) {
  const int64_t whole = length / LANES;
  float f = whole ? across<Most>(along<Most>(from, whole, LANES)) : neutral<Most>()[0];
  for (int64_t i = whole * LANES; i < length; ++i) f = joined_one<Most>(f, from[i]);
  return f;
}

// A window of a plane.
template <bool Most>
INLINE float plane_window(const float* from, int64_t from_step, int64_t lines, int64_t pixels) {
  if (pixels == from_step) {
    pixels *= lines;
    lines = 1;
  }
  // Each vector takes one number of so many.
  constexpr int64_t piece = kFewToSum * LANES;
  float most = -__builtin_inff();
  double total = 0;
  for (int64_t l = 0; l < lines; ++l)
    for (int64_t x = 0; x < pixels; x += piece) {
      const int64_t left = pixels - x;
      const float f = line_of<Most>(from + l * from_step + x, left < piece ? left : piece);
      if (Most)
        most = joined_one<true>(most, f);
      else
        total += f;
    }
  return Most ? most : static_cast<float>(total);
}

// Windows of up to so many lines and pixels are worked out together: first their lines, over all
// pixels, into a buffer, then the pixels.
constexpr int64_t kSmallWindow = 16, kBuffer = 1024;

// The vector whose numbers are from[0], from[stride], ...
INLINE Vec every(const float* from, int64_t stride) {
  if (stride == 1) return load(from);
  const Vec a = load(from), b = load(from + LANES);
#if LANES == 16
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
#elif LANES == 8
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
#else
  return __builtin_shufflevector(a, b, 0, 2, 4, 6);
#endif
}

// Pixels [p0, p1) of a line of windows, whose lines are joined in `buffer` from pixel `start` on.
template <bool Most>
INLINE void pixels_of(const WindowWork& w, const float* buffer, int64_t start, int64_t p0,
                      int64_t p1, float rows, float* to) {
  for (int64_t p = p0; p < p1;) {
    const float* first = buffer + (w.left[p] - start);
    const int64_t pixels = w.right[p] - w.left[p];
    if (p >= w.steady && p + LANES <= w.steady_end && p + LANES <= p1 && w.stride <= 2) {
      Vec v = every(first, w.stride);
      for (int64_t x = 1; x < pixels; ++x) v = joined<Most>(v, every(first + x, w.stride));
      store(to + p, Most ? v : v / (load(w.columns + p) * rows));
      p += LANES;
      continue;
    }
    float f = first[0];
    for (int64_t x = 1; x < pixels; ++x) f = joined_one<Most>(f, first[x]);
    to[p] = Most ? f : f / (rows * w.columns[p]);
    ++p;
  }
}

template <bool Most>
void plane_windows_of(const WindowWork& w) {
  // More than the longest line: vectors are written, and read, past it.
  float buffer[kBuffer + 4 * LANES];
  int64_t widest = 0;
  for (int64_t p = 0; p < w.width; ++p)
    widest = w.right[p] - w.left[p] > widest ? w.right[p] - w.left[p] : widest;
  for (int64_t l = 0; l < w.lines; ++l) {
    const float* from = w.from + w.top[l] * w.from_step;
    const int64_t lines = w.bottom[l] - w.top[l];
    const float rows = Most ? 1.0f : w.rows[l];
    float* to = w.to + l * w.to_step;
    if (widest > kSmallWindow || lines > kSmallWindow) {
      for (int64_t p = 0; p < w.width; ++p) {
        const float f =
            plane_window<Most>(from + w.left[p], w.from_step, lines, w.right[p] - w.left[p]);
        to[p] = Most ? f : f / (rows * w.columns[p]);
      }
      continue;
    }
    for (int64_t p0 = 0; p0 < w.width;) {
      const int64_t start = w.left[p0];
      int64_t p1 = p0 + 1;
      while (p1 < w.width && w.right[p1] - start <= kBuffer) ++p1;
      const int64_t span = w.right[p1 - 1] - start;
      for (int64_t x = 0; x < span; x += LANES) {
        const float* first = from + start + x;
        const int64_t left = span - x;
        Vec v = left >= LANES ? load(first) : load_some(first, left);
        for (int64_t y = 1; y < lines; ++y)
          v = joined<Most>(v, left >= LANES ? load(first + y * w.from_step)
                                            : load_some(first + y * w.from_step, left));
        store(buffer + x, v);
      }
      pixels_of<Most>(w, buffer, start, p0, p1, rows, to);
      p0 = p1;
    }
  }
}

void plane_windows(const WindowWork& w) {
  return w.most ? plane_windows_of<true>(w) : plane_windows_of<false>(w);
}
