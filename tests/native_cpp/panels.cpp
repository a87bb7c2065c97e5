// Rows that keep the same columns, times a panel: out = activation(bias + added + weights * panel).
#include "microkernels.h"

namespace checking {

namespace {

std::vector<int32_t> at_each(const std::vector<int32_t>& offsets,
                             const std::vector<int32_t>& which) {
  std::vector<int32_t> result;
  for (const int32_t each : which) result.push_back(offsets[each]);
  return result;
}

// As many as tiles of vectors, and beside that.
constexpr int64_t kPositions[] = {1, 15, 16, 57, 130, 160, 257};
// By which tiles are chosen; the first five are enough where the code is the same for all.
constexpr int64_t kWidths[] = {1, 2, 7, 16, 19, 4, 5, 8, 14, 17};
constexpr int64_t kHeights[] = {1, 2, 3, 4, 5, 8};

}  // namespace

void test_rows(const RowSparseKernels& kernels) {
  for (int rows = 1; rows <= kernels.max_rows; rows *= 2)
    over({6, 7}, [&](int64_t length, int64_t size) {
      const int64_t k = kLengths[length], positions = kPositions[size], biased = below(2);
      const int64_t columns = 9, ld = (positions + 15) / 16 * 16 + 16;
      const Activation activation = any_activation();
      const auto offsets = places(columns, 50), which = places(k, columns);
      const auto taken = at_each(offsets, which);
      Floats panel(50 + positions), weights(rows * k), bias(rows), out(rows * ld, false);
      const float* pointers[kMaxRows];
      for (int r = 0; r < rows; ++r) pointers[r] = weights.get() + r * k;
      kernels.rows(rows, k, which.data(), offsets.data(), pointers, biased ? bias.get() : nullptr,
                   panel.get(), positions, out.get(), ld, activation);
      for (int r = 0; r < rows; ++r)
        for (int64_t p = 0; p < positions; ++p) {
          Exact exact = products(k, pointers[r], 1, taken, panel.get() + p);
          if (biased) exact.plus(bias[r]);
          compare("rows", out[r * ld + p], exact, activation);
        }
    });
}

void test_blocked(const RowSparseKernels& kernels) {
  for (const int64_t stride : {1, 2})
    over({kernels.max_rows, 10, 5}, [&](int64_t row, int64_t size, int64_t height) {
      if (row > 0 && size >= 5) return;
      const int64_t rows = row + 1, width = kWidths[size], k = next_length(), adds = below(2);
      const int64_t lines = kHeights[height], line = (stride * width + 2) * kLanes;
      const int64_t out_step = (width + 1) * kLanes;
      const auto offsets = places(k, 2 * kLanes, kSpareOffsets);
      Floats panel(line * (lines + 2) + 2 * kLanes), weights(k * rows);
      BlockedWork work = {};
      work.lines = lines;
      work.width = width;
      work.k = k;
      work.offsets = offsets.data();
      work.weights = weights.get();
      work.panel = panel.get();
      work.line_step = line;
      work.pixel_step = stride * kLanes;
      work.out_step = work.added_step = out_step;
      work.activation = any_activation();
      std::vector<Floats> out, added;
      out.reserve(rows);
      added.reserve(rows);
      for (int r = 0; r < rows; ++r) {
        out.emplace_back((lines - 1) * out_step + width * kLanes, false);
        added.emplace_back((lines - 1) * out_step + width * kLanes);
        work.bias[r] = number();
        work.out[r] = out[r].get();
        work.added[r] = adds ? added[r].get() : nullptr;
      }
      kernels.blocked(rows, work);
      for (int r = 0; r < rows; ++r)
        over({lines, width, kLanes}, [&](int64_t l, int64_t p, int64_t i) {
          const int64_t at = l * out_step + p * kLanes + i;
          const float* x = work.panel + l * line + p * work.pixel_step + i;
          Exact exact =
              products(work.k, work.weights + r, out.size(), offsets, x).plus(work.bias[r]);
          if (work.added[r]) exact.plus(added[r][at]);
          compare("blocked", out[r][at], exact, work.activation);
        });
    });
}

void test_channels(const RowSparseKernels& kernels) {
  for (const int64_t pixel : {int64_t{1}, int64_t{3}, kLanes, 2 * kLanes})
    over({kernels.max_units, 10, 6, 2}, [&](int64_t unit_at, int64_t size, int64_t height,
                                            int64_t more) {
      const int64_t units = unit_at + 1, width = kWidths[size], k = next_length();
      const int64_t lines = kHeights[height], images = 1 + 2 * more;
      const int64_t line = width * pixel + 5, image = line * (lines + 1);
      const auto offsets = places(k, 20, 1);
      const int64_t out_line = width * kLanes, out_image = lines * out_line;
      const int64_t unit = images * out_image + 16, step = units * kLanes;
      Floats panel(images * image + 20), weights(k * step), bias(step), out(units * unit, false);
      ChannelWork work = {};
      work.images = images;
      work.lines = lines;
      work.width = width;
      work.k = k;
      work.offsets = offsets.data();
      work.weights = weights.get();
      work.bias = bias.get();
      work.panel = panel.get();
      work.image_step = image;
      work.line_step = line;
      work.pixel_step = pixel;
      work.out = out.get();
      work.out_image = out_image;
      work.out_line = out_line;
      work.unit_step = unit;
      work.activation = any_activation();
      kernels.channels(units, work);
      for (int64_t u = 0; u < units; ++u)
        over({images, lines, width, kLanes}, [&](int64_t n, int64_t l, int64_t p, int64_t i) {
          const float* x = work.panel + n * image + l * line + p * work.pixel_step;
          const int64_t channel = u * kLanes + i;
          Exact exact =
              products(work.k, work.weights + channel, step, offsets, x).plus(bias[channel]);
          compare("channels", out[u * unit + n * out_image + l * out_line + p * kLanes + i], exact,
                  work.activation);
        });
    });
}

void test_dots(const RowSparseKernels& kernels) {
  for (const int64_t positions : {1, 7, 16, 33, 100}) {
    const int64_t k = 11, columns = 5;
    const auto offsets = places(columns, 40), which = places(k, columns);
    Floats dy(positions), panel(40 + positions), out(k);
    std::vector<float> before(out.get(), out.get() + k);
    kernels.dots(k, which.data(), offsets.data(), dy.get(), panel.get(), positions, out.get());
    for (int64_t j = 0; j < k; ++j) {
      Exact exact;
      for (int64_t p = 0; p < positions; ++p) exact.add(dy[p], panel[offsets[which[j]] + p]);
      compare("dots", out[j], exact.plus(before[j]));
    }
  }
}

}  // namespace checking
