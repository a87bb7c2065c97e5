#include "cache.h"

#include <algorithm>
#include <cstring>
#include <list>
#include <mutex>

#include "arena.h"

namespace sparse_ops {
namespace program {
namespace {

constexpr size_t kMostPlans = 64;
constexpr int64_t kSamples = 16;

// By what a tensor is known again: where it is, its type and sizes, and some of its values.
class Mark {
 public:
  enum Answer { kSame, kOther, kChanged };

  explicit Mark(const Tensor& t)
      : tensor_(t),
        data_(t.const_data_ptr()),
        type_(t.scalar_type()),
        sizes_(t.sizes().begin(), t.sizes().end()),
        strides_(t.strides().begin(), t.strides().end()) {
    const int64_t count = t.numel();
    if (type_ != ScalarType::Float || count == 0) return;
    const int64_t samples = std::min(count, kSamples);
    for (int64_t i = 0; i < samples; ++i) {
      // The first, the last, and others spread between them.
      const int64_t nth = samples == 1 ? 0 : (count - 1) / (samples - 1) * i;
      places_.push_back(place_of(i + 1 == samples ? count - 1 : nth));
    }
    for (const int64_t place : places_) values_.push_back(bits_at(place));
  }

  Answer compare(const Tensor& t) const {
    if (t.const_data_ptr() != data_ || t.scalar_type() != type_ || !t.is_cpu()) return kOther;
    const auto sizes = t.sizes(), strides = t.strides();
    if (sizes.size() != sizes_.size() || !std::equal(sizes_.begin(), sizes_.end(), sizes.begin()) ||
        !std::equal(strides_.begin(), strides_.end(), strides.begin()))
      return kOther;
    return as_it_was(1) ? kSame : kChanged;
  }

  // The same tensor, looked at again, by a few values: another storage, or a change that its
  // version does not tell, as it comes about through `.data`.
  bool unchanged() const { return tensor_.const_data_ptr() == data_ && as_it_was(5); }

 private:
  bool as_it_was(size_t step) const {
    for (size_t i = 0; i < places_.size(); i += step)
      if (bits_at(places_[i]) != values_[i]) return false;
    return true;
  }
  int64_t place_of(int64_t nth) const {
    int64_t place = 0;
    for (size_t d = sizes_.size(); d-- > 0; nth /= sizes_[d])
      place += nth % sizes_[d] * strides_[d];
    return place;
  }
  uint32_t bits_at(int64_t place) const {
    uint32_t bits;
    std::memcpy(&bits, static_cast<const float*>(data_) + place, sizeof bits);
    return bits;
  }

  const Tensor tensor_;  // so that what is read stays there
  const void* data_;
  ScalarType type_;
  Numbers sizes_, strides_, places_;
  std::vector<uint32_t> values_;
};

// A program that is parsed, and what of.
struct Parsed {
  const RowSparseKernels* kernels;
  Numbers numbers;
  std::vector<Mark> marks;
  std::shared_ptr<const Program> program;

  Parsed(const RowSparseKernels& kernels, const Tensor& encoded,
         const std::vector<Tensor>& constants)
      : kernels(&kernels), numbers(numbers_of(encoded)) {
    // Marks come first: what changes meanwhile is noticed at the next call.
    for (const Tensor& t : constants) {
      STD_TORCH_CHECK(t.is_cpu(), "constants must be on the CPU");
      marks.emplace_back(t);
    }
    program = std::make_shared<const Program>(parse(kernels, numbers, constants));
  }

  bool unchanged() const {
    return std::all_of(marks.begin(), marks.end(),
                       [](const Mark& mark) { return mark.unchanged(); });
  }

