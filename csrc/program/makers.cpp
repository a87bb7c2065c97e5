// Which kind of step is made by what.
#include "program.h"

namespace sparse_ops {
namespace program {

Make maker_of(int64_t kind) {
  switch (kind) {
    case 4:
      return make_pool;
    case 5:
      return make_adaptive_pool;
    case 6:
      return make_unary;
    case 7:
      return make_binary;
    case 8:
      return make_concat;
    case 10:
      return make_upsample;
    case 11:
      return make_softmax;
    case 12:
      return make_affine;
    case 13:
      return make_slice;
    case 14:
      return make_shuffle;
    case 15:
      return make_pad;
    default:
      return nullptr;
  }
}

}  // namespace program
}  // namespace sparse_ops
