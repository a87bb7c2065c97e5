// A part of steps_body.h: functions of one number that only steps of their own apply. Like those of
// activation_body.h they are accurate to a few units of the last place, and NaN stays NaN.

// exp(x) - 1 = 2^n * rest + (2^n - 1), for x in [-126 ln 2, 127 ln 2].
struct Exponential {
  IVec n;
  Vec rest;
};

INLINE Exponential exponential_parts(Vec x) {
  const Vec scaled = x * 1.44269504f;
  const Vec half = scaled < 0 ? splat(-0.5f) : splat(0.5f);
  const IVec n = __builtin_convertvector(scaled + half, IVec);
  const Vec nf = __builtin_convertvector(n, Vec);
  // ln 2 in two parts, so that n * ln 2 is exact enough.
  const Vec r = (x - nf * 0.693359375f) + nf * 2.12194440e-4f;
  // (exp(r) - 1 - r) / r^2.
  Vec p = splat(1.0f / 40320);
  p = p * r + 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  return {n, r + r * r * p};
}

INLINE Vec power_of_2(IVec n) { return (Vec)((n + 127) << 23); }

// Over all of float's range; the power of 2 is in two parts, because 2^128 is none, and 2^-149 no
// normal one.
INLINE Vec exp_of(Vec x) {
  const Vec least = splat(-104.0f), most = splat(89.0f);
  Vec within = x < least ? least : x;
  within = within > most ? most : within;
  const Exponential e = exponential_parts(within);
  const IVec half = e.n >> 1;
  return (e.rest + 1.0f) * power_of_2(half) * power_of_2(e.n - half);
}

// exp(x) - 1 for x up to 87.
INLINE Vec exp_less_1(Vec x) {
  const Vec least = splat(-30.0f), most = splat(87.0f);
  Vec within = x < least ? least : x;
  within = within > most ? most : within;
  const Exponential e = exponential_parts(within);
  const Vec power = power_of_2(e.n);
  return power * e.rest + (power - 1.0f);
}

// log(1 + t) for t in [0, 1], by 2 artanh(s) with s = t / (2 + t) up to 1/3; the series' remainder
// is under 2^-29 of it.
INLINE Vec log_1_more(Vec t) {
  const Vec s = t / (t + 2.0f), u = s * s;
  Vec p = splat(2.0f / 17);
  p = p * u + 2.0f / 15;
  p = p * u + 2.0f / 13;
  p = p * u + 2.0f / 11;
  p = p * u + 2.0f / 9;
  p = p * u + 2.0f / 7;
  p = p * u + 2.0f / 5;
  p = p * u + 2.0f / 3;
  return s * 2.0f + s * u * p;
}

// What all of these take: the numbers, and two parameters.
#define CURVE(name) INLINE Vec name(Vec v, Vec first, Vec second)

CURVE(relu_of) { return activate_simply(v, kReLU); }
CURVE(relu6_of) { return activate_simply(v, kReLU6); }
CURVE(hardswish_of) { return activate_simply(v, kHardswish); }
CURVE(silu_of) { return silu(v); }
CURVE(gelu_of) { return gelu(v); }
CURVE(gelu_tanh_of) { return gelu_tanh(v); }
CURVE(sigmoid_of) { return 1.0f / (1.0f + exp_of(-v)); }
CURVE(hardsigmoid_of) {
  const Vec zero = {}, six = splat(6.0f);
  Vec gate = v + 3.0f;
  gate = gate < zero ? zero : gate;
  gate = gate > six ? six : gate;
  return gate / 6.0f;
}
// With e = exp(2a) - 1 it is e / (e + 2). Beyond 10 it is 1.
CURVE(tanh_of) {
  const Vec end = splat(10.0f);
  Vec a = magnitude(v);
  a = a > end ? end : a;
  const Vec e = exp_less_1(a + a);
  const Vec y = e / (e + 2.0f);
  return (Vec)((IVec)y | ((IVec)v & (-0x7fffffff - 1)));
}
CURVE(leaky_relu_of) { return leaky_relu(v, first); }
CURVE(elu_of) { return v > Vec{} ? v : first * exp_less_1(v); }
CURVE(clamp_of) {
  v = v < first ? first : v;
  return v > second ? second : v;
}
// v * tanh(log(1 + w)) = v (w^2 + 2w) / (w^2 + 2w + 2) with w = exp(v). Beyond 20 it is v.
CURVE(mish_of) {
  const Vec end = splat(20.0f);
  const Vec w = exp_of(v > end ? end : v), q = w * (w + 2.0f);
  return v * (q / (q + 2.0f));
}
CURVE(softplus_of) {
  const Vec z = v * first;
  const Vec y = (z < Vec{} ? Vec{} : z) + log_1_more(exp_of(-magnitude(z)));
  return z > second ? v : y / first;
}
CURVE(abs_of) { return magnitude(v); }
CURVE(neg_of) { return -v; }
CURVE(add_of) { return v + first; }
CURVE(mul_of) { return v * first; }
CURVE(square_of) { return v * v; }
CURVE(sqrt_of) {
#if LANES == 16
  return (Vec)_mm512_sqrt_ps((__m512)v);
#elif LANES == 8
  return (Vec)_mm256_sqrt_ps((__m256)v);
#else
  for (int i = 0; i < LANES; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
#endif
}
CURVE(exp_whole) { return exp_of(v); }
CURVE(reciprocal_of) { return 1.0f / v; }
#undef CURVE
