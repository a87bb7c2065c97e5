// What the steps share: sizes in words, zeros around images, and work dealt out to threads.
#pragma once
#include <algorithm>
#include <cstring>
#include <limits>
#include <sstream>
#include <string>

#include "../cpu/steps.h"
#include "program.h"

namespace sparse_ops {
namespace program {

inline std::string in_words(const Shape& s) {
  std::ostringstream words;
  words << "(" << s.n << ", " << s.c;
  if (s.rank == 4) words << ", " << s.h << ", " << s.w;
  words << ")";
  return words.str();
}

inline const char* in_words(Order order) {
  return order == kPlanar ? "planar" : order == kChannels ? "channels" : "images";
}

inline bool same(const Shape& a, const Shape& b) {
  return a.rank == b.rank && a.n == b.n && a.c == b.c && a.h == b.h && a.w == b.w;
}

inline void check_parts(const Parts& parts, const char* kind, size_t attributes, size_t constants) {
  STD_TORCH_CHECK(parts.attributes.size() == attributes, kind, " must have ", attributes,
                  " attributes, got ", parts.attributes.size());
  STD_TORCH_CHECK(parts.constants.size() == constants, kind, " must have ", constants,
                  " constants, got ", parts.constants.size());
}

inline void check_inputs(size_t got, const char* kind, size_t wanted) {
  STD_TORCH_CHECK(got == wanted, kind, " must have ", wanted, " inputs, got ", got);
}

// Lines and planes must be under 2^31 numbers, so that pixels can be counted in int32, and all of a
// value under 2^62.
inline bool is_small(const Shape& s) {
  const double plane = 16.0 * static_cast<double>(s.w) * static_cast<double>(s.h);
  return plane < 2147483648.0 &&
         plane * (static_cast<double>(s.c) + 16) * (static_cast<double>(s.n) + 16) < 4.6e18;
}

// What is read: of four dimensions, or, unless it must be `images`, of two.
inline void check_shape(const Shape& s, const char* kind, bool images) {
  STD_TORCH_CHECK(s.rank == 4 || (s.rank == 2 && !images), kind, " must read (N, C, H, W)",
                  images ? "" : " or (N, C)", ", got ", s.rank, " dimensions");
  STD_TORCH_CHECK(s.n >= 0 && s.c >= 1 && s.h >= 1 && s.w >= 1 && is_small(s), kind,
                  " must read images of 1 to 2^27 pixels, got ", in_words(s));
}

// What is written.
inline Shape checked(const Shape& s, const char* kind) {
  STD_TORCH_CHECK(s.n >= 0 && s.c >= 1 && s.h >= 1 && s.w >= 1, kind, " would write ", in_words(s),
                  ", which is nothing");
  STD_TORCH_CHECK(is_small(s), kind, " would write ", in_words(s), ", which is too large");
  return s;
}

// Input and output in one order; of two dimensions it is planar.
inline void check_orders(const std::vector<Spec>& in, const Spec& out, const char* kind) {
  for (const Spec& spec : in)
    STD_TORCH_CHECK(spec.order == out.order, kind,
                    " must have inputs and output in one order, got ", in_words(spec.order),
                    " and ", in_words(out.order));
  STD_TORCH_CHECK(out.shape.rank == 4 || (out.order == kPlanar && out.halo == 0), kind,
                  " of (N, C) must be planar without a halo");
}

inline float number_from(int64_t bits) {
  double number;
  std::memcpy(&number, &bits, sizeof number);
  return static_cast<float>(number);
}

// Writes zeros around lines [top, end) of a plane's image; above it and below it where they are the
// first and the last.
inline void clear_halo(const View& v, int64_t block, int64_t plane, int64_t top, int64_t end) {
  if (v.spec.halo == 0) return;
  const int64_t line = v.spec.line(), side = v.spec.halo * v.spec.lanes(), height = v.spec.shape.h;
  float* inside = v.inside(block, plane);
  if (top == 0) std::fill(inside - v.spec.halo * line - side, inside - side, 0.0f);
  for (int64_t l = top; l < end; ++l) {
    float* first = inside + l * line;
    std::fill(first - side, first, 0.0f);
    std::fill(first + line - 2 * side, first + line - side, 0.0f);
  }
  if (end == height)
    std::fill(inside + height * line - side, inside + (height + v.spec.halo) * line - side, 0.0f);
}

// So many floats are worth a thread.
constexpr int64_t kWorthAThread = 32768;

// Calls work(first, last) for parts of [0, count), each of which takes about as long as moving
// `cost` floats.
template <class Work>
void share(int64_t count, int64_t cost, const Work& work) {
  const int64_t grain = std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(1, cost));
  if (count <= grain) {
    if (count > 0) work(0, count);
    return;
  }
  torch::stable::parallel_for(0, count, grain, work);
}

// Calls work(block, plane, top, end) for lines [top, end) of all planes of `out`, and clears the
// halo around them. A line takes about as long as moving `cost` floats.
template <class Work>
void for_each_lines(const View& out, int64_t cost, const Work& work) {
  const int64_t planes = out.spec.planes(), height = out.spec.shape.h;
  share(out.spec.blocks() * planes * height, cost, [&](int64_t first, int64_t last) {
    while (first < last) {
      const int64_t plane = first / height, top = first % height;
      const int64_t end = std::min(height, top + last - first);
      work(plane / planes, plane % planes, top, end);
      clear_halo(out, plane / planes, plane % planes, top, end);
      first += end - top;
    }
  });
}

// Lines [top, end) of a plane, from one view to another of the same size; one line, if no halo
// parts them.
inline Lines lines_of(const View& in, const View& out, int64_t block, int64_t plane, int64_t top,
                      int64_t end) {
  const int64_t width = out.spec.shape.w * out.spec.lanes();
  Lines lines = {end - top,
                 width,
                 in.inside(block, plane) + top * in.spec.line(),
                 in.spec.line(),
                 out.inside(block, plane) + top * out.spec.line(),
                 out.spec.line()};
  if (in.spec.halo == 0 && out.spec.halo == 0) {
    lines.lines = 1;
    lines.length = width * (end - top);
  }
  return lines;
}

}  // namespace program
}  // namespace sparse_ops
