#include "parse.h"

#include "conv.h"

#include <algorithm>
#include <limits>

namespace sparse_ops {
namespace program {
namespace {

// program.py: MAGIC, VERSION, HEADER and the kinds.
constexpr int64_t kMagic = 0x53504F5053, kVersion = 1, kHeader = 9;
constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

// How many inputs and attributes a kind has; -1: any number of inputs.
struct Kind {
  const char* name;
  int64_t inputs, attributes;
};
constexpr Kind kKinds[] = {
    {"", 0, 0},        {"convert", 1, 0},       {"conv", 1, 15},    {"linear", 1, 5},
    {"pool", 1, 9},    {"adaptive_pool", 1, 3}, {"unary", 1, 3},    {"binary", 2, 2},
    {"concat", -1, 0}, {"flatten", 1, 0},       {"upsample", 1, 4}, {"softmax", 1, 1},
    {"affine", 1, 1},  {"slice", 1, 2},         {"shuffle", 1, 1},  {"pad", 1, 5},
    {"prelu", 1, 0},   {"interleave", 1, 4},
};
constexpr int64_t kConv = 2, kLinear = 3, kAffine = 12, kPReLU = 16;

// Takes numbers one after the other; raises at the end of them.
class Reader {
 public:
  explicit Reader(const Numbers& numbers) : numbers_(numbers) {}

  int64_t one() {
    STD_TORCH_CHECK(at_ < left_end(), "the program ends too early");
    return numbers_[at_++];
  }
  Numbers some(int64_t count) {
    STD_TORCH_CHECK(count >= 0 && count <= left_end() - at_,
                    "the program is damaged: it has a list of ", count, " numbers where ",
                    left_end() - at_, " are left");
    const auto first = numbers_.begin() + at_;
    at_ += count;
    return Numbers(first, first + count);
  }
  Numbers list() { return some(one()); }
  bool done() const { return at_ == left_end(); }

 private:
  int64_t left_end() const { return static_cast<int64_t>(numbers_.size()); }

  const Numbers& numbers_;
  int64_t at_ = kHeader;
};

Value value_from(Reader& reader, int64_t v, int64_t inputs, int64_t values) {
  const int64_t order = reader.one(), halo = reader.one();
  const int64_t whole = reader.one(), first = reader.one();
  STD_TORCH_CHECK(order >= kPlanar && order <= kImages, "value ", v, " has the order ", order,
                  ", it must be 0, 1 or 2");
  STD_TORCH_CHECK(halo >= 0 && halo <= kMostHalo && (order != kPlanar || halo == 0), "value ", v,
                  " has a halo of ", halo, "; it must be 0 to ", kMostHalo,
                  ", and 0 in planar order");
  STD_TORCH_CHECK(
      whole == -1 ? first == -1 : whole >= 0 && whole < values && first >= 0 && first < kMost,
      "value ", v, " is channels ", first, " on of value ", whole, "; there are ", values,
      " values, and both are -1 in one that is no part");
  STD_TORCH_CHECK(v >= inputs || (order == kPlanar && whole == -1), "value ", v,
                  " is an input: it must be planar, and no part of another");
  return {static_cast<Order>(order), halo, whole, first};
}

// How many constants a step of this kind has.
int64_t constants_of(int64_t kind, const Numbers& attributes) {
  if (kind == kAffine) return 2;
  if (kind == kPReLU) return 1;
  if (kind != kConv && kind != kLinear) return 0;
  const int64_t weights = attributes[0] == 0 ? 4 : 2;
  return weights + (attributes[kind == kConv ? 12 : 3] == kFusedPReLU);
}

// Raises unless constants are of the types that steps have.
const std::vector<Tensor>& checked_types(const std::vector<Tensor>& constants) {
  for (size_t i = 0; i < constants.size(); ++i) {
    const Tensor& given = constants[i];
    const bool right = given.is_cpu() && (given.scalar_type() == ScalarType::Float ||
                                          given.scalar_type() == ScalarType::Int);
    STD_TORCH_CHECK(right, "constant ", i, " must be float32 or int32 on the CPU");
  }
  return constants;
}

class Parser {
 public:
  Parser(const RowSparseKernels& kernels, const Numbers& numbers,
         const std::vector<Tensor>& constants)
      : kernels_(kernels), reader_(numbers), constants_(checked_types(constants)) {
    result_.number = number_of(numbers);
    result_.piece = numbers[3];
    result_.inputs = numbers[4];
    const int64_t outputs = numbers[5], values = numbers[6], calls = numbers[7];
    STD_TORCH_CHECK(result_.piece >= 0 && result_.piece < kMost, "a piece of ", result_.piece,
                    " images is out of range");
    STD_TORCH_CHECK(
        result_.inputs >= 1 && outputs >= 1 && values >= result_.inputs && values <= kMostValues &&
            outputs <= kMostValues && calls == values - result_.inputs,
        "a program has inputs, outputs, and a step for each value that is no input; got ",
        result_.inputs, " inputs, ", outputs, " outputs, ", values, " values, ", calls, " steps");
    for (int64_t v = 0; v < values; ++v)
      result_.values.push_back(value_from(reader_, v, result_.inputs, values));
    result_.outputs = reader_.some(outputs);
    for (const int64_t v : result_.outputs)
      STD_TORCH_CHECK(v >= 0 && v < values, "output ", v, " is none of ", values, " values");
    written_by_.assign(values, -1);
    for (int64_t s = 0; s < calls; ++s) call(s);
    STD_TORCH_CHECK(reader_.done(), "the program goes on after its last step");
    for (int64_t v = 0; v < values; ++v)
      if (result_.values[v].whole != -1) check_part(v);
  }

  Program take() { return std::move(result_); }

 private:
  bool there(int64_t v) const { return v < result_.inputs || written_by_[v] != -1; }

