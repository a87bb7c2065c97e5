// A part of row_sparse_body.h: what is applied to sums.

INLINE Vec magnitude(Vec v) { return (Vec)((IVec)v & 0x7fffffff); }

// exp(x + low) by 2^n * p(r): x + low = n ln 2 + r with |r| <= ln 2 / 2 or little more, p the
// Taylor polynomial of degree 7, whose remainder there is under 2^-26. `low` is what x lost when it
// was rounded. Zero where the result would not be a normal float, infinite where none is as large.
INLINE Vec exponential(Vec x, Vec low) {
  const Vec least = splat(-87.0f), most = splat(88.5f);
  Vec within = x < least ? least : x;
  within = within > most ? most : within;
  const Vec scaled = within * 1.44269504f;
  const Vec half = scaled < 0 ? splat(-0.5f) : splat(0.5f);
  const IVec n = __builtin_convertvector(scaled + half, IVec);
  const Vec nf = __builtin_convertvector(n, Vec);
  // ln 2 in two parts, so that n * ln 2 is exact enough.
  const Vec r = (within - nf * 0.693359375f) + nf * 2.12194440e-4f + low;
  Vec p = splat(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // 128 for n is the exponent of infinity.
  const IVec bits = (n + 127) << 23;
  return x < least ? Vec{} : p * (Vec)bits;
}

// v * Phi(v), where the tail Phi(-a) = exp(-a^2 / 2) * erfcx(a / sqrt 2) / 2 for a = |v|, so that
// small results are as accurate as large ones. The second factor is s * p(a * s) with s = 1 / (a +
// 2.25); p was fitted to it for a up to 13.25, with a relative error under 2^-27. Where v < -13.2
// the result is no normal float.
INLINE Vec gelu(Vec v) {
  const Vec end = splat(13.25f);
  Vec a = magnitude(v);
  a = a > end ? end : a;
  const Vec s = 1.0f / (a + 2.25f);
  const Vec u = a * s;
  Vec p = splat(-0.0920174271f);
  p = p * u + 0.352038741f;
  p = p * u - 0.491666585f;
  p = p * u + 0.353157014f;
  p = p * u - 0.22954932f;
  p = p * u + 0.0481571704f;
  p = p * u + 0.0931105837f;
  p = p * u + 0.202055767f;
  p = p * u - 0.0667005181f;
  p = p * u - 0.894643843f;
  p = p * u + 1.125f;
  // a^2 in two parts: the square of the first 12 bits of a is exact.
  const Vec top = (Vec)((IVec)a & -4096);
  const Vec tail = p * exponential(top * top * -0.5f, (a - top) * (a + top) * -0.5f);
  return v < 0 ? v * s * tail : v - u * tail;
}

typedef double DVec __attribute__((vector_size(LANES * 8)));

// v / (1 + exp(-w)) with w = sqrt(8 / pi) * (v + 0.044715 v^3), which is v (1 + tanh(w / 2)) / 2.
// The
// exponent is worked out in double: an error of 2^-24 of it would be many times that of the result.
INLINE Vec gelu_tanh(Vec v) {
  // Beyond it the result is v, or no normal float.
  const Vec end = splat(10.5f);
  Vec a = magnitude(v);
  a = a > end ? end : a;
  const DVec wide = __builtin_convertvector(a, DVec);
  // 2^8 times the exponential, so that it is normal where the result is.
  const DVec w =
      wide * (wide * wide * -0.07135481627260025 - 1.5957691216057308) + 5.545177444479562;
  const Vec x = __builtin_convertvector(w, Vec);
  const Vec low = __builtin_convertvector(w - __builtin_convertvector(x, DVec), Vec);
  const Vec tail = exponential(x, low);
  const Vec part = v < 0 ? v * tail * 0x1p-8f : v;
  return part / (1.0f + tail * 0x1p-8f);
}

INLINE Vec silu(Vec v) { return v / (1.0f + exponential(-v, splat(-0.0f))); }

INLINE Vec leaky_relu(Vec v, Vec slope) { return v > Vec{} ? v : v * slope; }

// Those that are a few instructions. Comparisons are written so that NaN stays NaN, as in torch.
INLINE Vec activate_simply(Vec v, Activation activation) {
  const Vec zero = {}, six = splat(6.0f);
  switch (activation.kind) {
    case kReLU:
      return v < zero ? zero : v;
    case kLeakyReLU:
      return leaky_relu(v, splat(activation.slope));
    case kReLU6:
      v = v < zero ? zero : v;
      return v > six ? six : v;
    case kHardswish: {
      Vec gate = v + 3.0f;
      gate = gate < zero ? zero : gate;
      gate = gate > six ? six : gate;
      return v * gate * (1.0f / 6);
    }
    default:
      return v;
  }
}

template <Vec (*Curve)(Vec)>
void curve_lines(int64_t lines, int64_t length, int64_t step, float* y) {
  for (int64_t line = 0; line < lines; ++line, y += step) {
    int64_t i = 0;
    for (; i + LANES <= length; i += LANES) store(y + i, Curve(load(y + i)));
    for (; i < length; ++i) y[i] = Curve(splat(y[i]))[0];
  }
}

// The others, for lines of `length` values that start `step` apart: after they were written,
// because they are too long to stand at every store of every tile.
__attribute__((noinline)) void curve(int64_t lines, int64_t length, int64_t step, float* y,
                                     Activation activation) {
  switch (activation.kind) {
    case kSiLU:
      return curve_lines<silu>(lines, length, step, y);
    case kGELU:
      return curve_lines<gelu>(lines, length, step, y);
    case kGELUTanh:
      return curve_lines<gelu_tanh>(lines, length, step, y);
    default:
      __builtin_trap();
  }
}

INLINE bool is_curve(Activation activation) {
  return activation.kind == kSiLU || activation.kind == kGELU || activation.kind == kGELUTanh;
}

__attribute__((noinline)) Vec curved(Vec v, Activation activation) {
  return activation.kind == kSiLU ? silu(v) : activation.kind == kGELU ? gelu(v) : gelu_tanh(v);
}

// Any of them, where a vector at a time is written and no registers have to be kept.
INLINE Vec activate(Vec v, Activation activation) {
  return is_curve(activation) ? curved(v, activation) : activate_simply(v, activation);
}
