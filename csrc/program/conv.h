// What the ways to run a convolution as a step of a program have in common.
//
//   conv.cpp           attributes and constants, checked; which way it is run
//   conv_channels.cpp  dense, from CHANNELS or PLANAR to CHANNELS
//   depthwise.cpp      each channel with itself, CHANNELS
//   conv_images.cpp    sparse or dense, IMAGES
//   conv_winograd.cpp  dense 3x3, IMAGES and CHANNELS
//   conv_rows.cpp      sparse or dense, PLANAR
#pragma once
#include <cstdlib>
#include <limits>
#include <map>
#include <mutex>
#include <new>

#include "../cpu/tiles.h"
#include "program.h"

namespace sparse_ops {
namespace program {

enum Form : int64_t { kRows = 0, kDense = 1 };

// Which of the ways there are: by the numbers of program.py's KERNELS.
enum Way : int64_t { kAuto = 0, kOfPixels = 1, kOfFilters = 2, kTilesOfFour = 3 };

// Floats of its own on a cache line, which begin as zeros.
class Memory {
 public:
  explicit Memory(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(float) + 127) / 64 * 64;
    data_ = static_cast<float*>(std::aligned_alloc(64, bytes));
    if (!data_) throw std::bad_alloc();
    for (size_t i = 0; i < bytes / sizeof(float); ++i) data_[i] = 0.0f;
  }
  ~Memory() { std::free(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  float* get() const { return data_; }

 private:
  float* data_;
};

// A weight as it was given: the indices copied and checked.
struct Weights {
  Form form;
  // ROWS: columns by class.
  std::vector<int32_t> crow, col;
  // ROWS: filter by filter, or none; DENSE: all of them.
  std::optional<Tensor> values;
  std::optional<Tensor> bias;

  // filters rows of `columns` columns; constants from `at` on.
  Weights(const Parts& parts, Form form, int64_t filters, int64_t columns, bool classes);
  int64_t classes() const { return static_cast<int64_t>(crow.size()) - 1; }
};

// A number of _program_code.py: PReLU as an activation, whose one slope is a step's last constant.
constexpr int64_t kFusedPReLU = 23;
// The activation of a convolution or linear layer that has this number.
Activation activation_of(const Parts& parts, int64_t number);

// A convolution of images of any size.
struct Layer {
  const RowSparseKernels& kernels;
  Form form;
  int64_t filters, channels;
  int64_t kernel[2], stride[2], padding[2], dilation[2];
  int64_t groups;
  Activation activation;
  bool residual;
  Way way;

  explicit Layer(const Parts& parts);
  int64_t taps() const { return kernel[0] * kernel[1]; }
  int64_t group_channels() const { return channels / groups; }
  int64_t group_filters() const { return filters / groups; }
  int64_t columns() const { return group_channels() * taps(); }
  bool depthwise() const { return groups > 1 && groups == channels && groups == filters; }
  // Lines (d = 0) or pixels of a line (d = 1) of the output.
  int64_t out(int64_t size, int d) const {
    return (size + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) / stride[d] + 1;
  }
};

// Units of kLanes filters, filters innermost: unit u, column j, filter i at u * step + j * kLanes +
// i. Columns are in order of blocks of kLanes channels, taps, and channels of a block. Filters that
// fill up a unit are zeros.
struct TurnedWeights {
  int64_t units, step;
  Memory values, bias;

  TurnedWeights(const Layer& layer, const Weights& weights);
};

// What Winograd's F(side x side, 3x3) makes of a dense weight: for CHANNELS in units of kLanes
// filters, for IMAGES in groups.
struct WinogradWeights {
  int64_t units;
  std::vector<int64_t> first;  // by group: its first filter
  std::vector<int> rows;       // and how many it has
  Memory values, bias;

  // `turned` is where weights are that are no longer as they were given.
  WinogradWeights(const Layer& layer, const Weights& weights, const TurnedWeights* turned,
                  Order order, int64_t side);
};

// A weight, and what was made of it for images of any size.
class Shared {
 public:
  Shared(const Layer& layer, Weights given) : layer(layer), weights(std::move(given)) {}
  // For CHANNELS: the values as they were given are not kept beside.
  std::shared_ptr<const TurnedWeights> turned() const;
  // Of an order, which a step has for all sizes.
  std::shared_ptr<const WinogradWeights> winograd(Order order, int64_t side) const;

  const Layer layer;
  mutable Weights weights;

 private:
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const TurnedWeights> turned_;
  mutable std::map<int64_t, std::shared_ptr<const WinogradWeights>> winograd_;  // by side
};

// For a value's `in` and `out`, whose sizes fit; `added` is the residual, or null.
using Whole = std::shared_ptr<const Shared>;
std::unique_ptr<Ready> ready_channels(const Whole& conv, const Spec& in, const Spec& out,
                                      const Spec* added);
std::unique_ptr<Ready> ready_planar_to_channels(const Whole& conv, const Spec& in, const Spec& out,
                                                const Spec* added);
std::unique_ptr<Ready> ready_depthwise(const Whole& conv, const Spec& in, const Spec& out,
                                       const Spec* added);
std::unique_ptr<Ready> ready_images(const Whole& conv, const Spec& in, const Spec& out,
                                    const Spec* added);
// Its tiles' side, 2 or 4; 0: it is not to be used.
int64_t winograd_side(const Layer& layer, const Spec& out);
std::unique_ptr<Ready> ready_winograd(const Whole& conv, const Spec& in, const Spec& out,
                                      int64_t side);
std::unique_ptr<Ready> ready_rows(const Whole& conv, const Spec& in, const Spec& out,
                                  const Spec* added);

// Zeros above or beneath the lines [top, end) of a plane, if they are its ends, and beside each.
void clear_around(const Spec& spec, float* inside, int64_t top, int64_t end);

// About how many multiply-accumulates are worth a thread.
constexpr int64_t kGrain = 1 << 19;
// How many of `items` that take `work` multiply-accumulates in all.
inline int64_t grain_of(int64_t items, int64_t work) {
  const int64_t each = std::max<int64_t>(1, work / std::max<int64_t>(1, items));
  return std::max<int64_t>(1, kGrain / each);
}

}  // namespace program
}  // namespace sparse_ops
