#include "panel.h"

#include <algorithm>
#include <cstring>

#include "row_sparse.h"

namespace sparse_ops {

Axis::Axis(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation,
           bool apart)
    : size(size), kernel(kernel), stride(stride), padding(padding), dilation(dilation) {
  out = (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
  reach = apart ? 0 : dilation * (kernel - 1) / stride;
  for (int64_t tap = 0; tap < kernel; ++tap) {
    const int64_t phase = apart ? tap * dilation : tap * dilation % stride;
    auto found = std::find(phases.begin(), phases.end(), phase);
    phase_of.push_back(found - phases.begin());
    if (found == phases.end()) phases.push_back(phase);
    shift_of.push_back((tap * dilation - phase) / stride);
  }
  const int64_t need = out + reach;
  shared = reach;
  for (const int64_t phase : phases) shared = std::min({shared, first(phase), need - last(phase)});
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

// Calls part(phase, done, to, from, length, lines, image) for every stretch of lines of every phase
// and image: planes are zero in [done, to), then hold `lines` lines of `length` values from the
// pixel `from` on, with zeros between them; and with no lines at the end of each plane.
template <class Part>
void for_each_part(const Panel& panel, const Part& part) {
  const Axis &rows = panel.rows, &columns = panel.columns;
  for (size_t a = 0; a < rows.phases.size(); ++a)
    for (size_t b = 0; b < columns.phases.size(); ++b) {
      const int64_t ya = rows.phases[a], xb = columns.phases[b];
      const int64_t phase = static_cast<int64_t>(a * columns.phases.size() + b);
      const int64_t y0 = rows.first(ya), lines = rows.last(ya) - y0;
      const int64_t x0 = columns.first(xb), length = columns.last(xb) - x0;
      int64_t done = 0;
      for (int64_t n = 0; n < (lines && length ? panel.images : 0); ++n) {
        const int64_t to = (n * rows.pitch + y0) * panel.pitch() + x0;
        part(phase, done, to, rows.input(ya, y0) * columns.size + columns.input(xb, x0), length,
             lines, n);
        done = to + (lines - 1) * panel.pitch() + length;
      }
      part(phase, done, panel.plane_size, 0, 0, 0, 0);
    }
}

void Panel::pack(const RowSparseKernels& kernels, const Source& x, const Layout& layout,
                 int64_t channel, float* panel) const {
  const int64_t step = rows.stride * columns.size * layout.pixel;
  const int64_t pixel = columns.stride * layout.pixel;
  for_each_part(*this, [&](int64_t phase, int64_t done, int64_t to, int64_t from, int64_t length,
                           int64_t lines, int64_t n) {
    float* plane = panel + (channel * phases + phase) * plane_size;
    std::fill(plane + done, plane + to, 0.0f);
    const Source source = x + n * layout.image + from * layout.pixel;
    const EndKernels& ends = kernels.ends[x.type];
    if (pixel == 1) {
      ends.copy(lines, length, source.at, step, plane + to, pitch(), pitch() - length);
      return;
    }
    for (int64_t y = 0; y < lines; ++y) {
      float* line = plane + to + y * pitch();
      ends.read(length, (source + y * step).at, pixel, line, 1);
      if (y + 1 < lines) std::fill(line + length, line + pitch(), 0.0f);
    }
  });
}

void Panel::pack_lanes_of_channels(const RowSparseKernels& kernels, const Source& x,
                                   const Layout& layout, int64_t channel, float* panel) const {
  const int64_t between = phases * plane_size;
  for_each_part(*this, [&](int64_t phase, int64_t done, int64_t to, int64_t from, int64_t length,
                           int64_t lines, int64_t n) {
    float* plane = panel + (channel * phases + phase) * plane_size;
    for (int64_t l = 0; l < kLanes; ++l)
      std::fill(plane + l * between + done, plane + l * between + to, 0.0f);
    const Source source = x + n * layout.image + from * layout.pixel;
    for (int64_t y = 0; y < lines; ++y) {
      float* line = plane + to + y * pitch();
      kernels.ends[x.type].separate(length,
                                    (source + y * rows.stride * columns.size * layout.pixel).at,
                                    columns.stride * layout.pixel, line, between);
      for (int64_t l = 0; l < kLanes && y + 1 < lines; ++l)
        for (int64_t i = length; i < pitch(); ++i) line[l * between + i] = 0.0f;
    }
  });
}

void Panel::pack_images(const RowSparseKernels& kernels, const Source& x, const Layout& layout,
                        int64_t channel, float* panel) const {
  for_each_part(*this, [&](int64_t phase, int64_t done, int64_t to, int64_t from, int64_t length,
                           int64_t lines, int64_t n) {
    float* plane = panel + (channel * phases + phase) * plane_size * kLanes;
    std::fill(plane + done * kLanes, plane + to * kLanes, 0.0f);
    for (int64_t y = 0; y < lines; ++y) {
      float* line = plane + (to + y * pitch()) * kLanes;
      kernels.ends[x.type].interleave(
          length, (x + (from + y * rows.stride * columns.size) * layout.pixel).at, layout.image,
          columns.stride * layout.pixel, line, kLanes);
      if (y + 1 < lines) std::fill(line + length * kLanes, line + pitch() * kLanes, 0.0f);
    }
  });
}

void Panel::pack_images_of_channels(const RowSparseKernels& kernels, const Source& x,
                                    const Layout& layout, int64_t channel, float* panel) const {
  const int64_t between = phases * plane_size * kLanes;
  for_each_part(*this, [&](int64_t phase, int64_t done, int64_t to, int64_t from, int64_t length,
                           int64_t lines, int64_t n) {
    float* plane = panel + (channel * phases + phase) * plane_size * kLanes;
    for (int64_t l = 0; l < kLanes; ++l)
      std::fill(plane + l * between + done * kLanes, plane + l * between + to * kLanes, 0.0f);
    for (int64_t y = 0; y < lines; ++y) {
      float* line = plane + (to + y * pitch()) * kLanes;
      const Source source = x + (from + y * rows.stride * columns.size) * layout.pixel;
      for (int64_t i = 0; i < length; ++i)
        kernels.ends[x.type].interleave(kLanes, (source + i * columns.stride * layout.pixel).at,
                                        layout.image, 1, line + i * kLanes, between);
      for (int64_t l = 0; l < kLanes && y + 1 < lines; ++l)
        std::fill(line + l * between + length * kLanes, line + l * between + pitch() * kLanes,
                  0.0f);
    }
  });
}

void Panel::unpack(const float* planes, float* x, int64_t image_step) const {
  for (int64_t n = 0; n < images; ++n)
    std::fill(x + n * image_step, x + n * image_step + rows.size * columns.size, 0.0f);
  for (size_t a = 0; a < rows.phases.size(); ++a)
    for (size_t b = 0; b < columns.phases.size(); ++b) {
      const int64_t ya = rows.phases[a], xb = columns.phases[b];
      const float* plane =
          planes + static_cast<int64_t>(a * columns.phases.size() + b) * plane_size;
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
