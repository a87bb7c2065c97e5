// The tests of microkernels, a file each: what a table of kernels does, on raw pointers.
#pragma once
#include "checking.h"
#include "grid.h"

namespace checking {

using namespace sparse_ops;

// Sums over nothing, a few, more than a vector; and longer than a piece (vector_body.h).
constexpr int64_t kLengths[] = {0, 1, 3, 17, 40, 300};

// Each of them by turns: for cases that are many because their code is chosen by other sizes.
inline int64_t next_length() {
  static int64_t turn = 0;
  return kLengths[turn++ % 6];
}

// Column c of a panel starts at offsets[c]; `count` offsets, and `spare` more that can be read.
inline std::vector<int32_t> places(int64_t count, int64_t limit, int64_t spare = 0) {
  std::vector<int32_t> result(count + spare, 0);
  for (int64_t i = 0; i < count; ++i) result[i] = static_cast<int32_t>(below(limit));
  return result;
}

// panels.cpp: rows that keep the same columns.
void test_rows(const RowSparseKernels& kernels);
void test_blocked(const RowSparseKernels& kernels);
void test_channels(const RowSparseKernels& kernels);
void test_dots(const RowSparseKernels& kernels);
// tiles.cpp: 16 channels innermost.
void test_tiles(const RowSparseKernels& kernels);
void test_depthwise(const RowSparseKernels& kernels);
// matrices.cpp: rows that keep columns of their own.
void test_linear(const RowSparseKernels& kernels);
void test_stretch(const RowSparseKernels& kernels);
// winograd.cpp
void test_winograd(const RowSparseKernels& kernels);
// moves.cpp: what only copies, and what rounds.
void test_in_range(const RowSparseKernels& kernels);
void test_moves(const RowSparseKernels& kernels);
void test_finish(const RowSparseKernels& kernels);
void test_ends(const RowSparseKernels& kernels);
// curves.cpp: what programs do to each value.
void test_steps(const RowSparseKernels& kernels);

}  // namespace checking
