#include "conv_code.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <type_traits>

namespace sparse_ops {
namespace {

// As many products of a sum as elsewhere come one after the other: vector_body.h.
constexpr int64_t kPiece = 256;
// Up to how many reads a weight: benchmarks/NOTES.md.
constexpr double kMostReads = 0.8;
constexpr int64_t kFar = std::numeric_limits<int32_t>::max() / 8;

// Filters in as few parts as it takes, of equal size or nearly.
std::vector<int64_t> bounds(int64_t filters) {
  const int64_t parts = std::max<int64_t>(1, (filters + ConvCode::kMost - 1) / ConvCode::kMost);
  std::vector<int64_t> found;
  for (int64_t p = 0; p <= parts; ++p) found.push_back(filters * p / parts);
  return found;
}

// A weight, in the order that code multiplies: by columns, then filters.
struct Use {
  int32_t column, filter;
  int64_t weight;
};

int64_t columns_of(const SparseFilters& filters) {
  return filters.columns.empty()
             ? 0
             : *std::max_element(filters.columns.begin(), filters.columns.end()) + 1;
}

// Of filters [first, end) and columns from `least` up to `limit`, by counting.
std::vector<Use> uses(const SparseFilters& filters, int64_t first, int64_t end, int32_t least,
                      int32_t limit) {
  const auto range = [&](int64_t f) {
    const auto begin = filters.columns.begin(), own = begin + filters.starts[f];
    const auto own_end = begin + filters.starts[f + 1];
    return std::make_pair(std::lower_bound(own, own_end, least) - begin,
                          std::lower_bound(own, own_end, limit) - begin);
  };
  std::vector<int64_t> next(limit - least + 1);
  for (int64_t f = first; f < end; ++f)
    for (auto [j, last] = range(f); j < last; ++j) ++next[filters.columns[j] - least + 1];
  std::partial_sum(next.begin(), next.end(), next.begin());
  std::vector<Use> found(next.back());
  for (int64_t f = first; f < end; ++f)
    for (auto [j, last] = range(f); j < last; ++j)
      found[next[filters.columns[j] - least]++] = {filters.columns[j],
                                                   static_cast<int32_t>(f - first), j};
  return found;
}

// Which of the parts of the columns a function is for, and what the last one does beside.
struct Ends {
  bool first, last, residual;
  Activation activation;
};

// The function of some filters: a sum in the register of its filter's number.
class Writer {
 public:
  using A = Assembler;

  Writer(const CodePlanes& planes, Assembler& to, std::vector<float>& table)
      : planes_(planes), to_(to), table_(table), table_start_(static_cast<int64_t>(table.size())) {}

  // Where the function starts. The table gets the biases, a six, and the weights in the order of
  // their use.
  size_t write(const std::vector<Use>& uses, const SparseFilters& filters, int64_t first,
               int64_t count, const float* bias, const Ends& ends) {
    count_ = static_cast<int>(count);
    made_.assign(count, 0);
    aside_.assign(count, false);
    table_.insert(table_.end(), bias + first, bias + first + count);
    table_.push_back(6.0f);
    const size_t start = to_.begin(), again = to_.label();
    for (int f = 0; f < count_; ++f) to_.zero(f);
    for (size_t i = 0, end; i < uses.size(); i = end) {
      bool full = false;
      for (end = i; end < uses.size() && uses[end].column == uses[i].column; ++end)
        full |= made_[uses[end].filter] == kPiece;
      if (full) set_aside();
      to_.load(kX, in_x(planes_.offsets[uses[i].weight]));
      for (size_t j = i; j < end; ++j) {
        to_.multiply_add(uses[j].filter, kX, next_in_table());
        table_.push_back(filters.values[uses[j].weight]);
        ++made_[uses[j].filter];
      }
    }
    finish(ends);
    to_.move(A::kRDI, planes_.pixel_step * kFloatBytes - x_moved_);
    to_.move(A::kRSI, kLanes * kFloatBytes);
    if (ends.residual) to_.move(A::kRCX, kLanes * kFloatBytes);
    to_.move(A::kRDX, -table_moved_);
    to_.repeat(A::kR9, again);
    to_.end();
    return start;
  }

 private:
  static constexpr int64_t kFloatBytes = sizeof(float);
  static constexpr int kX = 31, kZero = 31, kSix = 30;

  // Pointers go along with what is read, so that one byte says where.
  A::Place next_in_table() {
    int64_t at = (static_cast<int64_t>(table_.size()) - table_start_) * kFloatBytes - table_moved_;
    if (at > A::kFloatReach) {
      to_.move(A::kRDX, at + A::kFloatReach);
      table_moved_ += at + A::kFloatReach;
      at = -A::kFloatReach;
    }
    return {A::kRDX, at};
  }
  A::Place in_x(int64_t offset) {
    int64_t at = offset * kFloatBytes - x_moved_;
    if (at > A::kVectorReach) {
      to_.move(A::kRDI, at + A::kVectorReach);
      x_moved_ += at + A::kVectorReach;
      at = -A::kVectorReach;
    }
    return {A::kRDI, at};
  }
  A::Place in_table(int64_t i) const { return {A::kRDX, i * kFloatBytes - table_moved_}; }
  A::Place of_sum(int f) const { return {A::kR8, f * kLanes * kFloatBytes}; }