  void call(int64_t s) {
    const int64_t kind = reader_.one(), out = reader_.one();
    const Numbers inputs = reader_.list(), constants = reader_.list(), attributes = reader_.list();
    const int64_t values = static_cast<int64_t>(result_.values.size());
    const Make make =
        kind >= 1 && kind < static_cast<int64_t>(std::size(kKinds)) ? maker_of(kind) : nullptr;
    STD_TORCH_CHECK(make, "step ", s, " is of kind ", kind, ", which this version does not know");
    const Kind& known = kKinds[kind];
    STD_TORCH_CHECK(out >= result_.inputs && out < values && written_by_[out] == -1, "step ", s,
                    " (", known.name, ") writes value ", out,
                    ", which must be one that is no input and written once");
    STD_TORCH_CHECK(static_cast<int64_t>(attributes.size()) == known.attributes, "step ", s, " (",
                    known.name, ") must have ", known.attributes, " attributes, got ",
                    attributes.size());
    check_inputs(s, kind, inputs, attributes);
    const int64_t wanted = constants_of(kind, attributes);
    STD_TORCH_CHECK(static_cast<int64_t>(constants.size()) == wanted, "step ", s, " (", known.name,
                    ") must have ", wanted, " constants, got ", constants.size());
    Parts parts{kernels_, attributes, {}};
    // Copied, as steps are checked against what no one else can change; a step's at a time, as most
    // steps keep them in an order of their own.
    std::vector<Tensor> copies;
    copies.reserve(constants.size());
    for (const int64_t c : constants) {
      STD_TORCH_CHECK(c >= -1 && c < static_cast<int64_t>(constants_.size()), "step ", s, " (",
                      known.name, ") has constant ", c, " of ", constants_.size());
      if (c != -1) copies.push_back(torch::stable::clone(as_contiguous(constants_[c])));
      parts.constants.push_back(c == -1 ? nullptr : &copies.back());
    }
    std::unique_ptr<Step> step = make(parts);
    STD_TORCH_CHECK(step, "step ", s, ": this library was built without ", known.name);
    written_by_[out] = s;
    result_.calls.push_back({kind, out, inputs, std::move(step)});
  }

  void check_inputs(int64_t s, int64_t kind, const Numbers& inputs, const Numbers& attributes) {
    const Kind& known = kKinds[kind];
    int64_t wanted = known.inputs;
    if (kind == kConv || kind == kLinear) {
      const int64_t residual = attributes[kind == kConv ? 13 : 4];
      STD_TORCH_CHECK(residual == 0 || residual == 1, "step ", s, " (", known.name,
                      ") must have 0 or 1 residuals, got ", residual);
      wanted += residual;
    }
    const int64_t count = static_cast<int64_t>(inputs.size());
    STD_TORCH_CHECK(wanted == -1 ? count >= 1 : count == wanted, "step ", s, " (", known.name,
                    ") must read ", wanted == -1 ? "one value or more" : std::to_string(wanted),
                    ", got ", count);
    for (const int64_t v : inputs)
      STD_TORCH_CHECK(v >= 0 && v < static_cast<int64_t>(result_.values.size()) && there(v),
                      "step ", s, " (", known.name, ") reads value ", v,
                      ", which no step before it has written");
  }

  void check_part(int64_t v) const {
    const Value &part = result_.values[v], &whole = result_.values[part.whole];
    const int64_t writer = written_by_[part.whole];
    const Call* concat = writer == -1 ? nullptr : &result_.calls[writer];
    STD_TORCH_CHECK(concat && concat->kind == kConcat &&
                        std::count(concat->inputs.begin(), concat->inputs.end(), v) == 1,
                    "value ", v, " is a part of value ", part.whole,
                    ", which must be the concatenation of it, once, and others");
    STD_TORCH_CHECK(whole.whole == -1, "value ", v, " is a part of value ", part.whole,
                    ", which is itself a part: that must not be");
    STD_TORCH_CHECK(part.order == whole.order && part.halo == whole.halo, "value ", v,
                    " must have the order and the halo of value ", part.whole,
                    ", of which it is a part");
    STD_TORCH_CHECK(part.order != kChannels || part.first % kLanes == 0, "value ", v,
                    " must begin at a multiple of ", kLanes, " channels, got ", part.first);
  }

  const RowSparseKernels& kernels_;
  Reader reader_;
  const std::vector<Tensor>& constants_;
  Numbers written_by_;  // by which step each value is
  Program result_;
};

}  // namespace

Tensor checked_encoding(const Tensor& program) {
  STD_TORCH_CHECK(program.is_cpu() && program.scalar_type() == ScalarType::Long &&
                      program.dim() == 1 && program.numel() >= kHeader && program.numel() < kMost,
                  "a program must be int64 of ", kHeader, " or more numbers on the CPU");
  return as_contiguous(program);
}

Numbers numbers_of(const Tensor& encoded) {
  const int64_t* first = encoded.const_data_ptr<int64_t>();
  Numbers numbers(first, first + encoded.numel());
  STD_TORCH_CHECK(numbers[0] == kMagic, "this is no program: it begins with other numbers");
  STD_TORCH_CHECK(numbers[1] == kVersion, "the program is of version ", numbers[1],
                  "; this library reads ", kVersion);
  STD_TORCH_CHECK(numbers[kHeader - 1] == static_cast<int64_t>(numbers.size()),
                  "the program says it has ", numbers[kHeader - 1], " numbers, it has ",
                  numbers.size());
  return numbers;
}

Program parse(const RowSparseKernels& kernels, const Numbers& numbers,
              const std::vector<Tensor>& constants) {
  return Parser(kernels, numbers, constants).take();
}

}  // namespace program
}  // namespace sparse_ops
