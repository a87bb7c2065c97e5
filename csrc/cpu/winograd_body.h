// A part of row_sparse_body.h: the ends of Winograd's F(2x2, 3x3), see WinogradWork.

// Lines of the input, each combined with others, as far as a strip of tiles reaches.
void winograd_in(const WinogradWork& w, const float* from, int64_t line_step, int64_t lines,
                 int64_t columns, float* to) {
  const float* line[4];
  for (int64_t i = 0; i < 4; ++i) line[i] = from + (i < lines ? i : lines - 1) * line_step;
  Vec t[4][2 * kMostTiles + 2];
  for (int64_t part = 0; part < kLanes; part += LANES) {
    for (int64_t x = 0; x < 2 * w.tiles + 2; ++x) {
      const int64_t at = (x < columns ? x : columns - 1) * kLanes + part;
      const Vec d0 = load(line[0] + at), d1 = load(line[1] + at);
      const Vec d2 = load(line[2] + at), d3 = load(line[3] + at);
      t[0][x] = d0 - d2;
      t[1][x] = d1 + d2;
      t[2][x] = d2 - d1;
      t[3][x] = d1 - d3;
    }
    for (int64_t a = 0; a < 4; ++a) {
      const Vec* d = t[a];
      float* place = to + 4 * a * w.position_step + part;
      for (int64_t x = 0; x < w.tiles; ++x, d += 2, place += kLanes) {
        store(place, d[0] - d[2]);
        store(place + w.position_step, d[1] + d[2]);
        store(place + 2 * w.position_step, d[2] - d[1]);
        store(place + 3 * w.position_step, d[1] - d[3]);
      }
    }
  }
}

void winograd_out(const WinogradWork& w, const float* from, int64_t from_step, const float* bias,
                  const float* added, float* out) {
  for (int64_t x = 0; x < w.tiles; ++x) {
    const int64_t columns = w.width - 2 * x < 2 ? w.width - 2 * x : 2;
    for (int64_t part = 0; part < kLanes; part += LANES) {
      const Vec shift = load(bias + part);
      const float* m = from + x * kLanes + part;
      Vec s[2][4];
#pragma GCC unroll 4
      for (int b = 0; b < 4; ++b) {
        const Vec m0 = load(m + b * from_step), m1 = load(m + (4 + b) * from_step);
        const Vec m2 = load(m + (8 + b) * from_step), m3 = load(m + (12 + b) * from_step);
        s[0][b] = m0 + m1 + m2;
        s[1][b] = m1 - m2 - m3;
      }
#pragma GCC unroll 2
      for (int64_t l = 0; l < 2; ++l) {
        if (l >= w.lines) break;
        const Vec pair[2] = {s[l][0] + s[l][1] + s[l][2], s[l][1] - s[l][2] - s[l][3]};
        const int64_t at = 2 * x * kLanes + part;
        for (int64_t c = 0; c < columns; ++c) {
          const float* more = added ? added + l * w.added_line + at + c * kLanes : nullptr;
          give(pair[c], shift, out + l * w.out_line + at + c * kLanes, more, w.activation);
        }
      }
    }
  }
  if (is_curve(w.activation)) curve(w.lines, w.width * kLanes, w.out_line, out, w.activation);
}
