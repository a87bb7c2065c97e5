// What programs do to each value, as the portable kernels do it.
#include "microkernels.h"

namespace checking {

void test_steps(const RowSparseKernels& kernels) {
  const StepKernels &own = *kernels.steps, &portable = *row_sparse_scalar()->steps;
  for (const int64_t length : {1, 5, 16, 37}) {
    const int64_t lines = 3, step = length + 4;
    Floats from(lines * step), to(lines * step, false), other(lines * step, false), slopes(length);
    const Lines work = {lines, length, from.get(), step, to.get(), step};
    Lines again = work;
    again.to = other.get();
    const auto same = [&](const std::string& what) {
      over({lines, length}, [&](int64_t l, int64_t i) {
        const float a = to[l * step + i], b = other[l * step + i];
        if (!(std::abs(a - b) <= 16 * 0x1p-24 * std::abs(b) + 1e-30) &&
            !(std::isnan(a) && std::isnan(b)))
          fail(what + " of " + std::to_string(from[l * step + i]));
      });
    };
    for (int64_t function = 1; function <= kReciprocal; ++function) {
      own.unary(work, function, 0.7f, 1.3f);
      portable.unary(again, function, 0.7f, 1.3f);
      same("function " + std::to_string(function));
    }
    own.prelu(work, slopes.get(), false);
    portable.prelu(again, slopes.get(), false);
    same("prelu");
    const Activation activation = any_activation();
    own.affine(work, slopes.get(), slopes.get(), false, activation);
    over({lines, length}, [&](int64_t l, int64_t i) {
      const int64_t at = l * step + i;
      Exact exact;
      compare("affine", to[at], exact.add(from[at], slopes[i]).plus(slopes[i]), activation);
    });
  }
}

}  // namespace checking
