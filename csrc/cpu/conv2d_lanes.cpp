// Vectors of images: kLanes images innermost, so that every load is one whole cache line.
#include "conv2d.h"
#include "scratch.h"

namespace sparse_ops {
namespace {

// A rectangle of pixels is as large as the part of the panel under it fits half of a 1 MiB L2 cache,
// and the results of it a quarter.
constexpr int64_t kSlab = 1 << 17;
constexpr int64_t kResults = 1 << 16;

struct Rectangle {
  int64_t lines, width;

  Rectangle(const Panel& panel, int64_t filters) : lines(panel.rows.out), width(panel.columns.out) {
    const int64_t planes = panel.channels * panel.phases * kLanes;
    const auto fits = [&](int64_t l, int64_t w) {
      return planes * (l + panel.rows.reach) * (w + panel.columns.reach) <= kSlab &&
             filters * l * w * kLanes <= kResults;
    };
    // Widths that tiles divide; at least one tile, whether it fits or not.
    if (!fits(4, width))
      for (const int64_t w : {56, 28, 32, 16, 14})
        if (panel.columns.out % w == 0 && w < width) {
          width = w;
          if (fits(4, w)) break;
        }
    while (lines > 4 && !fits(lines, width)) lines = (lines + 1) / 2;
  }
};

void pack(const Job& job, const Panel& panel, int64_t image, float* to) {
  const Source x = job.image(image);
  const int64_t whole =
      job.in.channel == 1 && !job.in_channels ? panel.channels / kLanes * kLanes : 0;
  torch::stable::parallel_for(0, (panel.channels + kLanes - 1) / kLanes, 1,
                              [&](int64_t b0, int64_t b1) {
    for (int64_t b = b0; b < b1; ++b) {
      if ((b + 1) * kLanes <= whole) {
        panel.pack_images_of_channels(job.kernels, x + b * kLanes, job.in, b * kLanes, to);
        continue;
      }
      for (int64_t c = b * kLanes; c < std::min(panel.channels, (b + 1) * kLanes); ++c)
        panel.pack_images(job.kernels, x + job.in_channel(c) * job.in.channel, job.in, c, to);
    }
  });
}

// One block of filters over a rectangle of output pixels of kLanes images, to buffer (filters of the
// range, lines, width, kLanes).
void compute(const Job& job, const Range& range, const Block& block, const float* base,
             int64_t pitch, const int32_t* offsets, int64_t lines, int64_t width, float* buffer) {
  const float* weights[kMaxRows];
  float bias[kMaxRows];
  for (int i = 0; i < block.count; ++i) {
    weights[i] = job.rows.values + job.rows.start[block.filter[i]];
    bias[i] = job.bias ? job.bias[block.filter[i]] : 0.0f;
  }
  const int64_t o = block.filter[0], k = job.rows.length(o), size = lines * width * kLanes;
  const int32_t* columns = job.rows.columns_of(o);
  float* results = buffer + (o - range.first) * size;
  if (block.count == 1) {
    job.kernels.pixels(lines, width, k, columns, offsets, weights[0], bias[0], base, pitch, results,
                       job.inner());
    return;
  }
  for (int64_t l = 0; l < lines; ++l)
    job.kernels.rows(block.count, k, columns, offsets, weights, bias, base + l * pitch,
                     width * kLanes, results + l * width * kLanes,
                     (block.filter[1] - o) * size, job.inner());
}

// Those results to where they belong: lines from `top`, columns from `left`.
void write(const Job& job, const Range& range, int64_t image, int64_t top, int64_t left,
           int64_t lines, int64_t width, const float* buffer, float* dense) {
  const int64_t across = job.conv.columns.out, size = lines * width * kLanes;
  const auto separate = job.kernels.separate;
  const bool last = job.out.channel == 1 && !job.out_channels;
  // Whole lines are one.
  if (width == across) {
    width *= lines;
    lines = 1;
  }
  for (int64_t l = 0; l < lines; ++l) {
    const int64_t pixel = top * across + left + l * across;
    const float* results = buffer + l * width * kLanes;
    int64_t o = range.first;
    for (; last && o + kLanes <= range.last; o += kLanes)
      for (int64_t i = 0; i < width; ++i) {
        const Spot first{image, o, pixel + i};
        const float* from = results + (o - range.first) * size + i * kLanes;
        if (job.direct()) {
          separate(kLanes, from, size, job.floats(first), job.out.image);
          continue;
        }
        separate(kLanes, from, size, dense, kLanes);
        job.put(first, {1, 0, 0}, kLanes, kLanes, dense, kLanes);
      }
    for (; o < range.last; ++o) {
      const Spot first{image, job.out_channel(o), pixel};
      const float* line = results + (o - range.first) * size;
      if (job.out.pixel != 1) {
        for (int64_t n = 0; n < kLanes; ++n)
          job.write({image + n, first.channel, pixel}, width, line + n, kLanes);
      } else if (job.direct()) {
        separate(width, line, kLanes, job.floats(first), job.out.image);
      } else {
        separate(width, line, kLanes, dense, width);
        job.put(first, {1, 0, 0}, kLanes, width, dense, width);
      }
    }
  }
}

}  // namespace

void forward_lanes(const Job& job, int64_t from, int64_t to) {
  const Convolution& conv = job.conv;
  const Panel panel(conv.rows, conv.columns, conv.channels, 1);
  const int64_t size = conv.channels * panel.phases * panel.plane_size * kLanes;
  const Scratch<float> planes(size + kOverrun);
  std::fill(planes.get() + size, planes.get() + size + kOverrun, 0.0f);
  const std::vector<int32_t> offsets = offsets_of(conv, panel, kLanes);
  const std::vector<Range> ranges = ranges_of(job);
  const int64_t count = static_cast<int64_t>(ranges.size()), filters = widest(ranges);
  const int64_t group_size = conv.group_channels() * panel.phases * panel.plane_size * kLanes;
  const int64_t pitch = panel.pitch() * kLanes;
  const Rectangle rectangle(panel, filters);
  const int64_t down = (conv.rows.out + rectangle.lines - 1) / rectangle.lines;
  const int64_t across = (conv.columns.out + rectangle.width - 1) / rectangle.width;
  const int64_t parts = parts_for(down * across, count, torch::stable::get_num_threads());

  for (int64_t n = from; n < to; n += kLanes) {
    pack(job, panel, n, planes.get());
    torch::stable::parallel_for(0, down * across * parts, 1, [&](int64_t i0, int64_t i1) {
      const int64_t size = rectangle.lines * rectangle.width * kLanes;
      const Scratch<float> buffer(filters * size);
      const Scratch<float> dense(job.direct() ? 0 : std::max(size, kLanes * kLanes));
      for (int64_t i = i0; i < i1; ++i) {
        const int64_t part = i % parts, cell = i / parts;
        const int64_t top = cell / across * rectangle.lines;
        const int64_t left = cell % across * rectangle.width;
        const int64_t lines = std::min(rectangle.lines, conv.rows.out - top);
        const int64_t width = std::min(rectangle.width, conv.columns.out - left);
        for (int64_t r = count * part / parts; r < count * (part + 1) / parts; ++r) {
          const Range& range = ranges[r];
          const float* base = planes.get() + range.first / conv.group_filters() * group_size +
                              top * pitch + left * kLanes;
          for (const Block& block : range.blocks)
            compute(job, range, block, base, pitch, offsets.data(), lines, width, buffer.get());
          write(job, range, n, top, left, lines, width, buffer.get(), dense.get());
        }
      }
    });
  }
}

}  // namespace sparse_ops
