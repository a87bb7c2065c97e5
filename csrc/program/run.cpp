#include "run.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <new>

#include "arena.h"
#include "cache.h"
#include "shapes.h"

namespace sparse_ops {
namespace program {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t kMostRepeats = 1 << 16;

std::atomic<bool> poisoned{false};

void poison(float* first, int64_t count) {
  std::fill_n(first, count, std::numeric_limits<float>::quiet_NaN());
}

// Whether (N, C, H, W) is stored as (N, H, W, C).
bool stored_last(const Tensor& x) {
  if (x.dim() != 4) return false;
  int64_t expected = 1;
  for (const int d : {1, 3, 2, 0}) {
    if (x.size(d) != 1 && x.stride(d) != expected) return false;
    expected *= x.size(d);
  }
  return true;
}

// An input as steps read it.
struct Input {
  Tensor tensor;
  const float* data;
  bool last;  // its channels are innermost
};

std::vector<Input> readable(const std::vector<Tensor>& inputs, const Layout& layout,
                            const Layout& other) {
  std::vector<Input> all;
  all.reserve(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Tensor& x = inputs[i];
    const bool last =
        !x.is_contiguous() && layout.takes_last[i] && other.takes_last[i] && stored_last(x);
    Tensor whole = last ? x : as_contiguous(x);
    const float* data = whole.const_data_ptr<float>();
    all.push_back({std::move(whole), data, last});
  }
  return all;
}

// Runs a piece of the batch that begins with image `first`, of `batch`.
class Run {
 public:
  Run(const Layout& layout, const std::vector<Input>& inputs, const std::vector<float*>& outputs,
      int64_t batch, int64_t first, Arena& arena)
      : layout_(layout), inputs_(inputs), outputs_(outputs), arena_(arena) {
    float* memory = arena.memory->get();
    if (poisoned) poison(memory, layout.arena);
    const Program& program = *layout.program;
    arena.views.clear();
    for (size_t v = 0; v < layout.places.size(); ++v) {
      const Place& place = layout.places[v];
      float* data;
      if (place.where == Place::kInput) {
        const Spec& spec = layout.specs[place.index];
        // An input of one image is read by all pieces.
        const bool moves = inputs[place.index].tensor.size(0) == batch;
        data = const_cast<float*>(inputs[place.index].data) + (moves ? first * spec.block() : 0);
      } else if (place.where == Place::kOutput) {
        const Spec& spec = layout.specs[program.outputs[place.index]];
        data = outputs[place.index] + first * spec.block();
      } else {
        data = memory + layout.offsets[place.index];
      }
      arena.views.push_back({layout.specs[v], data + place.first, place.block_step});
    }
    first_ = first;
  }

  void step(size_t s) const {
    const Prepared& step = layout_.steps[s];
    if (!step.ready) return;
    const View& out = arena_.views[step.call->out];
    const Numbers& read = step.call->inputs;
    if (step.reads_last && read[0] < layout_.program->inputs && inputs_[read[0]].last) {
      step.reads_last->run_last(arena_.views[read[0]].data, out);
      return;
    }
    arena_.in.clear();
    for (const int64_t v : read) arena_.in.push_back(arena_.views[v]);
    step.ready->run(arena_.in.data(), out, arena_.memory->get() + step.scratch);
  }

  void copy() const {
    for (const Copy& copy : layout_.copies) {
      const View& from = arena_.views[copy.value];
      const int64_t block = from.spec.block();
      float* to = outputs_[copy.output] + first_ * block;
      for (int64_t n = 0; n < from.spec.shape.n; ++n)
        std::copy_n(from.data + n * from.block_step, block, to + n * block);
    }
  }

