#include "memory.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace sparse_ops {
namespace program {
namespace {

// No value is larger: so that no product of what follows from one overflows.
constexpr int64_t kMostFloats = int64_t{1} << 46;
constexpr int64_t kLine = 16;  // floats in a cache line

int64_t up(int64_t floats) { return (floats + kLine - 1) / kLine * kLine; }

void check_size(const Shape& shape, int64_t value) {
  STD_TORCH_CHECK(shape.rank == 4 || (shape.rank == 2 && shape.h == 1 && shape.w == 1), "value ",
                  value, " has ", shape.rank, " dimensions, not 4 or 2");
  const auto& [rank, n, c, h, w] = shape;
  const int64_t around = rank == 4 ? 2 * kMostHalo : 0;
  bool good = true;
  for (const int64_t size : {n, c, h, w}) good = good && size >= 1 && size <= kMostFloats;
  // With halos, and with lanes that stand for nothing.
  int64_t floats = good ? n + kLanes : 0;
  if (good)
    for (const int64_t size : {c + kLanes, h + around, w + around})
      good = good && !__builtin_mul_overflow(floats, size, &floats) && floats <= kMostFloats;
  STD_TORCH_CHECK(good, "value ", value, " would be (", n, ", ", c, ", ", h, ", ", w,
                  "): out of range");
}

// Something in memory from one step to another.
struct Block {
  int64_t floats = 0;
  bool planar = false;
  int64_t from = std::numeric_limits<int64_t>::max(), to = -1;

  void live(int64_t step) {
    from = std::min(from, step);
    to = std::max(to, step);
  }
  bool meets(const Block& other) const { return from <= other.to && other.from <= to; }
};

// Offsets of blocks, the largest first, each where it first fits; and the end of all.
int64_t place(const std::vector<Block>& blocks, Numbers& offsets) {
  Numbers order(blocks.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return blocks[a].floats > blocks[b].floats; });
  offsets.assign(blocks.size(), -1);
  int64_t end = 0;
  std::vector<std::pair<int64_t, int64_t>> taken;
  for (const int64_t b : order) {
    if (blocks[b].to < 0) continue;
    taken.clear();
    for (size_t o = 0; o < blocks.size(); ++o)
      if (offsets[o] >= 0 && blocks[o].meets(blocks[b]))
        taken.push_back({offsets[o], offsets[o] + up(blocks[o].floats)});
    std::sort(taken.begin(), taken.end());
    int64_t at = 0;
    for (const auto& [first, last] : taken) {
      if (first - at >= blocks[b].floats) break;
      at = std::max(at, last);
    }
    offsets[b] = at;
    end = std::max(end, at + up(blocks[b].floats));
  }
  return end;
}

class Planner {
 public:
  Planner(const RowSparseKernels& kernels, std::shared_ptr<const Program> program,
          const std::vector<Shape>& inputs)
      : kernels_(kernels), program_(*program), layout_(std::make_shared<Layout>()) {
    layout_->program = std::move(program);
    const std::vector<Shape> shapes = shapes_for(program_, inputs);
    for (size_t v = 0; v < shapes.size(); ++v) {
      const Value& value = program_.values[v];
      STD_TORCH_CHECK(shapes[v].rank == 4 || value.order == kPlanar, "value ", v,
                      " has 2 dimensions: it must be planar");
      layout_->specs.push_back({shapes[v], value.order, value.halo});
    }
    for (const Call& call : program_.calls)
      if (call.kind == kConcat) check_parts(call);
    find_places();
    find_copies();
    prepare();
    layout_->arena = place(blocks_, layout_->offsets);
    for (Prepared& step : layout_->steps) step.scratch = layout_->offsets[step.scratch];
    find_last();
  }

  std::shared_ptr<const Layout> take() { return layout_; }

 private:
  const Spec& spec(int64_t v) const { return layout_->specs[v]; }

  // Parts are where the concatenation would put them.
  void check_parts(const Call& call) const {
    int64_t first = 0;
    for (const int64_t v : call.inputs) {
      const Value& value = program_.values[v];
      STD_TORCH_CHECK(value.whole != call.out || value.first == first, "value ", v,
                      " must begin at channel ", first, " of value ", call.out, ", got ",
                      value.first);
      first += spec(v).shape.c;
    }
    STD_TORCH_CHECK(first == spec(call.out).shape.c, "value ", call.out, " must have ", first,
                    " channels, got ", spec(call.out).shape.c);
  }

  // Whether what flatten gives is what it is given, in the same places.
  bool is_alias(const Call& call) const {
    const Spec& in = spec(call.inputs[0]);
    const bool lines = in.order == kPlanar || (in.order == kChannels && in.halo == 0 &&
                                               in.shape.h == 1 && in.shape.w == 1);
    return call.kind == kFlatten && lines && program_.values[call.out].whole == -1 &&
           program_.values[call.inputs[0]].whole == -1;
  }

