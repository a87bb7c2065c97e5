// Images that are blocked: the way there and back, and pooling.
#include "blocked.h"

#include <algorithm>
#include <limits>

#include "images.h"
#include "scratch.h"

namespace sparse_ops {

Blocks::Blocks(int64_t blocks, int64_t channels, int64_t height, int64_t width, int64_t halo)
    : blocks(blocks), channels(channels), height(height), width(width), halo(halo), step(0) {
  // Before anything is multiplied: sizes this large could not be.
  const int64_t most = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(
      halo >= 0 && halo < most / 4 && height + 2 * halo < most && width + 2 * halo < most,
      "a halo of ", halo, " is out of range");
  const double values =
      static_cast<double>(channels) * (height + 2.0 * halo) * (width + 2.0 * halo);
  STD_TORCH_CHECK(values * kLanes < most, "a block of images must be under 2^31 values");
  step = size();
}

Blocks::Blocks(const Tensor& t, const char* name, int64_t halo)
    : Blocks(t.dim() == 5 ? t.size(0) : -1, t.dim() == 5 ? t.size(1) : 0,
             t.dim() == 5 ? t.size(2) - 2 * halo : 0, t.dim() == 5 ? t.size(3) - 2 * halo : 0,
             halo) {
  STD_TORCH_CHECK(blocks >= 0 && height >= 1 && width >= 1 && t.size(4) == kLanes, name,
                  " must be (blocks, channels, height, width, ", kLanes,
                  "), and inside its halo of ", halo, " have pixels");
}

Tensor Blocks::empty(const Tensor& like) const {
  return torch::stable::new_empty(like,
                                  {blocks, channels, height + 2 * halo, width + 2 * halo, kLanes});
}

void Blocks::clear(float* inside, int64_t top, int64_t end) const {
  if (halo == 0) return;
  const int64_t side = halo * kLanes;
  if (top == 0) std::fill(inside - halo * line() - side, inside - side, 0.0f);
  for (int64_t l = top; l < end; ++l) {
    float* first = inside + l * line();
    std::fill(first - side, first, 0.0f);
    std::fill(first + width * kLanes, first + width * kLanes + side, 0.0f);
  }
  if (end == height)
    std::fill(inside + height * line() - side, inside + (height + halo) * line() - side, 0.0f);
}

namespace {

// kLanes lines of `length` values as pixels of kLanes images, of which `images` are there.
void interleave_some(const RowSparseKernels& kernels, int64_t images, int64_t length,
                     const float* from, int64_t image_step, float* to, int64_t to_step,
                     float* line) {
  if (images == kLanes) {
    kernels.interleave(length, from, image_step, 1, to, to_step);
    return;
  }
  for (int64_t n = 0; n < images; ++n)
    std::copy_n(from + n * image_step, length, line + n * length);
  std::fill(line + images * length, line + kLanes * length, 0.0f);
  kernels.interleave(length, line, length, 1, to, to_step);
}

void separate_some(const RowSparseKernels& kernels, int64_t images, int64_t length,
                   const float* from, int64_t from_step, float* to, int64_t image_step,
                   float* line) {
  if (images == kLanes) {
    kernels.separate(length, from, from_step, to, image_step);
    return;
  }
  kernels.separate(length, from, from_step, line, length);
  for (int64_t n = 0; n < images; ++n) std::copy_n(line + n * length, length, to + n * image_step);
}

// Calls work(block, first channel, channels, line) for all kLanes channels at a time.
template <class Work>
void for_each_line(const Blocks& blocks, const Work& work) {
  const int64_t groups = (blocks.channels + kLanes - 1) / kLanes;
  const int64_t longest = std::max(blocks.width, kLanes) * kLanes;
  torch::stable::parallel_for(0, blocks.blocks * groups, 1, [&](int64_t i0, int64_t i1) {
    const Scratch<float> line(longest);
    for (int64_t i = i0; i < i1; ++i) {
      const int64_t first = i % groups * kLanes;
      work(i / groups, first, std::min(kLanes, blocks.channels - first), line.get());
    }
  });
}

}  // namespace

Tensor to_blocked(const RowSparseKernels& kernels, const Tensor& x_, int64_t halo) {
  STD_TORCH_CHECK(x_.dim() == 4 && x_.scalar_type() == ScalarType::Float,
                  "x must be (N, C, H, W), float32 on the CPU");
  const Images x(x_, "x");
  const int64_t batch = x_.size(0), H = x_.size(2), W = x_.size(3);
  const Blocks to((batch + kLanes - 1) / kLanes, x_.size(1), H, W, halo);
  const Tensor y = to.empty(x_);
  const Layout in = x.layout();
  const float* from = data(x.tensor);
  float* values = y.mutable_data_ptr<float>();
  for_each_line(to, [&](int64_t b, int64_t first, int64_t channels, float* line) {
    const int64_t images = std::min(kLanes, batch - b * kLanes);
    for (int64_t c = 0; c < channels; ++c) to.clear(values + to.inside(b, first + c), 0, H);
    for (int64_t l = 0; l < H; ++l) {
      const float* source = from + in.of({b * kLanes, first, l * W});
      float* result = values + to.inside(b, first) + l * to.line();
      if (x.channels_last) {
        for (int64_t p = 0; p < W; ++p)
          interleave_some(kernels, images, channels, source + p * in.pixel, in.image,
                          result + p * kLanes, to.plane(), line);
      } else {
        for (int64_t c = 0; c < channels; ++c)
          interleave_some(kernels, images, W, source + c * in.channel, in.image,
                          result + c * to.plane(), kLanes, line);
      }
    }
  });
  return y;
}

Tensor from_blocked(const RowSparseKernels& kernels, const Tensor& x_, int64_t halo, int64_t batch,
                    bool channels_last) {
  const Tensor x = floats(x_, "x");
  const Blocks from(x, "x", halo);
  const int64_t C = from.channels, H = from.height, W = from.width;
  STD_TORCH_CHECK(batch >= 0 && (batch + kLanes - 1) / kLanes == from.blocks, "x has ", from.blocks,
                  " blocks, not those of ", batch, " images");
  Tensor y = channels_last ? torch::stable::new_empty(x, {batch, H, W, C})
                           : torch::stable::new_empty(x, {batch, C, H, W});
  const Layout out = channels_last ? Layout{H * W * C, 1, C} : Layout{C * H * W, H * W, 1};
  const float* values = data(x);
  float* to = y.mutable_data_ptr<float>();
  for_each_line(from, [&](int64_t b, int64_t first, int64_t channels, float* line) {
    const int64_t images = std::min(kLanes, batch - b * kLanes);
    for (int64_t l = 0; l < H; ++l) {
      float* result = to + out.of({b * kLanes, first, l * W});
      const float* source = values + from.inside(b, first) + l * from.line();
      if (channels_last) {
        for (int64_t p = 0; p < W; ++p)
          separate_some(kernels, images, channels, source + p * kLanes, from.plane(),
                        result + p * out.pixel, out.image, line);
      } else {
        for (int64_t c = 0; c < channels; ++c)
          separate_some(kernels, images, W, source + c * from.plane(), kLanes,
                        result + c * out.channel, out.image, line);
      }
    }
  });
  return channels_last ? torch::stable::transpose(torch::stable::transpose(y, 2, 3), 1, 2) : y;
}

Tensor blocked_pool2d(const RowSparseKernels& kernels, const Tensor& x_, bool most,
                      const Numbers& kernel, const Numbers& stride, const Numbers& padding,
                      int64_t halo, int64_t out_halo) {
  const Tensor x = floats(x_, "x");
  const Blocks from(x, "x", halo);
  STD_TORCH_CHECK(kernel.size() == 2 && stride.size() == 2 && padding.size() == 2,
                  "pooling has 2 kernel sizes, strides and paddings");
  PoolWork work = {};
  work.most = most;
  work.size[0] = from.height;
  work.size[1] = from.width;
  int64_t size[2];
  for (int i = 0; i < 2; ++i) {
    // Every window has a pixel inside.
    STD_TORCH_CHECK(kernel[i] >= 1 && kernel[i] <= std::numeric_limits<int32_t>::max() &&
                        stride[i] >= 1 && padding[i] >= 0 && 2 * padding[i] <= kernel[i] &&
                        (most || padding[i] == 0),
                    "pooling of size ", kernel[i], ", stride ", stride[i], ", padding ", padding[i],
                    " is out of range");
    const int64_t room = work.size[i] + 2 * padding[i] - kernel[i];
    STD_TORCH_CHECK(room >= 0, "x is too small for windows of ", kernel[i]);
    work.kernel[i] = kernel[i];
    work.stride[i] = stride[i];
    work.padding[i] = padding[i];
    size[i] = room / stride[i] + 1;
  }
  const Blocks to(from.blocks, from.channels, size[0], size[1], out_halo);
  const Tensor y = to.empty(x);
  work.lines = size[0];
  work.width = size[1];
  work.from_step = from.line();
  work.to_step = to.line();
  const float* source = data(x);
  float* result = y.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, from.blocks * from.channels, 1, [&](int64_t i0, int64_t i1) {
    for (int64_t i = i0; i < i1; ++i) {
      PoolWork plane = work;
      plane.from = source + from.inside(0, 0) + i * from.plane();
      plane.to = result + to.inside(0, 0) + i * to.plane();
      kernels.pool(plane);
      to.clear(plane.to, 0, to.height);
    }
  });
  return y;
}

}  // namespace sparse_ops
