// The implementations of every compiled operator, registered once. Their schemas are in Python, in
// ops/_native.py, so that they exist where this file was not compiled.
#include <Python.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "cpu/blocked.h"
#include "cpu/csr_linear.h"
#include "cpu/sparse_conv2d.h"
#include "program/cache.h"
#include "program/run.h"
#include "program/test_step.h"

namespace sparse_ops {
namespace {

using Kernels = const RowSparseKernels* (*)();

// The table for an instruction set that this CPU has, or null.
template <Kernels K>
const RowSparseKernels* here() {
#if defined(__x86_64__)
  if (K == row_sparse_avx512 &&
      !(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")))
    return nullptr;
  if (K == row_sparse_avx2 && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")))
    return nullptr;
  // Not every compiler's __builtin_cpu_supports knows the conversions of float16. Asked once: on a
  // virtual machine the instruction takes microseconds.
  static const bool converts = [] {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
  }();
  if (K != row_sparse_scalar && !converts) return nullptr;
#endif
  return K();
}

template <Kernels K>
const RowSparseKernels& checked() {
  const RowSparseKernels* kernels = here<K>();
  STD_TORCH_CHECK(kernels, "this CPU does not have the instruction set asked for");
  return *kernels;
}

bool cpu_supports(std::string isa) {
  if (isa == "avx512") return here<row_sparse_avx512>();
  if (isa == "avx2") return here<row_sparse_avx2>();
  if (isa == "neon") return here<row_sparse_neon>();
  STD_TORCH_CHECK(isa == "scalar", "unknown instruction set '", isa, "'");
  return true;
}

// How torch is to call a function of kernels: without them, and with its arguments by value. The
// list of arguments is the function's own, and the schema is _native.py's.
template <Kernels K, auto Function>
struct With;
template <Kernels K, class R, class... A, R (*Function)(const RowSparseKernels&, A...)>
struct With<K, Function> {
  static R call(std::decay_t<A>... a) { return Function(checked<K>(), a...); }
};

// Of a function whose last argument is where to write, or none: what gives a new tensor, and what
// writes.
template <class Arguments, class Others>
struct Parted;
template <class... A, size_t... I>
struct Parted<std::tuple<A...>, std::index_sequence<I...>> {
  template <Kernels K, auto Function>
  static Tensor made(std::tuple_element_t<I, std::tuple<std::decay_t<A>...>>... a) {
    return Function(checked<K>(), a..., std::nullopt);
  }
  template <Kernels K, auto Function>
  static void written(std::tuple_element_t<I, std::tuple<std::decay_t<A>...>>... a, Tensor out) {
    Function(checked<K>(), a..., out);
  }
};
template <class... A>
Parted<std::tuple<A...>, std::make_index_sequence<sizeof...(A) - 1>> parted(
    Tensor (*)(const RowSparseKernels&, A...));

template <Kernels K, auto Function>
constexpr auto kMade = &decltype(parted(Function))::template made<K, Function>;
template <Kernels K, auto Function>
constexpr auto kWritten = &decltype(parted(Function))::template written<K, Function>;

void release_program(int64_t number) { program::release(number); }
int64_t kept_programs() { return program::kept_plans(); }
void poison_programs(bool on) { program::poison_programs(on); }

}  // namespace

#define SPARSE_OPS_CALL(name, isa, function) \
  m.impl(name "_" #isa, TORCH_BOX((&With<row_sparse_##isa, function>::call)));
#define SPARSE_OPS_BOTH(name, isa, function)                             \
  m.impl(name "_" #isa, TORCH_BOX((kMade<row_sparse_##isa, function>))); \
  m.impl(name "_out_" #isa, TORCH_BOX((kWritten<row_sparse_##isa, function>)));

#define SPARSE_OPS_REGISTER(isa)                                             \
  SPARSE_OPS_BOTH("periodic_conv2d", isa, row_sparse_conv2d)                 \
  SPARSE_OPS_BOTH("csr_conv2d", isa, row_sparse_conv2d)                      \
  SPARSE_OPS_BOTH("channel_pruned_conv2d", isa, channel_pruned_conv2d)       \
  SPARSE_OPS_BOTH("csr_linear", isa, csr_linear)                             \
  SPARSE_OPS_CALL("sparse_conv2d_backward", isa, row_sparse_conv2d_backward) \
  SPARSE_OPS_CALL("csr_linear_backward", isa, csr_linear_backward)           \
  SPARSE_OPS_CALL("to_blocked", isa, to_blocked)                             \
  SPARSE_OPS_CALL("from_blocked", isa, from_blocked)                         \
  SPARSE_OPS_CALL("blocked_conv2d", isa, blocked_conv2d)                     \
  SPARSE_OPS_CALL("blocked_pool2d", isa, blocked_pool2d)                     \
  SPARSE_OPS_CALL("run_program", isa, program::run_program)                  \
  SPARSE_OPS_CALL("rerun_program", isa, program::rerun_program)              \
  SPARSE_OPS_CALL("profile_program", isa, program::profile_program)          \
  SPARSE_OPS_CALL("describe_program", isa, program::describe_program)        \
  SPARSE_OPS_CALL("step", isa, test_step)

STABLE_TORCH_LIBRARY_IMPL(sparse_ops, CPU, m){SPARSE_OPS_REGISTER(scalar) SPARSE_OPS_REGISTER(avx2)
                                                  SPARSE_OPS_REGISTER(avx512)
                                                      SPARSE_OPS_REGISTER(neon)}

STABLE_TORCH_LIBRARY_IMPL(sparse_ops, CompositeExplicitAutograd, m) {
  m.impl("cpu_supports", TORCH_BOX(&cpu_supports));
  m.impl("release_program", TORCH_BOX(&release_program));
  m.impl("kept_programs", TORCH_BOX(&kept_programs));
  m.impl("poison_programs", TORCH_BOX(&poison_programs));
}

}  // namespace sparse_ops

// Importing sparse_ops._C runs the registrations above; the module itself is empty.
PyMODINIT_FUNC PyInit__C(void) {
  static struct PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
