// A part of row_sparse_body.h: the ends of Winograd's F(2x2, 3x3) and F(4x4, 3x3), see
// WinogradWork.
//
// Both are one-dimensional transforms, applied to columns and then to lines. Of the points that
// F(4x4) needs, 0, +-3/4, +-3/2 and infinity lose the fewest digits of those tried:
// benchmarks/NOTES.md.

template <int M>
struct Winograd;

template <>
struct Winograd<2> {
  // What 4 numbers become, to[i] at a step.
  INLINE void in(const Vec* d, Vec* to) {
    to[0] = d[0] - d[2];
    to[1] = d[1] + d[2];
    to[2] = d[2] - d[1];
    to[3] = d[1] - d[3];
  }
  // And 2 of their products.
  INLINE void out(const Vec* m, Vec* y) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] - m[3];
  }
};

template <>
struct Winograd<4> {
  static constexpr float a = 0.75f, b = 1.5f;
  INLINE void in(const Vec* d, Vec* to) {
    const Vec near = d[4] - splat(b * b) * d[2], far = d[4] - splat(a * a) * d[2];
    const Vec odd_near = splat(a) * (d[3] - splat(b * b) * d[1]);
    const Vec odd_far = splat(b) * (d[3] - splat(a * a) * d[1]);
    const Vec sum = splat(a * a + b * b), product = splat(a * a * b * b);
    to[0] = product * d[0] - sum * d[2] + d[4];
    to[1] = near + odd_near;
    to[2] = near - odd_near;
    to[3] = far + odd_far;
    to[4] = far - odd_far;
    to[5] = product * d[1] - sum * d[3] + d[5];
  }
  INLINE void out(const Vec* m, Vec* y) {
    const Vec near = m[1] + m[2], odd_near = m[1] - m[2];
    const Vec far = m[3] + m[4], odd_far = m[3] - m[4];
    y[0] = m[0] + near + far;
    y[1] = splat(a) * odd_near + splat(b) * odd_far;
    y[2] = splat(a * a) * near + splat(b * b) * far;
    y[3] = splat(a * a * a) * odd_near + splat(b * b * b) * odd_far + m[5];
  }
};

// Lines of the input, each combined with others, as far as a strip of tiles reaches.
template <int M>
INLINE void winograd_in_of(const WinogradWork& w, const float* from, int64_t line_step,
                           int64_t lines, int64_t columns, float* to) {
  constexpr int N = M + 2;
  const float* line[N];
  for (int64_t i = 0; i < N; ++i) line[i] = from + (i < lines ? i : lines - 1) * line_step;
  Vec t[M * kMostTiles + 2][N];
  for (int64_t part = 0; part < kLanes; part += LANES) {
    for (int64_t x = 0; x < M * w.tiles + 2; ++x) {
      const int64_t at = (x < columns ? x : columns - 1) * kLanes + part;
      Vec d[N];
#pragma GCC unroll 6
      for (int i = 0; i < N; ++i) d[i] = load(line[i] + at);
      Winograd<M>::in(d, t[x]);
    }
    for (int64_t x = 0; x < w.tiles; ++x) {
      float* place = to + x * kLanes + part;
#pragma GCC unroll 6
      for (int i = 0; i < N; ++i) {
        Vec d[N], made[N];
#pragma GCC unroll 6
        for (int j = 0; j < N; ++j) d[j] = t[M * x + j][i];
        Winograd<M>::in(d, made);
#pragma GCC unroll 6
        for (int j = 0; j < N; ++j, place += w.position_step) store(place, made[j]);
      }
    }
  }
}

void winograd_in(const WinogradWork& w, const float* from, int64_t line_step, int64_t lines,
                 int64_t columns, float* to) {
  if (w.side == 4) return winograd_in_of<4>(w, from, line_step, lines, columns, to);
  winograd_in_of<2>(w, from, line_step, lines, columns, to);
}

template <int M>
INLINE void winograd_out_of(const WinogradWork& w, const float* from, int64_t from_step,
                            const float* bias, const float* added, float* out) {
  constexpr int N = M + 2;
  for (int64_t x = 0; x < w.tiles; ++x) {
    const int64_t columns = w.width - M * x < M ? w.width - M * x : M;
    for (int64_t part = 0; part < kLanes; part += LANES) {
      const Vec shift = load(bias + part);
      const float* m = from + x * kLanes + part;
      Vec s[M][N];
#pragma GCC unroll 6
      for (int j = 0; j < N; ++j) {
        Vec products[N], made[M];
#pragma GCC unroll 6
        for (int i = 0; i < N; ++i) products[i] = load(m + (i * N + j) * from_step);
        Winograd<M>::out(products, made);
#pragma GCC unroll 4
        for (int i = 0; i < M; ++i) s[i][j] = made[i];
      }
#pragma GCC unroll 4
      for (int64_t l = 0; l < M; ++l) {
        if (l >= w.lines) break;
        Vec y[M];
        Winograd<M>::out(s[l], y);
        const int64_t at = M * x * kLanes + part;
        for (int64_t c = 0; c < columns; ++c) {
          const float* more = added ? added + l * w.added_line + at + c * kLanes : nullptr;
          give(y[c], shift, out + l * w.out_line + at + c * kLanes, more, w.activation);
        }
      }
    }
  }
}

void winograd_out(const WinogradWork& w, const float* from, int64_t from_step, const float* bias,
                  const float* added, float* out) {
  if (w.side == 4)
    winograd_out_of<4>(w, from, from_step, bias, added, out);
  else
    winograd_out_of<2>(w, from, from_step, bias, added, out);
  if (is_curve(w.activation)) curve(w.lines, w.width * kLanes, w.out_line, out, w.activation);
}
