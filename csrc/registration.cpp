// The implementations of every compiled operator, registered once. Their schemas are in Python, in
// ops/_native.py, so that they exist where this file was not compiled.
#include <Python.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <string>

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
  STD_TORCH_CHECK(isa == "scalar", "unknown instruction set '", isa, "'");
  return true;
}

template <Kernels K>
Tensor conv(Tensor x, Tensor crow, Tensor col, Tensor values, std::optional<Tensor> bias,
            std::optional<Tensor> residual, Numbers shape, Numbers stride, Numbers padding,
            Numbers dilation, int64_t groups, int64_t activation) {
  return row_sparse_conv2d(checked<K>(), x, crow, col, values, bias, residual, shape, stride,
                           padding, dilation, groups, activation, std::nullopt);
}

template <Kernels K>
void conv_out(Tensor x, Tensor crow, Tensor col, Tensor values, std::optional<Tensor> bias,
              std::optional<Tensor> residual, Numbers shape, Numbers stride, Numbers padding,
              Numbers dilation, int64_t groups, int64_t activation, Tensor out) {
  row_sparse_conv2d(checked<K>(), x, crow, col, values, bias, residual, shape, stride, padding,
                    dilation, groups, activation, out);
}

template <Kernels K>
std::tuple<Tensor, Tensor> conv_backward(Tensor dy, Tensor x, Tensor crow, Tensor col,
                                         Tensor values, Numbers shape, Numbers stride,
                                         Numbers padding, Numbers dilation, int64_t groups,
                                         bool need_x, bool need_values) {
  return row_sparse_conv2d_backward(checked<K>(), dy, x, crow, col, values, shape, stride, padding,
                                    dilation, groups, need_x, need_values);
}

template <Kernels K>
Tensor channel_pruned(Tensor x, Tensor values, Tensor out_channels, Tensor in_channels,
                      std::optional<Tensor> bias, std::optional<Tensor> residual, Numbers shape,
                      Numbers stride, Numbers padding, Numbers dilation, int64_t activation) {
  return channel_pruned_conv2d(checked<K>(), x, values, out_channels, in_channels, bias, residual,
                               shape, stride, padding, dilation, activation, std::nullopt);
}

template <Kernels K>
void channel_pruned_out(Tensor x, Tensor values, Tensor out_channels, Tensor in_channels,
                        std::optional<Tensor> bias, std::optional<Tensor> residual, Numbers shape,
                        Numbers stride, Numbers padding, Numbers dilation, int64_t activation,
                        Tensor out) {
  channel_pruned_conv2d(checked<K>(), x, values, out_channels, in_channels, bias, residual, shape,
                        stride, padding, dilation, activation, out);
}

template <Kernels K>
Tensor linear(Tensor x, Tensor crow, Tensor col, Tensor values, std::optional<Tensor> bias,
              std::optional<Tensor> residual, int64_t activation) {
  return csr_linear(checked<K>(), x, crow, col, values, bias, residual, activation, std::nullopt);
}

template <Kernels K>
void linear_out(Tensor x, Tensor crow, Tensor col, Tensor values, std::optional<Tensor> bias,
                std::optional<Tensor> residual, int64_t activation, Tensor out) {
  csr_linear(checked<K>(), x, crow, col, values, bias, residual, activation, out);
}

template <Kernels K>
std::tuple<Tensor, Tensor> linear_backward(Tensor dy, Tensor x, Tensor crow, Tensor col,
                                           Tensor values, bool need_x, bool need_values) {
  return csr_linear_backward(checked<K>(), dy, x, crow, col, values, need_x, need_values);
}

template <Kernels K>
Tensor blocked_from_images(Tensor x, int64_t halo) {
  return to_blocked(checked<K>(), x, halo);
}

template <Kernels K>
Tensor images_from_blocked(Tensor x, int64_t halo, int64_t batch, bool channels_last) {
  return from_blocked(checked<K>(), x, halo, batch, channels_last);
}

template <Kernels K>
Tensor blocked_conv(Tensor x, Tensor starts, Tensor rows, Tensor filters, Tensor offsets,
                    Tensor values, std::optional<Tensor> bias, std::optional<Tensor> residual,
                    Numbers out_size, Numbers stride, int64_t out_halo, int64_t residual_halo,
                    int64_t activation) {
  return blocked_conv2d(checked<K>(), x, starts, rows, filters, offsets, values, bias, residual,
                        out_size, stride, out_halo, residual_halo, activation);
}

