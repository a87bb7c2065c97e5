// The microkernels' contract on raw pointers, without torch: guards of NaN on both sides of
// everything, float64, and the portable kernels. Prints what is wrong, and for each instruction set
// how much that was.
#include "microkernels.h"

using namespace checking;

namespace {

void (*const kTests[])(const RowSparseKernels&) = {
    test_rows,      test_blocked, test_channels, test_dots,     test_tiles,
    test_depthwise, test_linear,  test_stretch,  test_winograd, test_in_range,
    test_moves,     test_finish,  test_ends,     test_steps};

void test(const char* name, const RowSparseKernels& kernels) {
  for (const auto each : kTests) each(kernels);
  std::printf("%s: %d wrong\n", name, failures);
}

}  // namespace

int main() {
  test("scalar", *row_sparse_scalar());
#if defined(__aarch64__)
  test("neon", *row_sparse_neon());
#elif defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    test("avx2", *row_sparse_avx2());
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    test("avx512", *row_sparse_avx512());
#endif
  return failures != 0;
}