 private:
  const Layout& layout_;
  const std::vector<Input>& inputs_;
  const std::vector<float*>& outputs_;
  Arena& arena_;
  int64_t first_;
};

// Calls work(run) for each piece of the batch.
template <class Work>
void for_each_piece(const Plan& plan, const std::vector<Tensor>& given,
                    std::vector<Tensor>& outputs, const Work& work) {
  if (plan.batch == 0) return;
  const std::vector<Input> inputs = readable(given, *plan.layout, *plan.last);
  std::vector<float*> to;
  for (const Tensor& output : outputs) {
    to.push_back(output.mutable_data_ptr<float>());
    if (poisoned) poison(to.back(), output.numel());
  }
  const int64_t floats = std::max(plan.layout->arena, plan.last->arena) + kOverrun;
  try {
    Lease lease(floats);
    for (int64_t first = 0; first < plan.batch; first += plan.piece) {
      const bool whole = first + plan.piece <= plan.batch;
      work(Run(whole ? *plan.layout : *plan.last, inputs, to, plan.batch, first, lease.arena()));
    }
  } catch (const std::bad_alloc&) {
    STD_TORCH_CHECK(false, "out of memory: the program needs ", floats * 4, " bytes for ",
                    plan.piece, " images");
  }
}

std::vector<Tensor> new_outputs(const Plan& plan, const Tensor& like) {
  std::vector<Tensor> outputs;
  outputs.reserve(plan.outputs.size());
  for (const Shape& s : plan.outputs)
    outputs.push_back(s.rank == 2 ? torch::stable::new_empty(like, {s.n, s.c})
                                  : torch::stable::new_empty(like, {s.n, s.c, s.h, s.w}));
  return outputs;
}

std::shared_ptr<const Plan> found(const RowSparseKernels& kernels,
                                  const std::vector<Tensor>& inputs, const Tensor& program,
                                  const std::vector<Tensor>& constants) {
  STD_TORCH_CHECK(!inputs.empty(), "a program has one input or more, got none");
  try {
    return plan_for(kernels, inputs, program, constants);
  } catch (const std::bad_alloc&) {
    STD_TORCH_CHECK(false, "out of memory: the program could not be prepared");
  }
}

}  // namespace

namespace {

std::vector<Tensor> ran(const Plan& plan, const std::vector<Tensor>& inputs) {
  std::vector<Tensor> outputs = new_outputs(plan, inputs[0]);
  for_each_piece(plan, inputs, outputs, [&](const Run& run) {
    const size_t steps = plan.layout->steps.size();
    for (size_t s = 0; s < steps; ++s) run.step(s);
    run.copy();
  });
  return outputs;
}

}  // namespace

std::vector<Tensor> run_program(const RowSparseKernels& kernels, const std::vector<Tensor>& inputs,
                                const Tensor& program, const std::vector<Tensor>& constants,
                                const Numbers& shapes) {
  const auto plan = found(kernels, inputs, program, constants);
  if (!shapes.empty()) check_shapes(shapes, inputs, plan->outputs);
  return ran(*plan, inputs);
}

std::vector<Tensor> rerun_program(const RowSparseKernels& kernels,
                                  const std::vector<Tensor>& inputs, int64_t number) {
  STD_TORCH_CHECK(!inputs.empty(), "a program has one input or more, got none");
  const auto plan = known_plan(kernels, inputs, number);
  return plan ? ran(*plan, inputs) : std::vector<Tensor>{};
}

Tensor profile_program(const RowSparseKernels& kernels, const std::vector<Tensor>& inputs,
                       const Tensor& program, const std::vector<Tensor>& constants,
                       int64_t repeats) {
  STD_TORCH_CHECK(repeats >= 1 && repeats <= kMostRepeats, "repeats must be 1 to ", kMostRepeats,
                  ", got ", repeats);
  const auto plan = found(kernels, inputs, program, constants);
  std::vector<Tensor> outputs = new_outputs(*plan, inputs[0]);
  const int64_t steps = static_cast<int64_t>(plan->layout->steps.size());
  const Tensor result = torch::stable::new_zeros(inputs[0], {repeats, steps}, ScalarType::Double);
  double* times = result.mutable_data_ptr<double>();
  for (int64_t r = 0; r < repeats; ++r, times += steps)
    for_each_piece(*plan, inputs, outputs, [&](const Run& run) {
      for (int64_t s = 0; s < steps; ++s) {
        const auto begin = Clock::now();
        run.step(s);
        times[s] += std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
      }
      run.copy();
    });
  return result;
}

Tensor describe_program(const RowSparseKernels& kernels, const Tensor& program,
                        const std::vector<Tensor>& constants, const Numbers& sizes) {
  STD_TORCH_CHECK(sizes.size() % 5 == 0, "sizes must be rank, n, c, h, w of each input, got ",
                  sizes.size(), " numbers");
  std::vector<Shape> inputs;
  for (size_t i = 0; i < sizes.size(); i += 5)
    inputs.push_back({sizes[i], sizes[i + 1], sizes[i + 2], sizes[i + 3], sizes[i + 4]});
  const auto parsed = std::make_shared<const Program>(
      parse(kernels, numbers_of(checked_encoding(program)), constants));
  const auto plan = new_plan(kernels, parsed, inputs);
  const Layout& layout = *plan->layout;
  const int64_t values = static_cast<int64_t>(layout.specs.size());
  const Tensor result = torch::stable::new_zeros(program, {1 + values, 8});
  int64_t* row = result.mutable_data_ptr<int64_t>();
  const int64_t pieces = (plan->batch + plan->piece - 1) / plan->piece;
  int64_t code = 0;
  for (const Prepared& step : layout.steps)
    if (step.ready) code += step.ready->code();
  const int64_t head[] = {layout.arena * 4,
                          pieces,
                          plan->piece,
                          plan->last->specs[0].shape.n,
                          static_cast<int64_t>(layout.steps.size()),
                          code};
  std::copy(std::begin(head), std::end(head), row);
  for (int64_t v = 0; v < values; ++v) {
    const Spec& spec = layout.specs[v];
    const Place& place = layout.places[v];
    int64_t readers = 0;
    for (const Prepared& step : layout.steps)
      readers += std::count(step.call->inputs.begin(), step.call->inputs.end(), v);
    const int64_t offset =
        place.where == Place::kArena ? (layout.offsets[place.index] + place.first) * 4 : -1;
    const int64_t numbers[] = {spec.shape.rank, spec.shape.n,    spec.shape.c, spec.shape.h,
                               spec.shape.w,    spec.size() * 4, offset,       readers};
    row += 8;
    std::copy(std::begin(numbers), std::end(numbers), row);
  }
  return result;
}

void poison_programs(bool on) { poisoned = on; }

}  // namespace program
}  // namespace sparse_ops
