// The second part of row_sparse_body.h: kernels whose vectors run over channels.
//
// Before it is included, TILE_SIZES(X, U) lists the tiles for U units at once as X(U, C, R), from
// wide to narrow: C pixels of a line by R lines, each by U * kLanes channels.

// C pixels of R lines. STEP is the distance between pixels, or 0 where it is known only at run
// time.
template <int U, int C, int R, int STEP>
void channel_tile(const ChannelWork& s, const float* panel, float* out) {
  constexpr int kParts = kLanes / LANES, V = U * kParts;
  const int64_t step = STEP ? STEP : s.pixel_step, line_step = s.line_step;
  Vec acc[V][R][C];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v)
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) acc[v][r][c] = Vec{};
  const float* weights = s.weights;
  const int32_t* offsets = s.offsets;
  // The next address is worked out one step ahead: loads wait for nothing then.
  const float* next = panel + offsets[0];
  const int64_t k = s.k;
  Aside<V * R * C> aside(k);
  for (int64_t j = 0;; aside.put(&acc[0][0][0])) {
    const int64_t end = k - j > kPiece ? j + kPiece : k;
#pragma GCC unroll 1
    for (; j < end; ++j) {
      const float* p = next;
      next = panel + offsets[j + 1];
      asm("" : "+r"(p), "+r"(next));
      Vec w[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) w[v] = load(weights + v * LANES);
      weights += V * LANES;
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c) {
          const Vec x = splat(p[c * step]);
#pragma GCC unroll 8
          for (int v = 0; v < V; ++v) acc[v][r][c] += w[v] * x;
        }
        p += line_step;
      }
    }
    if (j == k) break;
  }
  aside.take(&acc[0][0][0]);
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    const Vec bias = s.bias ? load(s.bias + v * LANES) : Vec{};
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c)
        store(out + v / kParts * s.unit_step + r * s.out_line + c * kLanes + v % kParts * LANES,
              activate_simply(acc[v][r][c] + bias, s.activation));
  }
  if (is_curve(s.activation))
    for (int u = 0; u < U; ++u)
      curve(R, C * kLanes, s.out_line, out + u * s.unit_step, s.activation);
}

// A last tile that does not fit lies over the one before it, and computes the same again.
template <int U, int C, int R, int STEP>
void channel_tiles(const ChannelWork& s) {
  for (int64_t line = 0; line < s.lines; line += R) {
    const int64_t l = line + R <= s.lines ? line : s.lines - R;
    for (int64_t column = 0; column < s.width; column += C) {
      const int64_t c = column + C <= s.width ? column : s.width - C;
      channel_tile<U, C, R, STEP>(s, s.panel + l * s.line_step + c * s.pixel_step,
                                  s.out + l * s.out_line + c * kLanes);
    }
  }
}

template <int U, int C, int R>
void channel_strip(const ChannelWork& s) {
  if (s.pixel_step == kLanes)
    channel_tiles<U, C, R, kLanes>(s);
  else if (s.pixel_step == 2 * kLanes)
    channel_tiles<U, C, R, 2 * kLanes>(s);
  else
    channel_tiles<U, C, R, 0>(s);
}

// The tile that computes the fewest pixels twice; of several, the widest.
// What a tile costs by multiply-accumulates, of which sums that are too few wait for each other,
// and by what else there is to do for each column.
constexpr int64_t tile_cost(int vectors, int pixels) {
  return (vectors * pixels > 8 ? vectors * pixels : 8) + 3;
}

