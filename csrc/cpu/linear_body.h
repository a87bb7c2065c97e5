// The third part of row_sparse_body.h: linear layers.

// A large weight comes from memory, and faster than its rows are done: asked for a few thousand
// weights ahead, it comes meanwhile.
constexpr int kAhead = 2048;

// The sign bit of i | (limit - 1 - i) is set for those that are not in [0, limit): no comparison,
// so that vectors do several at once.
bool in_range(const int32_t* index, int64_t count, int64_t limit) {
  const uint32_t last = static_cast<uint32_t>((limit > INT32_MAX ? INT32_MAX : limit) - 1);
  uint32_t bad = 0;
  for (int64_t k = 0; k < count; ++k) {
    const uint32_t value = static_cast<uint32_t>(index[k]);
    bad |= value | (last - value);
  }
  return !(bad >> 31);
}

// One row times one vector, or times four whose entries stand next to each other. Eight sums, so
// that additions do not wait for each other; each a register of its own, not a lane filled by a
// gather: a gather of sixteen takes longer than sixteen loads.
template <class V>
INLINE V product(int64_t k, int64_t end, const int32_t* columns, const float* values, const V* x) {
  V acc[8] = {};
#define ADD(s, i)                                \
  {                                              \
    acc[s] += values[k + i] * x[columns[k + i]]; \
    KEEP_APART(acc[s]);                          \
  }
#pragma GCC unroll 1
  for (; k + 8 <= end; k += 8) {
    __builtin_prefetch(columns + k + kAhead);
    __builtin_prefetch(values + k + kAhead);
    ADD(0, 0) ADD(1, 1) ADD(2, 2) ADD(3, 3) ADD(4, 4) ADD(5, 5) ADD(6, 6) ADD(7, 7)
  }
  if (k + 4 <= end) {
    ADD(0, 0) ADD(1, 1) ADD(2, 2) ADD(3, 3) k += 4;
  }
  if (k < end) ADD(4, 0)
  if (k + 1 < end) ADD(5, 1)
  if (k + 2 < end) ADD(6, 2)
#undef ADD
  return ((acc[0] + acc[1]) + (acc[2] + acc[3])) + ((acc[4] + acc[5]) + (acc[6] + acc[7]));
}

void gather(int64_t first, int64_t last, const int32_t* crow, const int32_t* columns,
            const float* values, const float* bias, const float* x, float* y,
            Activation activation) {
  for (int64_t o = first; o < last; ++o) {
    const float total = product(crow[o], crow[o + 1], columns, values, x);
    y[o - first] = activate_one(bias ? total + bias[o] : total, activation);
  }
}

void gather4(int64_t first, int64_t last, const int32_t* crow, const int32_t* columns,
             const float* values, const float* bias, const float* x, float* y,
             Activation activation) {
  for (int64_t o = first; o < last; ++o) {
    Quad total = product(crow[o], crow[o + 1], columns, values, reinterpret_cast<const Quad*>(x));
    if (bias) total += bias[o];
    for (int b = 0; b < 4; ++b) y[(o - first) * 4 + b] = activate_one(total[b], activation);
  }
}

template <int V>
INLINE void add(const Stretch& s, int64_t k, Vec* sums) {
  const float* p = s.panel + s.columns[k] * int64_t{V * LANES};
  asm("" : "+r"(p));
  const Vec weight = splat(s.values[k]);
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v) sums[v] += weight * load(p + v * LANES);
}

// V vectors of positions; S sums each, so that additions do not wait for each other; G weights a
// step.
template <int V, int S, int G>
void stretch_of(const Stretch& s) {
  for (int64_t r = 0; r < s.rows; ++r) {
    Vec acc[S][V];
    float* sums = s.sums + r * V * LANES;
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
#pragma GCC unroll 8
      for (int i = 0; i < S; ++i) acc[i][v] = Vec{};
    }
    int64_t k = s.cursors[r];
    const int64_t last = s.ends[r];
    // The last step may run past the limit: nothing but the cache depends on where a stretch ends.
    for (; k + G <= last && s.columns[k] < s.limit; k += G) {
#pragma GCC unroll 8
      for (int i = 0; i < G; ++i) add<V>(s, k + i, acc[i % S]);
      __builtin_prefetch(s.columns + k + kAhead);
      __builtin_prefetch(s.values + k + kAhead);
    }
    if (s.end) {
      for (; k < last; ++k) add<V>(s, k, acc[0]);
    }
    s.cursors[r] = static_cast<int32_t>(k);
    const Vec bias = s.end && s.bias ? splat(s.bias[r]) : Vec{};
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      Vec total = acc[0][v];
#pragma GCC unroll 8
      for (int i = 1; i < S; ++i) total += acc[i][v];
      if (!s.begin) total += load(sums + v * LANES);
      store(sums + v * LANES, s.end ? activate_simply(total + bias, s.activation) : total);
    }
  }
  if (s.end && is_curve(s.activation)) curve(1, s.rows * V * LANES, 0, s.sums, s.activation);
}

void stretch(int units, const Stretch& s) {
  constexpr int kParts = kLanes / LANES;
  switch (units) {
    case 1:
      return stretch_of<kParts, kParts == 1 ? 4 : kParts == 2 ? 2 : 1, 8>(s);
#if STRETCH_UNITS >= 2
    case 2:
      return stretch_of<2 * kParts, kParts == 1 ? 2 : 1, 4>(s);
#endif
#if STRETCH_UNITS >= 4
    case 3:
      return stretch_of<3 * kParts, 1, 4>(s);
    case 4:
      return stretch_of<4 * kParts, 1, 4>(s);
#endif
    default:
      __builtin_trap();
  }
}
