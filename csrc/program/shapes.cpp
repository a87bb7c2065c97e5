#include "shapes.h"

#include <algorithm>

namespace sparse_ops {
namespace program {
namespace {

// The operations of ops/_program_shapes.py.
enum Operation : int64_t { kConstant, kInput, kAdd, kMultiply, kDivide, kLeast, kDone };

int64_t floor_divide(int64_t a, int64_t b) {
  return a / b - (a % b != 0 && (a % b < 0) != (b < 0));
}

// One formula, from `at` on, which moves behind it.
int64_t evaluate(const Numbers& formulas, size_t& at, const std::vector<Tensor>& inputs) {
  Numbers stack;
  const auto next = [&] {
    STD_TORCH_CHECK(at < formulas.size(), "the formulas of the outputs' sizes end too early");
    return formulas[at++];
  };
  const auto pop = [&] {
    STD_TORCH_CHECK(!stack.empty(), "the formulas of the outputs' sizes are damaged");
    const int64_t value = stack.back();
    stack.pop_back();
    return value;
  };
  for (;;) {
    const int64_t operation = next();
    if (operation == kDone) return pop();
    int64_t result = 0;
    bool good = true;
    if (operation == kConstant) {
      result = next();
    } else if (operation == kInput) {
      const int64_t input = next(), d = next();
      good = input >= 0 && input < static_cast<int64_t>(inputs.size()) && d >= 0 &&
             d < inputs[input].dim();
      if (good) result = inputs[input].size(d);
    } else {
      const int64_t b = pop(), a = pop();
      if (operation == kAdd)
        good = !__builtin_add_overflow(a, b, &result);
      else if (operation == kMultiply)
        good = !__builtin_mul_overflow(a, b, &result);
      else if (operation == kDivide)
        good = b > 0;
      else
        good = operation == kLeast;
      if (good && operation == kDivide) result = floor_divide(a, b);
      if (operation == kLeast) result = std::min(a, b);
    }
    STD_TORCH_CHECK(good, "the formulas of the outputs' sizes are damaged");
    stack.push_back(result);
  }
}

}  // namespace

void check_shapes(const Numbers& formulas, const std::vector<Tensor>& inputs,
                  const std::vector<Shape>& outputs) {
  size_t at = 0;
  for (size_t o = 0; o < outputs.size(); ++o) {
    const Shape& shape = outputs[o];
    STD_TORCH_CHECK(at < formulas.size() && formulas[at] == shape.rank, "output ", o, " has ",
                    shape.rank, " dimensions, not what the formulas of the outputs' sizes say");
    ++at;
    const int64_t sizes[] = {shape.n, shape.c, shape.h, shape.w};
    for (int64_t d = 0; d < shape.rank; ++d) {
      const int64_t said = evaluate(formulas, at, inputs);
      STD_TORCH_CHECK(said == sizes[d], "size ", d, " of output ", o, " is ", sizes[d],
                      "; by the formulas of the outputs' sizes it is ", said);
    }
  }
  STD_TORCH_CHECK(at == formulas.size(), "the formulas of the outputs' sizes go on after the last");
}

}  // namespace program
}  // namespace sparse_ops