// Which tile over which of two nested directions is cheapest.
template <int U>
void channel_units(const ChannelWork& s) {
  void (*best)(const ChannelWork&) = nullptr;
  int64_t least = 0;
  bool over_images = false;
#define CONSIDER(units, C, R)                                                          \
  for (int over = 0; over < 2; ++over) {                                               \
    const int64_t high = over ? s.images : s.lines, other = over ? s.lines : s.images; \
    if (C > s.width || R > high) continue;                                             \
    const int64_t cost = other * ((high + R - 1) / R) * ((s.width + C - 1) / C) *      \
                         tile_cost(units * kLanes / LANES, C * R);                     \
    if (!best || cost < least) {                                                       \
      best = channel_strip<units, C, R>;                                               \
      least = cost;                                                                    \
      over_images = over;                                                              \
    }                                                                                  \
  }
  if constexpr (U == 1) {
    TILE_SIZES_1(CONSIDER)
  } else {
    TILE_SIZES_2(CONSIDER)
  }
#undef CONSIDER
  ChannelWork strip = s;
  if (over_images) {
    strip.lines = s.images;
    strip.line_step = s.image_step;
    strip.out_line = s.out_image;
  }
  const int64_t count = over_images ? s.lines : s.images;
  const int64_t step = over_images ? s.line_step : s.image_step;
  const int64_t out_step = over_images ? s.out_line : s.out_image;
  for (int64_t i = 0; i < count; ++i, strip.panel += step, strip.out += out_step) best(strip);
}

void channels(int units, const ChannelWork& work) {
  switch (units) {
    case 1:
      return channel_units<1>(work);
#if MAX_UNITS == 2
    case 2:
      return channel_units<2>(work);
#endif
    default:
      __builtin_trap();
  }
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

// Half of the vectors against the other half, log2(W) times.
template <int W>
void weave_ways(int64_t length, const float* const* from, float* to, int64_t to_step) {
  for (int64_t i = 0; i < length; ++i)
    for (int64_t part = 0; part < kLanes; part += LANES) {
      Vec v[W], u[W];
#pragma GCC unroll 16
      for (int w = 0; w < W; ++w) v[w] = load(from[w] + i * kLanes + part);
#pragma GCC unroll 4
      for (int done = 1; done < W; done *= 2) {
#pragma GCC unroll 8
        for (int w = 0; w < W / 2; ++w) {
          u[2 * w] = __builtin_shufflevector(v[w], v[w + W / 2], LOW);
          u[2 * w + 1] = __builtin_shufflevector(v[w], v[w + W / 2], HIGH);
        }
#pragma GCC unroll 16
        for (int w = 0; w < W; ++w) v[w] = u[w];
      }
#pragma GCC unroll 16
      for (int w = 0; w < W; ++w) store(to + i * to_step + part * W + w * LANES, v[w]);
    }
}
#undef LOW
#undef HIGH

void weave(int ways, int64_t length, const float* const* from, float* to, int64_t to_step) {
  switch (ways) {
    case 1:
      return weave_ways<1>(length, from, to, to_step);
    case 2:
      return weave_ways<2>(length, from, to, to_step);
    case 4:
      return weave_ways<4>(length, from, to, to_step);
    case 8:
      return weave_ways<8>(length, from, to, to_step);
    default:
      for (int64_t i = 0; i < length; ++i)
        for (int w = 0; w < ways; ++w)
          for (int64_t l = 0; l < kLanes; ++l)
            to[i * to_step + l * ways + w] = from[w][i * kLanes + l];
  }
}

// Some values at a time, which are still at hand when they are curved.
constexpr int64_t kAtHand = 2048;

void finish(int64_t lines, int64_t length, int64_t step, const float* residual, float* y,
            Activation activation) {
  for (int64_t line = 0; line < lines; ++line, residual += step, y += step)
    for (int64_t i = 0, end; i < length; i = end) {
      const int64_t from = i;
      end = length - i > kAtHand ? i + kAtHand : length;
      for (; i + LANES <= end; i += LANES)
        store(y + i, activate_simply(load(y + i) + load(residual + i), activation));
      for (; i < end; ++i) y[i] = activate_simply(splat(y[i] + residual[i]), activation)[0];
      if (is_curve(activation)) curve(1, end - from, 0, y + from, activation);
    }
}
