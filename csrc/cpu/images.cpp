#include "images.h"

#include <algorithm>

namespace sparse_ops {
namespace {

constexpr const char* kNames[] = {"float32", "float16", "bfloat16"};
constexpr ScalarType kTypes[] = {ScalarType::Float, ScalarType::Half, ScalarType::BFloat16};

std::optional<Element> element_of(const Tensor& t) {
  for (const Element e : {kFloat, kHalf, kBFloat})
    if (t.scalar_type() == kTypes[e]) return e;
  return std::nullopt;
}

bool stored_last(const Tensor& t) {
  if (t.dim() != 4 || t.is_contiguous()) return false;
  int64_t expected = 1;
  for (const int d : {1, 3, 2, 0}) {
    if (t.size(d) == 1) continue;
    if (t.stride(d) != expected) return false;
    expected *= t.size(d);
  }
  return true;
}

// (N, H, W, C) seen as (N, C, H, W), and the other way round.
Tensor from_last(const Tensor& t) {
  return torch::stable::transpose(torch::stable::transpose(t, 2, 3), 1, 2);
}
Tensor to_last(const Tensor& t) {
  return torch::stable::transpose(torch::stable::transpose(t, 1, 2), 2, 3);
}

Layout layout_of(int64_t channels, int64_t pixels, bool channels_last) {
  return channels_last ? Layout{channels * pixels, 1, channels}
                       : Layout{channels * pixels, pixels, 1};
}

// The layout of a tensor to write to: images do not overlap, and in them planes of pixels follow
// each other, or pixels are the same distance apart, with the channels of each next to each other.
Layout writable(const Tensor& t, const Size& size) {
  const int64_t N = size[0], O = size[1], H = size[2], W = size[3], pixels = H * W;
  Layout found = layout_of(O, pixels, false);
  if (pixels > 1) found.pixel = W > 1 ? t.stride(3) : t.stride(2);
  const bool last = found.pixel != 1;
  if (last) found.channel = 1;
  const int64_t image = last ? (pixels - 1) * found.pixel + O : O * pixels;
  bool good = found.pixel >= (last ? O : 1);
  good = good && (O == 1 || t.stride(1) == found.channel);
  good = good && (H == 1 || t.stride(2) == W * found.pixel);
  found.image = N > 1 ? t.stride(0) : image;
  STD_TORCH_CHECK(
      good && found.image >= image,
      "out must have whole planes of pixels, or the channels of each pixel next to each "
      "other, and one image after the other; its strides are (",
      t.stride(0), ", ", t.stride(1), ", ", t.stride(2), ", ", t.stride(3), ")");
  return found;
}

// How many values lie between the first of a tensor and its last, both included.
int64_t span(const Layout& layout, const Size& size) {
  return (size[0] - 1) * layout.image + (size[1] - 1) * layout.channel +
         (size[2] * size[3] - 1) * layout.pixel + 1;
}

bool has_size(const Tensor& t, const Size& size) {
  bool same = t.dim() == 4;
  for (int d = 0; same && d < 4; ++d) same = t.size(d) == size[d];
  return same;
}

}  // namespace

Images::Images(const Tensor& t, const char* name, std::optional<Element> like)
    : tensor(t), type(kFloat), channels_last(stored_last(t)) {
  const std::optional<Element> found = element_of(t);
  STD_TORCH_CHECK(t.is_cpu() && found && found == like.value_or(*found), name, " must be ",
                  like ? kNames[*like] : "float32, float16 or bfloat16", " on the CPU");
  type = *found;
  if (!channels_last) tensor = as_contiguous(t);
}

void Images::turn(bool last) {
  if (last && !channels_last) tensor = from_last(as_contiguous(to_last(tensor)));
  if (!last && channels_last) tensor = as_contiguous(tensor);
  channels_last = last;
}

Layout Images::layout() const {
  return layout_of(tensor.size(1), tensor.size(2) * tensor.size(3), channels_last);
}

Output::Output(const Images& x, const Size& size, const std::optional<Tensor>& added,
               const std::optional<Tensor>& out)
    : y(x.tensor), layout(layout_of(size[1], size[2] * size[3], x.channels_last)), type_(x.type) {
  if (added) {
    STD_TORCH_CHECK(has_size(*added, size), "residual must be (", size[0], ", ", size[1], ", ",
                    size[2], ", ", size[3], ")");
    residual = Images(*added, "residual", x.type);
  }
  if (out) {
    take(*out, size);
  } else if (x.channels_last) {
    y = from_last(torch::stable::new_empty(x.tensor, {size[0], size[2], size[3], size[1]}));
  } else {
    y = torch::stable::new_empty(x.tensor, {size[0], size[1], size[2], size[3]});
  }
  if (residual) residual->turn(layout.pixel != 1);
  if (!out || size[0] == 0) return;
  written_ = span(layout, size) * (x.type == kFloat ? 4 : 2);
  apart_from(x.tensor, "x");
  if (residual) apart_from(residual->tensor, "residual");
}

void Output::apart_from(const std::optional<Tensor>& read, const char* name) const {
  if (!read || written_ == 0) return;
  const auto* first = static_cast<const char*>(y.const_data_ptr());
  const auto* other = static_cast<const char*>(read->const_data_ptr());
  const int64_t bytes = read->numel() * static_cast<int64_t>(read->element_size());
  STD_TORCH_CHECK(bytes == 0 || other + bytes <= first || first + written_ <= other,
                  "out must not share memory with ", name);
}

void Output::take(const Tensor& out, const Size& size) {
  STD_TORCH_CHECK(has_size(out, size), "out must be (", size[0], ", ", size[1], ", ", size[2], ", ",
                  size[3], ")");
  STD_TORCH_CHECK(out.is_cpu() && element_of(out) == type_, "out must be ", kNames[type_],
                  " on the CPU");
  y = out;
  if (size[0] == 0) return;
  layout = writable(out, size);
  int64_t stored = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(out.get(), &stored));
  const int64_t needed = (out.storage_offset() + span(layout, size)) * (type_ == kFloat ? 4 : 2);
  STD_TORCH_CHECK(needed <= stored, "out needs ", needed, " bytes of its storage, which has ",
                  stored);
}

Tensor widened(const RowSparseKernels& kernels, const Tensor& t, const char* name, Element type) {
  const std::optional<Element> found = element_of(t);
  if (type == kFloat || found == kFloat) return floats(t, name);
  STD_TORCH_CHECK(t.is_cpu() && found == type, name, " must be float32 or ", kNames[type],
                  " on the CPU");
  const Tensor narrow = as_contiguous(t);
  const Tensor wide = torch::stable::new_empty(narrow, narrow.sizes(), ScalarType::Float);
  const Source from{static_cast<const char*>(narrow.const_data_ptr()), type};
  float* to = wide.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, narrow.numel(), 1 << 16, [&](int64_t i0, int64_t i1) {
    kernels.ends[type].copy(1, i1 - i0, (from + i0).at, 0, to + i0, 0, 0);
  });
  return wide;
}

std::optional<Tensor> widened(const RowSparseKernels& kernels, const std::optional<Tensor>& t,
                              const char* name, Element type, int64_t length) {
  if (!t) return std::nullopt;
  STD_TORCH_CHECK(t->numel() == length, name, " must have ", length, " values, got ", t->numel());
  return widened(kernels, *t, name, type);
}

}  // namespace sparse_ops
