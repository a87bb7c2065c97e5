// Vectors of images: kLanes images innermost, so that every load is one whole cache line.
#include "conv2d.h"
#include "scratch.h"
#include "second_cache.h"

namespace sparse_ops {
namespace {

// A rectangle of pixels is as large as the part of the panel under it fits half of the second
// cache, and the results of it a quarter.
int64_t slab() { return second_cache() / 2; }
int64_t results() { return second_cache() / 4; }

struct Rectangle {
  int64_t lines, width;

  Rectangle(const Panel& panel, int64_t filters) : lines(panel.rows.out), width(panel.columns.out) {
    const int64_t planes = panel.channels * panel.phases * kLanes;
    const auto fits = [&](int64_t l, int64_t w) {
      return planes * (l + panel.rows.reach) * (w + panel.columns.reach) <= slab() &&
             filters * l * w * kLanes <= results();
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
  torch::stable::parallel_for(
      0, (panel.channels + kLanes - 1) / kLanes, 1, [&](int64_t b0, int64_t b1) {
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

// What the kernels read of the weight: for each class where its columns are in the panel, and for
// blocks of several filters their values side by side.
class Prepared {
 public:
  Prepared(const Job& job, const std::vector<Range>& ranges, const std::vector<int32_t>& offsets)
      : job_(job),
        ends_(ends_of(ranges)),
        values_(ends_.empty() ? 0 : ends_.back()),
        offsets_(job.rows.crow[job.rows.classes] + kSpareOffsets) {
    const int64_t columns = job.rows.crow[job.rows.classes];
    torch::stable::parallel_for(0, columns, 1 << 16, [&](int64_t i0, int64_t i1) {
      for (int64_t i = i0; i < i1; ++i) offsets_.get()[i] = offsets[job.rows.col[i]];
    });
    std::fill_n(offsets_.get() + columns, kSpareOffsets, 0);
    torch::stable::parallel_for(0, static_cast<int64_t>(ranges.size()), 1,
                                [&](int64_t r0, int64_t r1) {
                                  for (int64_t r = r0; r < r1; ++r) {
                                    float* to = values_.get() + (r ? ends_[r - 1] : 0);
                                    for (const Block& block : ranges[r].blocks)
                                      to = weave(block, to);
                                  }
                                });
  }

  const int32_t* offsets(int64_t o) const {
    return offsets_.get() + job_.rows.crow[o % job_.rows.classes];
  }
  // Of each block of a range in turn; `next` starts at first(range).
  const float* first(int64_t range) const { return values_.get() + (range ? ends_[range - 1] : 0); }
  const float* of(const Block& block, const float*& next) const {
    if (block.count == 1) return job_.rows.values + job_.rows.start[block.filter[0]];
    const float* values = next;
    next += block.count * job_.rows.length(block.filter[0]);
    return values;
  }

 private:
  std::vector<int64_t> ends_of(const std::vector<Range>& ranges) const {
    std::vector<int64_t> ends;
    int64_t end = 0;
    for (const Range& range : ranges) {
      for (const Block& block : range.blocks)
        if (block.count > 1) end += block.count * job_.rows.length(block.filter[0]);
      ends.push_back(end);
    }
    return ends;
  }
  float* weave(const Block& block, float* to) const {
    if (block.count == 1) return to;
    const int64_t k = job_.rows.length(block.filter[0]);
    for (int i = 0; i < block.count; ++i) {
      const float* from = job_.rows.values + job_.rows.start[block.filter[i]];
      for (int64_t j = 0; j < k; ++j) to[j * block.count + i] = from[j];
    }
    return to + block.count * k;
  }

  const Job& job_;
  std::vector<int64_t> ends_;
  Scratch<float> values_;
  Scratch<int32_t> offsets_;
};

// One block of filters over a rectangle of output pixels of kLanes images, to buffer (filters of
// the range, lines, width, kLanes).
void compute(const Job& job, const Range& range, const Block& block, const int32_t* offsets,
             const float* weights, const float* base, int64_t pitch, int64_t lines, int64_t width,
             float* buffer) {
  BlockedWork work = {};
  work.lines = lines;
  work.width = width;
  work.k = job.rows.length(block.filter[0]);
  work.offsets = offsets;
  work.weights = weights;
  work.panel = base;
  work.line_step = pitch;
  work.pixel_step = kLanes;
  work.out_step = width * kLanes;
  work.activation = job.inner();
  for (int i = 0; i < block.count; ++i) {
    work.bias[i] = job.bias ? job.bias[block.filter[i]] : 0.0f;
    work.out[i] = buffer + (block.filter[i] - range.first) * lines * width * kLanes;
  }
  job.kernels.blocked(block.count, work);
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
  const Prepared prepared(job, ranges, offsets);
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
          const float* next = prepared.first(r);
          for (const Block& block : range.blocks) {
            const float* weights = prepared.of(block, next);
            compute(job, range, block, prepared.offsets(block.filter[0]), weights, base, pitch,
                    lines, width, buffer.get());
          }
          write(job, range, n, top, left, lines, width, buffer.get(), dense.get());
        }
      }
    });
  }
}

}  // namespace sparse_ops
