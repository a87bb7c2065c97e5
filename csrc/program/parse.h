// From the encoding to a program whose every number is checked.
#pragma once
#include "program.h"

namespace sparse_ops {
namespace program {

// A value as the program declares it; `whole` and `first` are -1 in one with memory of its own.
struct Value {
  Order order;
  int64_t halo, whole, first;
};

// One step of a program: what it reads, what it writes, and what it does.
struct Call {
  int64_t kind, out;
  Numbers inputs;
  std::unique_ptr<Step> step;
};

struct Program {
  int64_t number, piece, inputs;
  std::vector<Value> values;
  Numbers outputs;
  std::vector<Call> calls;
};

constexpr int64_t kConcat = 8, kFlatten = 9;
constexpr int64_t kMostHalo = 64;
constexpr int64_t kMostValues = 1 << 16;

// Where the program's number stands in its encoding.
constexpr int64_t kNumber = 2;

// An encoded program, contiguous, at least a header long. Raises if it is no such tensor.
Tensor checked_encoding(const Tensor& program);

// Its numbers. Raises if they begin as no program of this version does.
Numbers numbers_of(const Tensor& encoded);

inline int64_t number_of(const Numbers& numbers) { return numbers[kNumber]; }

// Raises with words unless every number stands for something that is there: kinds, values (each
// written once, and read after that), constants, parts of concatenations, how many of each. Steps
// have copies of the constants.
Program parse(const RowSparseKernels& kernels, const Numbers& numbers,
              const std::vector<Tensor>& constants);

}  // namespace program
}  // namespace sparse_ops
