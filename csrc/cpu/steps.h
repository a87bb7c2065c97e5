// The microkernels of the steps of programs that are neither convolutions nor linear layers, as
// tables of functions on raw pointers; by the rules of row_sparse.h.
//
// Values lie in lines. In a line of pixels of kLanes channels or images, those stand next to each
// other; in a line of a plane, pixels do.
#pragma once
#include "row_sparse.h"

namespace sparse_ops {

// Functions of one number, by the numbers of program.py's FUNCTIONS, beside those of
// ActivationKind.
enum Function : int64_t {
  kSigmoid = 7,
  kHardsigmoid = 8,
  kTanh = 9,
  kELU = 11,
  kClamp = 12,
  kMish = 13,
  kSoftplus = 14,
  kAbs = 15,
  kNeg = 16,
  kAddNumber = 17,
  kMulNumber = 18,
  kSquare = 19,
  kSqrt = 20,
  kExp = 21,
  kReciprocal = 22,
};

// By the numbers of program.py's OPERATORS.
enum Operator : int64_t { kAdd = 0, kSub = 1, kMul = 2, kDiv = 3, kMaximum = 4, kMinimum = 5 };

// `lines` lines of `length` floats each, whose starts are a step apart.
struct Lines {
  int64_t lines, length;
  const float* from;
  int64_t from_step;
  float* to;
  int64_t to_step;
};

// Windows over lines, given by the pixels that they have: output (l, p) is of lines [top[l],
// bottom[l]) and pixels [left[p], right[p]), none of which is empty. A mean is the sum over rows[l]
// * columns[p]. From pixel `steady` to `steady_end` all windows are as wide, and `stride` apart.
struct WindowWork {
  bool most;  // the largest, NaN if any is; else the mean
  int64_t lines, width;
  const int32_t *top, *bottom, *left, *right;
  const float *rows, *columns;
  int64_t steady, steady_end, stride;
  const float* from;
  int64_t from_step;
  float* to;
  int64_t to_step;
};

struct StepKernels {
  // to = function(from); leaky_relu, elu, clamp, softplus, add and mul have parameters.
  void (*unary)(const Lines& work, int64_t function, float first, float second);

  // to = activation(from (operator) b). b is a line, b_step apart; or, if `repeated`, kLanes
  // numbers that are repeated along all lines.
  void (*binary)(const Lines& work, const float* b, int64_t b_step, bool repeated, Operator by,
                 Activation activation);

  // to = activation(from * scale + shift). scale and shift are one line each for all, or, if
  // `repeated`, kLanes numbers that are repeated.
  void (*affine)(const Lines& work, const float* scale, const float* shift, bool repeated,
                 Activation activation);

  // to = from, times a slope where it is not above 0; slopes as scale and shift.
  void (*prelu)(const Lines& work, const float* slopes, bool repeated);

  // The largest of at least one number, NaN if any is.
  float (*greatest)(int64_t length, const float* from);

  // The sum of exp(from - shift), which are written if there is a `to`.
  double (*exponentials)(int64_t length, const float* from, float shift, float* to);

  // Pixels of kLanes numbers; and pixels of one.
  void (*windows)(const WindowWork& work);
  void (*plane_windows)(const WindowWork& work);

  // Of lines of pixels of kLanes: lane l of `to`, for l from `first` on, is lane l + distance of
  // the same pixel of `from`, those from kLanes on being lanes of `next`. Lanes before `first` are
  // left as they are. distance is in [0, kLanes); from and next have the same step.
  void (*shift)(const Lines& work, const float* next, int64_t distance, int64_t first);

  // to[p * kLanes + l] = from[l][p * kLanes] for p in [0, pixels).
  void (*pick)(int64_t pixels, const float* const* from, float* to);

  // A line of pixels of another one: to[p] = from[index[p]]. `plane`: pixels of one number, else
  // kLanes.
  void (*repeat)(bool plane, int64_t pixels, const int32_t* index, const float* from, float* to);

  // A line of pixels of several: to[p] = from[p % stride * step + p / stride].
  void (*interleave)(bool plane, int64_t stride, int64_t pixels, const float* from, int64_t step,
                     float* to);

  // A line of pixels between two others: with line = (1 - weight) * upper + weight * lower,
  //     to[p] = (1 - weights[p]) * line[left[p]] + weights[p] * line[right[p]].
  // left and right never fall, and right[p] is left[p] or the pixel after it.
  void (*blend)(bool plane, int64_t pixels, const int32_t* left, const int32_t* right,
                const float* weights, const float* upper, const float* lower, float weight,
                float* to);
};

}  // namespace sparse_ops
