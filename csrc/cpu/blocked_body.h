// A part of row_sparse_body.h: convolutions and pooling of images in blocks, see BlockedWork.

constexpr int64_t kVectors = kLanes / LANES;  // of a pixel

// Where a vector of the rectangle is; vectors are counted along lines.
struct Place {
  int64_t line, column;
};

INLINE void go_on(Place& place, int64_t columns) {
  if (++place.column == columns) {
    place.column = 0;
    ++place.line;
  }
}

INLINE int64_t at(const Place& place, int64_t line_step, int64_t pixel_step) {
  return place.line * line_step + place.column / kVectors * pixel_step +
         place.column % kVectors * LANES;
}

// The bias last: a sum that begins with a large one loses what is small beside it.
INLINE void give(Vec v, Vec bias, float* out, const float* added, Activation activation) {
  if (added) v += load(added);
  store(out, activate_simply(v + bias, activation));
}

// R filters by T vectors, whichever lines they are on.
template <int R, int T>
void shared_tile(const BlockedWork& w, Place place) {
  Vec acc[R][T];
  const float* p[T];
  Place here = place;
  const int64_t columns = w.width * kVectors;
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) {
    p[t] = w.panel + at(here, w.line_step, w.pixel_step);
    go_on(here, columns);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) acc[r][t] = Vec{};
  }
  const float* weights = w.weights;
  const int32_t* offsets = w.offsets;
  const int64_t k = w.k;
#pragma GCC unroll 1
  for (int64_t j = 0; j < k; ++j, weights += R) {
    const int64_t offset = offsets[j], ahead = offsets[j + kSpareOffsets];
    Vec x[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      x[t] = load(p[t] + offset);
      __builtin_prefetch(p[t] + ahead);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec weight = splat(weights[r]);
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) acc[r][t] += weight * x[t];
    }
  }
  const Activation activation = w.activation;
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) {
    const int64_t out = at(place, w.out_step, kLanes), added = at(place, w.added_step, kLanes);
    go_on(place, columns);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
      give(acc[r][t], splat(w.bias[r]), w.out[r] + out, w.added[r] ? w.added[r] + added : nullptr,
           activation);
    if (is_curve(activation))
      for (int r = 0; r < R; ++r) curve(1, LANES, 0, w.out[r] + out, activation);
  }
}

template <int R, int T>
INLINE void shared_tile_of(int64_t vectors, const BlockedWork& w, const Place& place) {
  if (vectors == T) return shared_tile<R, T>(w, place);
  if constexpr (T > 1) shared_tile_of<R, T - 1>(vectors, w, place);
}

template <int R>
INLINE void shared(const BlockedWork& w) {
  // Sums, vectors of the panel and a weight fit the registers.
  constexpr int kTile = (REGISTERS - 1) / (R + 1);
  const int64_t columns = w.width * kVectors, vectors = w.lines * columns;
  const int64_t tiles = (vectors + kTile - 1) / kTile;
  Place place = {0, 0};
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t count = vectors * (i + 1) / tiles - vectors * i / tiles;
    shared_tile_of<R, kTile>(count, w, place);
    for (int64_t t = 0; t < count; ++t) go_on(place, columns);
  }
}

template <int L, int T, int P>
INLINE void add_pixels(Vec (&sums)[L][T], const float* p, int64_t line_step, Vec weight) {
#pragma GCC unroll 8
  for (int l = 0; l < L; ++l)
#pragma GCC unroll 32
    for (int t = 0; t < T; ++t)
      sums[l][t] +=
          weight * load(p + l * line_step + t / kVectors * P * kLanes + t % kVectors * LANES);
}

// One filter by L lines of T vectors, pixels P cache lines apart. Sums as in `tile`.
template <int L, int T, int P, int S>
void single_tile(const BlockedWork& w, int64_t line, int64_t column) {
  const int64_t k = w.k, line_step = w.line_step;
  const float *weights = w.weights, *panel = w.panel + line * line_step + column * P * LANES;
  const int32_t* offsets = w.offsets;
  Vec acc[S][L][T];
  // What is written to, and added, comes from far while the sums are made.
#pragma GCC unroll 8
  for (int l = 0; l < L; ++l)
#pragma GCC unroll 32
    for (int t = 0; t < T; t += kVectors) {
      __builtin_prefetch(w.out[0] + (line + l) * w.out_step + (column + t) * LANES, 1);
      if (w.added[0])
        __builtin_prefetch(w.added[0] + (line + l) * w.added_step + (column + t) * LANES);
    }
#pragma GCC unroll 8
  for (int s = 0; s < S; ++s)
#pragma GCC unroll 8
    for (int l = 0; l < L; ++l)
#pragma GCC unroll 32
      for (int t = 0; t < T; ++t) acc[s][l][t] = Vec{};
  int64_t j = 0;
  const float* next = panel + offsets[0];
#pragma GCC unroll 1
  for (; j + S <= k; j += S) {
#pragma GCC unroll 8
    for (int s = 0; s < S; ++s) {
      const float* p = next;
      next = panel + offsets[j + s + 1];
      asm("" : "+r"(p), "+r"(next));
      add_pixels<L, T, P>(acc[s], p, line_step, splat(weights[j + s]));
    }
  }
#pragma GCC unroll 1
  for (; j < k; ++j) add_pixels<L, T, P>(acc[0], panel + offsets[j], line_step, splat(weights[j]));
  // Copies: what is stored might be anything, as far as the compiler knows.
  const int64_t out_step = w.out_step, added_step = w.added_step;
  const Activation activation = w.activation;
  float* out = w.out[0] + line * out_step + column * LANES;
  const float* added = w.added[0];
  if (added) added += line * added_step + column * LANES;
  const Vec bias = splat(w.bias[0]);
#pragma GCC unroll 8
  for (int l = 0; l < L; ++l)
#pragma GCC unroll 32
    for (int t = 0; t < T; ++t) {
      Vec v = acc[0][l][t];
#pragma GCC unroll 8
      for (int s = 1; s < S; ++s) v += acc[s][l][t];
      give(v, bias, out + l * out_step + t * LANES,
           added ? added + l * added_step + t * LANES : nullptr, activation);
    }
  if (is_curve(activation)) curve(L, T * LANES, out_step, out, activation);
}