  Mark::Answer compare(const Tensor& encoded, const std::vector<Tensor>& constants) const {
    if (encoded.numel() != static_cast<int64_t>(numbers.size()) ||
        constants.size() != marks.size() ||
        std::memcmp(encoded.const_data_ptr(), numbers.data(), numbers.size() * sizeof(int64_t)) !=
            0)
      return Mark::kOther;
    Mark::Answer answer = Mark::kSame;
    for (size_t i = 0; i < marks.size() && answer != Mark::kOther; ++i) {
      const Mark::Answer one = marks[i].compare(constants[i]);
      if (one != Mark::kSame) answer = one;
    }
    return answer;
  }
};

struct Kept {
  std::shared_ptr<const Parsed> parsed;
  Numbers sizes;
  std::shared_ptr<const Plan> plan;
};

// What all calls share; never destroyed, for calls may outlive what else ends with the process.
struct Shared {
  std::mutex mutex;
  std::list<Kept> plans;  // the last used first
};
Shared& shared() {
  static Shared* const all = new Shared;
  return *all;
}

// Of inputs, and of how many threads.
Numbers sizes_of(const std::vector<Tensor>& inputs) {
  Numbers sizes;
  sizes.reserve(inputs.size() * 5 + 1);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Tensor& x = inputs[i];
    const int64_t rank = x.dim();
    STD_TORCH_CHECK(x.is_cpu() && x.scalar_type() == ScalarType::Float && (rank == 4 || rank == 2),
                    "input ", i, " must be (N, C, H, W) or (N, C), float32 on the CPU");
    sizes.insert(sizes.end(), {rank, x.size(0), x.size(1), rank == 4 ? x.size(2) : 1,
                               rank == 4 ? x.size(3) : 1});
  }
  sizes.push_back(torch::stable::get_num_threads());
  return sizes;
}

// Which of what is kept this is: its plan, or at least what is parsed.
Kept find(const RowSparseKernels& kernels, int64_t number, const Numbers& sizes,
          const Tensor& encoded, const std::vector<Tensor>& constants) {
  Shared& all = shared();
  std::vector<Kept> candidates;
  {
    const std::lock_guard<std::mutex> lock(all.mutex);
    for (const Kept& kept : all.plans) {
      if (kept.parsed->kernels != &kernels || number_of(kept.parsed->numbers) != number) continue;
      const auto same = std::find_if(candidates.begin(), candidates.end(), [&](const Kept& other) {
        return other.parsed == kept.parsed;
      });
      if (same == candidates.end())
        candidates.push_back({kept.parsed, {}, kept.sizes == sizes ? kept.plan : nullptr});
      else if (kept.sizes == sizes)
        same->plan = kept.plan;
    }
  }
  for (Kept& candidate : candidates) {
    const Mark::Answer answer = candidate.parsed->compare(encoded, constants);
    if (answer == Mark::kOther) continue;
    const std::lock_guard<std::mutex> lock(all.mutex);
    if (answer == Mark::kSame) {
      const auto kept = std::find_if(all.plans.begin(), all.plans.end(),
                                     [&](const Kept& each) { return each.plan == candidate.plan; });
      if (kept != all.plans.end()) all.plans.splice(all.plans.begin(), all.plans, kept);
      return candidate;
    }
    all.plans.remove_if([&](const Kept& kept) { return kept.parsed == candidate.parsed; });
  }
  return {};
}

// The batch of all inputs; those of one image are the same for all of it.
int64_t batch_of(const std::vector<Shape>& inputs) {
  int64_t batch = 1;
  for (const Shape& input : inputs)
    if (input.n != 1) batch = input.n;
  for (size_t i = 0; i < inputs.size(); ++i)
    STD_TORCH_CHECK(inputs[i].n == batch || inputs[i].n == 1, "input ", i, " has ", inputs[i].n,
                    " images, others have ", batch);
  return batch;
}

// The inputs of a piece of the batch.
std::vector<Shape> some_of(std::vector<Shape> inputs, int64_t batch, int64_t images) {
  for (Shape& input : inputs)
    if (input.n == batch) input.n = images;
  return inputs;
}

}  // namespace

std::shared_ptr<const Plan> new_plan(const RowSparseKernels& kernels,
                                     const std::shared_ptr<const Program>& program,
                                     const std::vector<Shape>& inputs) {
  STD_TORCH_CHECK(static_cast<int64_t>(inputs.size()) == program->inputs, "the program has ",
                  program->inputs, " inputs, got ", inputs.size());
  const auto plan = std::make_shared<Plan>();
  plan->batch = batch_of(inputs);
  const int64_t images = std::max<int64_t>(plan->batch, 1);
  const std::vector<Shape> shapes = shapes_for(*program, some_of(inputs, plan->batch, images));
  bool divisible = true;
  for (const int64_t v : program->outputs) {
    plan->outputs.push_back(shapes[v]);
    divisible = divisible && shapes[v].n == images;
    if (plan->batch == 0 && shapes[v].n == images) plan->outputs.back().n = 0;
  }
  int64_t piece = program->piece;
  for (const Value& value : program->values)
    if (value.order == kImages) piece = (piece + kLanes - 1) / kLanes * kLanes;
  plan->piece = piece == 0 || piece > images || !divisible ? images : piece;
  plan->layout = layout_for(kernels, program, some_of(inputs, plan->batch, plan->piece));
  const int64_t left = images % plan->piece;
  plan->last =
      left == 0 ? plan->layout : layout_for(kernels, program, some_of(inputs, plan->batch, left));
  return plan;
}

std::shared_ptr<const Plan> plan_for(const RowSparseKernels& kernels,
                                     const std::vector<Tensor>& inputs, const Tensor& program,
                                     const std::vector<Tensor>& constants) {
  const Numbers sizes = sizes_of(inputs);
  const Tensor encoded = checked_encoding(program);
  const int64_t number = encoded.const_data_ptr<int64_t>()[kNumber];
  Kept kept = find(kernels, number, sizes, encoded, constants);
  if (kept.plan) return kept.plan;
  if (!kept.parsed) kept.parsed = std::make_shared<const Parsed>(kernels, encoded, constants);
  std::vector<Shape> shapes;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const int64_t* s = sizes.data() + 5 * i;
    shapes.push_back({s[0], s[1], s[2], s[3], s[4]});
  }
  kept.plan = new_plan(kernels, kept.parsed->program, shapes);
  kept.sizes = sizes;
  Shared& all = shared();
  std::list<Kept> gone;  // freed without the lock
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.plans.push_front(kept);
  if (all.plans.size() > kMostPlans)
    gone.splice(gone.begin(), all.plans, std::prev(all.plans.end()));
  return kept.plan;
}