  void find_places() {
    const int64_t values = static_cast<int64_t>(program_.values.size());
    std::vector<Place>& places = layout_->places;
    places.assign(values, {Place::kArena, -1, 0, 0});
    for (int64_t v = 0; v < program_.inputs; ++v)
      places[v] = {Place::kInput, v, 0, spec(v).block()};
    aliases_.assign(program_.calls.size(), false);
    // Wholes come before their parts, which steps write first.
    for (const Call& call : program_.calls) {
      const int64_t v = call.out;
      if (program_.values[v].whole != -1) continue;
      if (is_alias(call)) {
        aliases_[&call - program_.calls.data()] = true;
        places[v] = places[call.inputs[0]];
        continue;
      }
      places[v] = {Place::kArena, static_cast<int64_t>(blocks_.size()), 0, spec(v).block()};
      blocks_.push_back({spec(v).size(), spec(v).order == kPlanar});
    }
    for (int64_t v = 0; v < values; ++v) {
      const Value& value = program_.values[v];
      if (value.whole == -1) continue;
      places[v] = places[value.whole];
      const int64_t planes = value.order == kChannels ? value.first / kLanes : value.first;
      places[v].first += planes * spec(v).plane();
    }
    for (int64_t s = 0; s < static_cast<int64_t>(program_.calls.size()); ++s) {
      live(program_.calls[s].out, s);
      for (const int64_t v : program_.calls[s].inputs) live(v, s);
    }
  }

  void live(int64_t v, int64_t step) {
    const Place& place = layout_->places[v];
    if (place.where == Place::kArena) blocks_[place.index].live(step);
  }

  // Planar outputs of their own are written where they are given out; others are copied there.
  void find_copies() {
    Numbers given(blocks_.size(), -1);
    for (int64_t o = 0; o < static_cast<int64_t>(program_.outputs.size()); ++o) {
      const int64_t v = program_.outputs[o];
      const Place& place = layout_->places[v];
      STD_TORCH_CHECK(spec(v).order == kPlanar, "output ", o, ", value ", v, ", must be planar");
      if (place.where == Place::kArena && given[place.index] == -1 && blocks_[place.index].planar &&
          place.first == 0 && place.block_step == spec(v).block() &&
          blocks_[place.index].floats == spec(v).size()) {
        given[place.index] = o;
        continue;
      }
      layout_->copies.push_back({o, v});
      live(v, static_cast<int64_t>(program_.calls.size()));
    }
    for (Place& place : layout_->places)
      if (place.where == Place::kArena && given[place.index] != -1) {
        place.where = Place::kOutput;
        // Nothing of it is in the arena.
        blocks_[place.index] = {};
        place.index = given[place.index];
      }
  }

  void prepare() {
    for (int64_t s = 0; s < static_cast<int64_t>(program_.calls.size()); ++s) {
      const Call& call = program_.calls[s];
      Prepared step{&call, nullptr, nullptr, static_cast<int64_t>(blocks_.size())};
      blocks_.push_back({});
      blocks_.back().live(s);
      if (!aliases_[s]) {
        std::vector<Spec> in;
        for (const int64_t v : call.inputs) in.push_back(spec(v));
        step.ready = call.step->ready(in, spec(call.out));
        step.reads_last = dynamic_cast<const ReadsLast*>(step.ready.get());
        blocks_.back().floats = step.ready->scratch();
        STD_TORCH_CHECK(blocks_.back().floats >= 0 && blocks_.back().floats <= kMostFloats, "step ",
                        s, " needs ", blocks_.back().floats, " floats beside its values");
      }
      layout_->steps.push_back(std::move(step));
    }
  }

  void find_last() {
    std::vector<bool>& last = layout_->takes_last;
    last.assign(program_.inputs, true);
    for (int64_t v = 0; v < program_.inputs; ++v)
      if (spec(v).shape.rank != 4) last[v] = false;
    for (const Prepared& step : layout_->steps)
      for (const int64_t v : step.call->inputs)
        if (v < program_.inputs && !step.reads_last) last[v] = false;
    for (const Copy& copy : layout_->copies)
      if (copy.value < program_.inputs) last[copy.value] = false;
  }

  const RowSparseKernels& kernels_;
  const Program& program_;
  const std::shared_ptr<Layout> layout_;
  std::vector<Block> blocks_;
  std::vector<bool> aliases_;  // for each step
};

}  // namespace

std::vector<Shape> shapes_for(const Program& program, const std::vector<Shape>& inputs) {
  std::vector<Shape> shapes(program.values.size());
  for (int64_t v = 0; v < program.inputs; ++v) {
    shapes[v] = inputs[v];
    check_size(inputs[v], v);
  }
  for (const Call& call : program.calls) {
    std::vector<Shape> in;
    for (const int64_t v : call.inputs) in.push_back(shapes[v]);
    shapes[call.out] = call.step->infer(in);
    check_size(shapes[call.out], call.out);
  }
  return shapes;
}

std::shared_ptr<const Layout> layout_for(const RowSparseKernels& kernels,
                                         std::shared_ptr<const Program> program,
                                         const std::vector<Shape>& inputs) {
  return Planner(kernels, std::move(program), inputs).take();
}

}  // namespace program
}  // namespace sparse_ops