// Lines by L, L / 2, ..., 1, over a column of T vectors.
template <int L, int T, int P>
INLINE void single_column(const BlockedWork& w, int64_t line, int64_t column) {
  for (; line + L <= w.lines; line += L) single_tile<L, T, P, sums(L * T)>(w, line, column);
  if constexpr (L > 1)
    if (line < w.lines) single_column<L / 2, T, P>(w, line, column);
}

template <int P>
INLINE void single(const BlockedWork& w) {
  const int64_t vectors = w.width * kVectors;
  for (int64_t t = 0; t < vectors;) {
    const int64_t left = vectors - t;
#define STEP(L, T)                   \
  {                                  \
    single_column<L, T, P>(w, 0, t); \
    t += T;                          \
  }
#if LANES == 16
    if (left % 16 == 0)
      STEP(1, 16)
    else if (left % 14 == 0)
      STEP(2, 14)
    else if (left >= 16 && left % 8)
      STEP(1, 16)
    else if (left % 7 == 0)
      STEP(4, 7)
    else
#endif
        if (left >= 8)
      STEP(LANES == 16 ? 2 : 1, 8)
    else if (left >= 4)
      STEP(LANES == 16 ? 4 : 2, 4)
    else if (left >= 2)
      STEP(4, 2)
    else
      STEP(4, 1)
#undef STEP
  }
}

void blocked_piece(int count, const BlockedWork& w) {
  switch (count) {
    case 1:
      return w.pixel_step == kLanes ? single<1>(w) : single<2>(w);
    case 2:
      return shared<2>(w);
    case 3:
      return shared<3>(w);
    case 4:
      return shared<4>(w);
#if MAX_ROWS == 8
    case 5:
      return shared<5>(w);
    case 6:
      return shared<6>(w);
    case 7:
      return shared<7>(w);
    case 8:
      return shared<8>(w);
#endif
    default:
      __builtin_trap();
  }
}

// Each piece is added to what those before it gave; the last one brings the rest.
void blocked(int count, const BlockedWork& w) {
  if (w.k <= kPiece) return blocked_piece(count, w);
  BlockedWork piece = w;
  for (int r = 0; r < count; ++r) piece.bias[r] = 0.0f;
  piece.activation = kNone;
  for (int64_t first = 0; first < w.k; first += kPiece) {
    piece.k = w.k - first > kPiece ? kPiece : w.k - first;
    piece.offsets = w.offsets + first;
    piece.weights = w.weights + first * count;
    if (first + piece.k == w.k) {
      for (int r = 0; r < count; ++r) piece.bias[r] = w.bias[r];
      piece.activation = w.activation;
    }
    blocked_piece(count, piece);
    piece.added_step = w.out_step;
    for (int r = 0; r < count; ++r) piece.added[r] = w.out[r];
  }
}

// A vector of a window whose pixels [y0, y1) x [x0, x1) are inside. The largest is NaN if any is.
INLINE Vec pooled(const PoolWork& w, int64_t y0, int64_t y1, int64_t x0, int64_t x1, int64_t at) {
  Vec v = w.most ? load(w.from + y0 * w.from_step + x0 * kLanes + at) : Vec{};
  for (int64_t y = y0; y < y1; ++y)
    for (int64_t x = x0; x < x1; ++x) {
      const Vec next = load(w.from + y * w.from_step + x * kLanes + at);
      if (w.most)
        v = ((next > v) | (next != next)) ? next : v;
      else
        v += next;
    }
  return w.most ? v : v / splat(static_cast<float>(w.kernel[0] * w.kernel[1]));
}

void pool(const PoolWork& w) {
  for (int64_t l = 0; l < w.lines; ++l) {
    const int64_t y = l * w.stride[0] - w.padding[0], end = y + w.kernel[0];
    const int64_t y0 = y < 0 ? 0 : y, y1 = end < w.size[0] ? end : w.size[0];
    for (int64_t p = 0; p < w.width; ++p) {
      const int64_t x = p * w.stride[1] - w.padding[1], last = x + w.kernel[1];
      const int64_t x0 = x < 0 ? 0 : x, x1 = last < w.size[1] ? last : w.size[1];
      for (int64_t at = 0; at < kLanes; at += LANES)
        store(w.to + l * w.to_step + p * kLanes + at, pooled(w, y0, y1, x0, x1, at));
    }
  }
}
