// A converted network as data, and what runs it: a flat list of steps over values.
//
// sparse_ops/ops/_program_code.py defines the encoding. Every step reads values that earlier steps
// wrote and writes one. A program is parsed and checked once; for each size of its inputs the
// shapes of all values follow, and with them their places in an arena, the offsets that kernels
// read by, and scratch memory.
#pragma once
#include <memory>
#include <vector>

#include "../cpu/tensors.h"

namespace sparse_ops {
namespace program {

// How a value lies in memory; H and W are the image's inside a halo of zeros, as wide on all sides.
enum Order : int64_t {
  kPlanar = 0,    // (N, C, H, W), without a halo; a value of two dimensions is (N, C)
  kChannels = 1,  // (N, ceil(C / 16), H, W, 16): 16 channels innermost
  kImages = 2,    // (ceil(N / 16), C, H, W, 16): 16 images innermost, as in cpu/blocked.h
};

// The size of a value; of two dimensions, h and w are 1.
struct Shape {
  int64_t rank, n, c, h, w;
};

// What is known of a value beside its memory.
struct Spec {
  Shape shape;
  Order order;
  int64_t halo;

  int64_t lanes() const { return order == kPlanar ? 1 : kLanes; }
  // How many blocks of images, and how many planes each has.
  int64_t blocks() const { return order == kImages ? (shape.n + kLanes - 1) / kLanes : shape.n; }
  int64_t planes() const { return order == kChannels ? (shape.c + kLanes - 1) / kLanes : shape.c; }
  int64_t line() const { return (shape.w + 2 * halo) * lanes(); }
  int64_t plane() const { return (shape.h + 2 * halo) * line(); }
  int64_t block() const { return planes() * plane(); }
  int64_t size() const { return blocks() * block(); }
};

// A value in memory. Lanes that stand for no channel or no image hold anything: no step may let
// them change what others hold.
struct View {
  Spec spec;
  float* data;  // the first value of the first block, halo included
  int64_t
      block_step;  // from a block to the next: more than spec.block() in a part of a larger value

  // The first value inside the halo.
  float* inside(int64_t block, int64_t plane) const {
    return data + block * block_step + plane * spec.plane() +
           spec.halo * (spec.line() + spec.lanes());
  }
};

// A step for values of one size; it may be run by several threads at once, each with its own views.
class Ready {
 public:
  virtual ~Ready() = default;
  // How many floats, on a cache line, `run` may use beside its values.
  virtual int64_t scratch() const { return 0; }
  // How many bytes of machine code, and what stands beside it, were made.
  virtual int64_t code() const { return 0; }
  // Writes all of `out`, its halo, as zeros, included. `in` are the step's inputs in order.
  // Parallel
  // inside. The result does not depend on the number of threads.
  virtual void run(const View* in, const View& out, float* scratch) const = 0;
};

// A step of any size, its attributes and constants checked. Everything raises with words
// (STD_TORCH_CHECK).
class Step {
 public:
  virtual ~Step() = default;
  // The size of what it writes. Checks the inputs' sizes.
  virtual Shape infer(const std::vector<Shape>& in) const = 0;
  // Checks orders and halos. `out` has the inferred shape.
  virtual std::unique_ptr<Ready> ready(const std::vector<Spec>& in, const Spec& out) const = 0;
};

// What a step is made of. Constants are checked against nothing yet: null where one is left out.
struct Parts {
  const RowSparseKernels& kernels;
  std::vector<int64_t> attributes;
  std::vector<const Tensor*> constants;
};
using Make = std::unique_ptr<Step> (*)(const Parts& parts);

// By the numbers of program.py's KINDS; null for a number that is none. Each is in the file of its
// name.
Make maker_of(int64_t kind);
std::unique_ptr<Step> make_convert(const Parts& parts);
std::unique_ptr<Step> make_conv(const Parts& parts);
std::unique_ptr<Step> make_linear(const Parts& parts);
std::unique_ptr<Step> make_pool(const Parts& parts);
std::unique_ptr<Step> make_adaptive_pool(const Parts& parts);
std::unique_ptr<Step> make_unary(const Parts& parts);
std::unique_ptr<Step> make_binary(const Parts& parts);
std::unique_ptr<Step> make_concat(const Parts& parts);
std::unique_ptr<Step> make_flatten(const Parts& parts);
std::unique_ptr<Step> make_upsample(const Parts& parts);
std::unique_ptr<Step> make_softmax(const Parts& parts);
std::unique_ptr<Step> make_affine(const Parts& parts);
std::unique_ptr<Step> make_prelu(const Parts& parts);
std::unique_ptr<Step> make_interleave(const Parts& parts);
std::unique_ptr<Step> make_slice(const Parts& parts);
std::unique_ptr<Step> make_shuffle(const Parts& parts);
std::unique_ptr<Step> make_pad(const Parts& parts);

}  // namespace program
}  // namespace sparse_ops