std::shared_ptr<const Plan> known_plan(const RowSparseKernels& kernels,
                                       const std::vector<Tensor>& inputs, int64_t number) {
  const Numbers sizes = sizes_of(inputs);
  Shared& all = shared();
  std::shared_ptr<const Plan> plan;
  std::shared_ptr<const Parsed> parsed;
  {
    const std::lock_guard<std::mutex> lock(all.mutex);
    for (const Kept& kept : all.plans) {
      if (kept.parsed->kernels != &kernels || number_of(kept.parsed->numbers) != number) continue;
      if (parsed && parsed != kept.parsed) return nullptr;
      parsed = kept.parsed;
      if (kept.sizes == sizes) plan = kept.plan;
    }
  }
  if (!plan || parsed->unchanged()) return plan;
  // What it was made of is no longer there: it is never found again.
  std::list<Kept> gone;
  const std::lock_guard<std::mutex> lock(all.mutex);
  for (auto kept = all.plans.begin(); kept != all.plans.end();) {
    const auto next = std::next(kept);
    if (kept->parsed == parsed) gone.splice(gone.begin(), all.plans, kept);
    kept = next;
  }
  return nullptr;
}

int64_t kept_plans() {
  Shared& all = shared();
  const std::lock_guard<std::mutex> lock(all.mutex);
  return static_cast<int64_t>(all.plans.size());
}

void release(int64_t number) {
  Shared& all = shared();
  std::list<Kept> gone;
  bool none;
  {
    const std::lock_guard<std::mutex> lock(all.mutex);
    for (auto kept = all.plans.begin(); kept != all.plans.end();) {
      const auto next = std::next(kept);
      if (number_of(kept->parsed->numbers) == number) gone.splice(gone.begin(), all.plans, kept);
      kept = next;
    }
    none = all.plans.empty();
  }
  if (none) free_arenas();
}

}  // namespace program
}  // namespace sparse_ops