  // Sums that have become long go to memory, and begin again.
  void set_aside() {
    for (int f = 0; f < count_; ++f) {
      if (made_[f] == 0) continue;
      if (aside_[f]) to_.add(f, of_sum(f));
      to_.store(f, of_sum(f));
      to_.zero(f);
      aside_[f] = true;
      made_[f] = 0;
    }
  }

  void finish(const Ends& ends) {
    const ActivationKind kind = ends.last ? ends.activation.kind : kNone;
    if (kind != kNone) to_.zero(kZero);
    if (kind == kReLU6) to_.splat(kSix, in_table(count_));
    for (int f = 0; f < count_; ++f) {
      const A::Place out{A::kRSI, f * planes_.out * kFloatBytes};
      if (aside_[f]) to_.add(f, of_sum(f));
      if (!ends.first) to_.add(f, out);
      if (ends.last && ends.residual)
        to_.add(f, A::Place{A::kRCX, f * planes_.added * kFloatBytes});
      if (ends.last) to_.add_splat(f, in_table(f));
      if (kind != kNone) to_.largest(f, kZero);
      if (kind == kReLU6) to_.smallest(f, kSix);
      to_.store(f, out);
    }
  }

  const CodePlanes& planes_;
  Assembler& to_;
  std::vector<float>& table_;
  const int64_t table_start_;
  int count_ = 0;
  int64_t x_moved_ = 0, table_moved_ = 0;
  std::vector<int64_t> made_;  // by filter: products in its register
  std::vector<bool> aside_;    // and whether there are some in memory
};

}  // namespace

double ConvCode::reads(const SparseFilters& filters) {
  const std::vector<int64_t> bound = bounds(filters.count());
  // By column: the part that read it last.
  std::vector<int64_t> last(columns_of(filters), -1);
  int64_t read = 0;
  for (int64_t p = 0; p + 1 < static_cast<int64_t>(bound.size()); ++p)
    for (int64_t j = filters.starts[bound[p]]; j < filters.starts[bound[p + 1]]; ++j) {
      read += last[filters.columns[j]] != p;
      last[filters.columns[j]] = p;
    }
  return filters.columns.empty()
             ? 1.0
             : static_cast<double>(read) / static_cast<double>(filters.columns.size());
}

bool ConvCode::pays(const SparseFilters& filters) { return reads(filters) <= kMostReads; }

std::unique_ptr<const ConvCode> ConvCode::of(const SparseFilters& filters, const CodePlanes& planes,
                                             const std::vector<int32_t>& limits, bool residual,
                                             const float* bias, Activation activation) {
  if (!takes(activation) || filters.count() == 0) return nullptr;
  const int64_t weights = static_cast<int64_t>(filters.columns.size());
  const int64_t far = weights ? *std::max_element(planes.offsets, planes.offsets + weights) : 0;
  const int64_t apart = std::max(planes.out, residual ? planes.added : 0);
  if (weights > kFar || far > kFar || apart > kFar / kMost) return nullptr;
  std::unique_ptr<ConvCode> made(new ConvCode);
  Assembler assembler;
  const std::vector<int64_t> bound = bounds(filters.count());
  std::vector<size_t> starts, tables;
  for (size_t s = 0; s < limits.size(); ++s)
    for (size_t p = 0; p + 1 < bound.size(); ++p) {
      const Ends ends{s == 0, s + 1 == limits.size(), residual, activation};
      tables.push_back(made->tables_.size());
      Writer writer(planes, assembler, made->tables_);
      starts.push_back(
          writer.write(uses(filters, bound[p], bound[p + 1], s == 0 ? 0 : limits[s - 1], limits[s]),
                       filters, bound[p], bound[p + 1] - bound[p], bias, ends));
    }
  made->code_ = Executable::of(assembler.code());
  if (!made->code_) return nullptr;
  made->bytes_ =
      static_cast<int64_t>(assembler.code().size() + made->tables_.size() * sizeof(float));
  for (size_t p = 0; p + 1 < bound.size(); ++p) {
    // Reads count as weights do, the ends of filters as some.
    const int64_t own = filters.starts[bound[p + 1]] - filters.starts[bound[p]];
    made->cost_.push_back(made->cost_.back() + own + 8 * (bound[p + 1] - bound[p]));
  }
  using Function = std::remove_pointer_t<decltype(Part::run)>;
  for (size_t i = 0; i < starts.size(); ++i) {
    const size_t p = i % (bound.size() - 1);
    made->parts_.push_back({bound[p], bound[p + 1], made->code_->at<Function>(starts[i]),
                            made->tables_.data() + tables[i]});
  }
  return made;
}

}  // namespace sparse_ops
