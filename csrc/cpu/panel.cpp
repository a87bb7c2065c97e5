#include "panel.h"

#include <algorithm>
#include <cstring>

#include "row_sparse.h"

namespace sparse_ops {

Axis::Axis(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation)
    : size(size), kernel(kernel), stride(stride), padding(padding), dilation(dilation) {
  out = (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
  reach = dilation * (kernel - 1) / stride;
  for (int64_t tap = 0; tap < kernel; ++tap) {
    const int64_t phase = tap * dilation % stride;
    auto found = std::find(phases.begin(), phases.end(), phase);
    phase_of.push_back(found - phases.begin());
    if (found == phases.end()) phases.push_back(phase);
    shift_of.push_back(tap * dilation / stride);
  }
  const int64_t need = out + reach;
  shared = reach;
  for (const int64_t phase : phases)
    shared = std::min({shared, first(phase), need - last(phase)});
  pitch = need - shared;
}

int64_t Axis::first(int64_t phase) const {
  const int64_t zeros = padding > phase ? (padding - phase + stride - 1) / stride : 0;
  return std::min(zeros, out + reach);
}

int64_t Axis::last(int64_t phase) const {
  const int64_t end = size + padding - phase;
  const int64_t stored = end > 0 ? (end + stride - 1) / stride : 0;
  return std::max(first(phase), std::min(stored, out + reach));
}

Panel::Panel(const Axis& rows, const Axis& columns, int64_t channels, int64_t images)
    : rows(rows), columns(columns), channels(channels), images(images) {
  phases = static_cast<int64_t>(rows.phases.size() * columns.phases.size());
  positions = ((images - 1) * rows.pitch + rows.out - 1) * columns.pitch + columns.out;
  const int64_t stored = images * image_size() + rows.shared * pitch() + columns.shared;
  // An odd number of cache lines: planes a power of two apart would crowd the same cache sets.
  plane_size = ((stored + 15) / 16 | 1) * 16;
  size = channels * phases * plane_size + kOverrun;
}

int64_t Panel::phase_of(int64_t tap) const {
  const int64_t y = tap / columns.kernel, x = tap % columns.kernel;
  return rows.phase_of[y] * static_cast<int64_t>(columns.phases.size()) + columns.phase_of[x];
}

int64_t Panel::shift_of(int64_t tap) const {
  return rows.shift_of[tap / columns.kernel] * pitch() + columns.shift_of[tap % columns.kernel];
}

void Panel::pack(const RowSparseKernels& kernels, const float* x, int64_t image_step,
                 int64_t channel, float* panel) const {
  for (size_t a = 0; a < rows.phases.size(); ++a)
    for (size_t b = 0; b < columns.phases.size(); ++b) {
      const int64_t ya = rows.phases[a], xb = columns.phases[b];
      const int64_t phase = static_cast<int64_t>(a * columns.phases.size() + b);
      float* plane = panel + (channel * phases + phase) * plane_size;
      const int64_t y0 = rows.first(ya), lines = rows.last(ya) - y0;
      const int64_t x0 = columns.first(xb), length = columns.last(xb) - x0;
      if (lines == 0 || length == 0) {
        std::fill(plane, plane + plane_size, 0.0f);
        continue;
      }
      // Everything between the lines of input is zero; `done` is how far the plane is written.
      float* done = plane;
      for (int64_t n = 0; n < images; ++n) {
        float* to = plane + (n * rows.pitch + y0) * pitch() + x0;
        std::fill(done, to, 0.0f);
        const float* from =
            x + n * image_step + rows.input(ya, y0) * columns.size + columns.input(xb, x0);
        const int64_t step = rows.stride * columns.size;
        if (columns.stride == 1)
          kernels.copy(lines, length, from, step, to, pitch(), pitch() - length);
        else
          for (int64_t y = 0; y < lines; ++y) {
            for (int64_t i = 0; i < length; ++i)
              to[y * pitch() + i] = from[y * step + i * columns.stride];
            std::fill(to + y * pitch() + length, to + (y + 1) * pitch(), 0.0f);
          }
        done = to + lines * pitch();
      }
      std::fill(done, plane + plane_size, 0.0f);
    }
}

void Panel::pack_lanes(const RowSparseKernels& kernels, const float* x, int64_t image_step,
                       int64_t channel, float* panel) const {
  for (size_t a = 0; a < rows.phases.size(); ++a)
    for (size_t b = 0; b < columns.phases.size(); ++b) {
      const int64_t ya = rows.phases[a], xb = columns.phases[b];
      const int64_t phase = static_cast<int64_t>(a * columns.phases.size() + b);
      float* plane = panel + (channel * phases + phase) * plane_size * kLanes;
      const int64_t x0 = columns.first(xb), length = columns.last(xb) - x0;
      float* done = plane;
      for (int64_t y = rows.first(ya); y < rows.last(ya); ++y) {
        float* to = plane + (y * pitch() + x0) * kLanes;
        std::fill(done, to, 0.0f);
        kernels.interleave(length, x + rows.input(ya, y) * columns.size + columns.input(xb, x0),
                           image_step, columns.stride, to);
        done = to + length * kLanes;
      }
      std::fill(done, plane + plane_size * kLanes, 0.0f);
    }
}

void Panel::unpack(const float* planes, float* x, int64_t image_step) const {
  for (int64_t n = 0; n < images; ++n)
    std::fill(x + n * image_step, x + n * image_step + rows.size * columns.size, 0.0f);
  for (size_t a = 0; a < rows.phases.size(); ++a)
    for (size_t b = 0; b < columns.phases.size(); ++b) {
      const int64_t ya = rows.phases[a], xb = columns.phases[b];
      const float* plane = planes + static_cast<int64_t>(a * columns.phases.size() + b) * plane_size;
      const int64_t x0 = columns.first(xb), x1 = columns.last(xb);
      for (int64_t n = 0; n < images; ++n)
        for (int64_t y = rows.first(ya); y < rows.last(ya); ++y) {
          const float* from = plane + (n * rows.pitch + y) * pitch() + x0;
          float* to = x + n * image_step + rows.input(ya, y) * columns.size + columns.input(xb, x0);
          for (int64_t i = 0; i < x1 - x0; ++i) to[i * columns.stride] = from[i];
        }
    }
}

void Panel::spread(const float* y, int64_t image_step, float* line) const {
  float* done = line;
  for (int64_t n = 0; n < images; ++n)
    for (int64_t r = 0; r < rows.out; ++r) {
      float* to = line + (n * rows.pitch + r) * pitch();
      std::fill(done, to, 0.0f);
      std::memcpy(to, y + n * image_step + r * columns.out, sizeof(float) * columns.out);
      done = to + columns.out;
    }
  std::fill(done, line + plane_size, 0.0f);
}

std::vector<Segment> segments(const Panel& panel, int64_t first, int64_t last) {
  std::vector<Segment> found;
  const int64_t pitch = panel.pitch(), out = panel.columns.out;
  for (int64_t line = first / pitch; line * pitch < last; ++line) {
    const int64_t image = line / panel.rows.pitch, row = line % panel.rows.pitch;
    if (row >= panel.rows.out) continue;
    const int64_t begin = std::max(first, line * pitch);
    const int64_t end = std::min(last, line * pitch + out);
    if (begin >= end) continue;
    const bool whole = end - begin == out;
    if (whole && !found.empty() && found.back().image == image && found.back().length == out)
      ++found.back().lines;
    else
      found.push_back({begin, image, row * out + begin - line * pitch, 1, end - begin});
  }
  return found;
}

}  // namespace sparse_ops
