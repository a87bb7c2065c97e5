// Convolutions of blocked images whose filters each keep weights of their own, as machine code
// (AVX-512): a function for some filters that reads a column of x once for all of them that keep
// it, their sums in registers. Which register a weight is added to stands in the code; so there is
// no loop over weights, and nothing but what is kept.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "machine_code.h"
#include "row_sparse.h"

namespace sparse_ops {

// Filters, each with its weights in ascending order of columns.
struct SparseFilters {
  std::vector<int64_t> starts{0};  // filters + 1
  std::vector<int32_t> columns;
  std::vector<float> values;

  int64_t count() const { return static_cast<int64_t>(starts.size()) - 1; }
};

// Where a filter's pixels are: steps in floats.
struct CodePlanes {
  const int32_t* offsets;  // by weight: of what it is multiplied by, from what a pixel reads first
  int64_t pixel_step;      // from one pixel to the next in x
  int64_t out, added;      // from one filter to the next in the output and in what is added
};

class ConvCode {
 public:
  // How many filters there are in a function, so that sums and three more fit the registers.
  static constexpr int64_t kMost = 28;
  // How many columns are read from x, for each weight.
  static double reads(const SparseFilters& filters);
  // Whether code is faster than a loop over each filter's weights.
  static bool pays(const SparseFilters& filters);
  // Which activations it can have.
  static bool takes(Activation activation) {
    return activation.kind == kNone || activation.kind == kReLU || activation.kind == kReLU6;
  }

  // Null where code cannot be run, or something is too far from something else. bias: by filter.
  // `limits`: up to which columns each part of them goes, the last beyond all. Sums go to the output
  // and back between parts, and all filters read one part before another.
  static std::unique_ptr<const ConvCode> of(const SparseFilters& filters, const CodePlanes& planes,
                                            const std::vector<int32_t>& limits, bool residual,
                                            const float* bias, Activation activation);

  // Filters [first, end) over `pixels` pixels of a line, kLanes images each. `from` is what the
  // first of them reads first, `out` and `added` the first filter's.
  struct Part {
    int64_t first, end;
    void (*run)(const float* from, float* out, const float* table, const float* added, float* sums,
                int64_t pixels);
    const float* table;
  };
  // By part of the columns, then of the filters.
  const std::vector<Part>& parts() const { return parts_; }
  // By part of the filters: about that of those before, and of all.
  const std::vector<int64_t>& cost() const { return cost_; }
  // Floats on a cache line that a function may write to.
  static constexpr int64_t kSums = kMost * kLanes;

  // Of code and tables.
  int64_t bytes() const { return bytes_; }

 private:
  std::vector<Part> parts_;
  std::vector<int64_t> cost_{0};
  std::vector<float> tables_;
  std::unique_ptr<const Executable> code_;
  int64_t bytes_ = 0;
};

}  // namespace sparse_ops
