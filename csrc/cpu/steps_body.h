// The fourth part of row_sparse_body.h: see steps.h.

#include "curves_body.h"

// The first `count` of a vector, and zeros.
INLINE Vec load_some(const float* p, int64_t count) {
  float t[LANES] = {};
  for (int64_t i = 0; i < count; ++i) t[i] = p[i];
  return load(t);
}
INLINE void store_some(float* p, Vec v, int64_t count) {
  float t[LANES];
  store(t, v);
  for (int64_t i = 0; i < count; ++i) p[i] = t[i];
}

template <Vec (*F)(Vec, Vec, Vec)>
void each(const Lines& w, float first, float second) {
  const Vec a = splat(first), b = splat(second);
  for (int64_t l = 0; l < w.lines; ++l) {
    const float* from = w.from + l * w.from_step;
    float* to = w.to + l * w.to_step;
    int64_t i = 0;
    for (; i + LANES <= w.length; i += LANES) store(to + i, F(load(from + i), a, b));
    if (i < w.length) store_some(to + i, F(load_some(from + i, w.length - i), a, b), w.length - i);
  }
}

void unary(const Lines& w, int64_t function, float first, float second) {
  switch (function) {
#define CASE(number, name) \
  case number:             \
    return each<name>(w, first, second);
    CASE(kReLU, relu_of)
    CASE(kReLU6, relu6_of)
    CASE(kSiLU, silu_of)
    CASE(kHardswish, hardswish_of)
    CASE(kGELU, gelu_of)
    CASE(kGELUTanh, gelu_tanh_of)
    CASE(kSigmoid, sigmoid_of)
    CASE(kHardsigmoid, hardsigmoid_of)
    CASE(kTanh, tanh_of)
    CASE(kLeakyReLU, leaky_relu_of)
    CASE(kELU, elu_of)
    CASE(kClamp, clamp_of)
    CASE(kMish, mish_of)
    CASE(kSoftplus, softplus_of)
    CASE(kAbs, abs_of)
    CASE(kNeg, neg_of)
    CASE(kAddNumber, add_of)
    CASE(kMulNumber, mul_of)
    CASE(kSquare, square_of)
    CASE(kSqrt, sqrt_of)
    CASE(kExp, exp_whole)
    CASE(kReciprocal, reciprocal_of)
#undef CASE
    default:
      __builtin_trap();
  }
}

// How the vectors of a line of `b` follow from a place in it.
template <bool Repeated>
INLINE Vec beside(const float* b, int64_t i) {
  return load(b + (Repeated ? i % kLanes : i));
}
template <bool Repeated>
INLINE Vec some_beside(const float* b, int64_t i, int64_t count) {
  return Repeated ? load(b + i % kLanes) : load_some(b + i, count);
}

template <Operator By>
INLINE Vec combined(Vec a, Vec b) {
  switch (By) {
    case kAdd:
      return a + b;
    case kSub:
      return a - b;
    case kMul:
      return a * b;
    case kDiv:
      return a / b;
    case kMaximum:
      return ((a > b) | (a != a)) ? a : b;
    default:
      return ((a < b) | (a != a)) ? a : b;
  }
}

template <Operator By, bool Repeated>
void combine(const Lines& w, const float* b, int64_t b_step, Activation activation) {
  for (int64_t l = 0; l < w.lines; ++l) {
    const float *from = w.from + l * w.from_step, *other = Repeated ? b : b + l * b_step;
    float* to = w.to + l * w.to_step;
    int64_t i = 0;
    for (; i + LANES <= w.length; i += LANES)
      store(to + i,
            activate_simply(combined<By>(load(from + i), beside<Repeated>(other, i)), activation));
    if (i < w.length) {
      const int64_t left = w.length - i;
      store_some(to + i,
                 activate_simply(
                     combined<By>(load_some(from + i, left), some_beside<Repeated>(other, i, left)),
                     activation),
                 left);
    }
  }
  if (is_curve(activation)) curve(w.lines, w.length, w.to_step, w.to, activation);
}

void binary(const Lines& w, const float* b, int64_t b_step, bool repeated, Operator by,
            Activation activation) {
  switch (by) {
#define CASE(by)                                                  \
  case by:                                                        \
    return repeated ? combine<by, true>(w, b, b_step, activation) \
                    : combine<by, false>(w, b, b_step, activation);
    CASE(kAdd)
    CASE(kSub)
    CASE(kMul)
    CASE(kDiv)
    CASE(kMaximum)
    CASE(kMinimum)
#undef CASE
    default:
      __builtin_trap();
  }
}

template <bool Repeated>
void affine_lines(const Lines& w, const float* scale, const float* shift, Activation activation) {
  for (int64_t l = 0; l < w.lines; ++l) {
    const float* from = w.from + l * w.from_step;
    float* to = w.to + l * w.to_step;
    int64_t i = 0;
    for (; i + LANES <= w.length; i += LANES)
      store(to + i, activate_simply(
                        load(from + i) * beside<Repeated>(scale, i) + beside<Repeated>(shift, i),
                        activation));
    if (i < w.length) {
      const int64_t left = w.length - i;
      store_some(to + i,
                 activate_simply(load_some(from + i, left) * some_beside<Repeated>(scale, i, left) +
                                     some_beside<Repeated>(shift, i, left),
                                 activation),
                 left);
    }
  }
  if (is_curve(activation)) curve(w.lines, w.length, w.to_step, w.to, activation);
}

void affine(const Lines& w, const float* scale, const float* shift, bool repeated,
            Activation activation) {
  return repeated ? affine_lines<true>(w, scale, shift, activation)
                  : affine_lines<false>(w, scale, shift, activation);
}

template <bool Repeated>
void prelu_lines(const Lines& w, const float* slopes) {
  for (int64_t l = 0; l < w.lines; ++l) {
    const float* from = w.from + l * w.from_step;
    float* to = w.to + l * w.to_step;
    int64_t i = 0;
    for (; i + LANES <= w.length; i += LANES)
      store(to + i, leaky_relu(load(from + i), beside<Repeated>(slopes, i)));
    if (i < w.length) {
      const int64_t left = w.length - i;
      store_some(to + i,
                 leaky_relu(load_some(from + i, left), some_beside<Repeated>(slopes, i, left)),
                 left);
    }
  }
}

void prelu(const Lines& w, const float* slopes, bool repeated) {
  return repeated ? prelu_lines<true>(w, slopes) : prelu_lines<false>(w, slopes);
}

#include "windows_body.h"
#include "moves_body.h"

constexpr StepKernels step_kernels() {
  StepKernels steps = {};
  steps.unary = unary;
  steps.binary = binary;
  steps.affine = affine;
  steps.prelu = prelu;
  steps.greatest = greatest;
  steps.exponentials = exponentials;
  steps.windows = windows;
  steps.plane_windows = plane_windows;
  steps.shift = shift;
  steps.pick = pick;
  steps.repeat = repeat;
  steps.interleave = interleave;
  steps.blend = blend;
  return steps;
}

constexpr StepKernels kStepKernels = step_kernels();