template <Kernels K>
Tensor blocked_pool(Tensor x, bool most, Numbers kernel, Numbers stride, Numbers padding,
                    int64_t halo, int64_t out_halo) {
  return blocked_pool2d(checked<K>(), x, most, kernel, stride, padding, halo, out_halo);
}

template <Kernels K>
std::vector<Tensor> run_program(std::vector<Tensor> inputs, Tensor program,
                                std::vector<Tensor> constants, Numbers shapes) {
  return program::run_program(checked<K>(), inputs, program, constants, shapes);
}

template <Kernels K>
std::vector<Tensor> rerun_program(std::vector<Tensor> inputs, int64_t number) {
  return program::rerun_program(checked<K>(), inputs, number);
}

template <Kernels K>
Tensor profile_program(std::vector<Tensor> inputs, Tensor program, std::vector<Tensor> constants,
                       int64_t repeats) {
  return program::profile_program(checked<K>(), inputs, program, constants, repeats);
}

Tensor describe_program(Tensor program, std::vector<Tensor> constants, Numbers sizes) {
  return program::describe_program(checked<row_sparse_scalar>(), program, constants, sizes);
}

void release_program(int64_t number) { program::release(number); }
int64_t kept_programs() { return program::kept_plans(); }
void poison_programs(bool on) { program::poison_programs(on); }

template <Kernels K>
Tensor step(std::vector<Tensor> inputs, Numbers orders, Numbers halos, int64_t out_order,
            int64_t out_halo, int64_t kind, Numbers attributes, std::vector<Tensor> constants) {
  return test_step(checked<K>(), inputs, orders, halos, out_order, out_halo, kind, attributes,
                   constants);
}

}  // namespace

#define SPARSE_OPS_REGISTER(isa)                                                \
  m.impl("periodic_conv2d_" #isa, TORCH_BOX(&conv<row_sparse_##isa>));          \
  m.impl("csr_conv2d_" #isa, TORCH_BOX(&conv<row_sparse_##isa>));               \
  m.impl("periodic_conv2d_out_" #isa, TORCH_BOX(&conv_out<row_sparse_##isa>));  \
  m.impl("csr_conv2d_out_" #isa, TORCH_BOX(&conv_out<row_sparse_##isa>));       \
  m.impl("sparse_conv2d_backward_" #isa, TORCH_BOX(&conv_backward<row_sparse_##isa>)); \
  m.impl("channel_pruned_conv2d_" #isa, TORCH_BOX(&channel_pruned<row_sparse_##isa>)); \
  m.impl("channel_pruned_conv2d_out_" #isa, TORCH_BOX(&channel_pruned_out<row_sparse_##isa>)); \
  m.impl("to_blocked_" #isa, TORCH_BOX(&blocked_from_images<row_sparse_##isa>)); \
  m.impl("from_blocked_" #isa, TORCH_BOX(&images_from_blocked<row_sparse_##isa>)); \
  m.impl("blocked_conv2d_" #isa, TORCH_BOX(&blocked_conv<row_sparse_##isa>));   \
  m.impl("blocked_pool2d_" #isa, TORCH_BOX(&blocked_pool<row_sparse_##isa>));   \
  m.impl("csr_linear_" #isa, TORCH_BOX(&linear<row_sparse_##isa>));             \
  m.impl("csr_linear_out_" #isa, TORCH_BOX(&linear_out<row_sparse_##isa>));     \
  m.impl("csr_linear_backward_" #isa, TORCH_BOX(&linear_backward<row_sparse_##isa>)); \
  m.impl("run_program_" #isa, TORCH_BOX(&run_program<row_sparse_##isa>));       \
  m.impl("rerun_program_" #isa, TORCH_BOX(&rerun_program<row_sparse_##isa>));   \
  m.impl("profile_program_" #isa, TORCH_BOX(&profile_program<row_sparse_##isa>)); \
  m.impl("step_" #isa, TORCH_BOX(&step<row_sparse_##isa>));

STABLE_TORCH_LIBRARY_IMPL(sparse_ops, CPU, m) {
  SPARSE_OPS_REGISTER(scalar)
  SPARSE_OPS_REGISTER(avx2)
  SPARSE_OPS_REGISTER(avx512)
  m.impl("describe_program", TORCH_BOX(&describe_program));
}

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
