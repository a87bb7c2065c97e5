// kernels/cuda/periodic_conv2d.cuh in one configuration, for both types: compiled once for each of
// kernels/configs.py's AHEAD, whose numbers are given as AHEAD_0 to AHEAD_5.
#include "ahead.h"
#include "periodic_conv2d.cuh"

#define AHEAD AHEAD_0, AHEAD_1, AHEAD_2, AHEAD_3, AHEAD_4, AHEAD_5

namespace {

template <bool BF16, int EIGHTS, int GROUPS, int PIXEL_WARPS, int FILTER_WARPS, int CHUNK, int BLOCKS>
__global__ void __launch_bounds__(32 * PIXEL_WARPS * FILTER_WARPS, BLOCKS)
    periodic_conv2d_ahead(const sparse_ops::Problem problem) {
  // Before sm_80 there is no bfloat16, nor room for 64 filters a warp: such are not asked for there.
#if __CUDA_ARCH__ < 800
  if constexpr (!BF16 && EIGHTS * GROUPS <= 4)
#endif
    sparse_ops::run<BF16, EIGHTS, GROUPS, PIXEL_WARPS, FILTER_WARPS, CHUNK>(problem);
}

const sparse_ops::Ahead fp16({AHEAD, 0},
                             (const void*)periodic_conv2d_ahead<false, AHEAD>);
const sparse_ops::Ahead bf16({AHEAD, 1},
                             (const void*)periodic_conv2d_ahead<true, AHEAD>);

}  // namespace
