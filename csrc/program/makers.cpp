// Who makes which kind of step.
#include "program.h"

namespace sparse_ops {
namespace program {

Make maker_of(int64_t kind) {
  // In the order of program.py's KINDS, whose numbers begin at 1.
  static constexpr Make kMakers[] = {
      make_convert, make_conv,    make_linear,  make_pool,     make_adaptive_pool, make_unary,
      make_binary,  make_concat,  make_flatten, make_upsample, make_softmax,       make_affine,
      make_slice,   make_shuffle, make_pad,     make_prelu,    make_interleave,
  };
  return kind >= 1 && kind <= static_cast<int64_t>(sizeof kMakers / sizeof *kMakers)
             ? kMakers[kind - 1]
             : nullptr;
}

}  // namespace program
}  // namespace sparse_ops
