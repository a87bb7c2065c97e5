// Vectors of pixels: images as flat, padded planes, one channel after the other.
#include "conv2d.h"
#include "scratch.h"
#include "second_cache.h"

namespace sparse_ops {
namespace {

// A run of positions is as long as the part of the panel under it fits half of the second cache,
// and the results of it a quarter.
int64_t slab() { return second_cache() / 2; }
int64_t results() { return second_cache() / 4; }

// Never of the number of threads: where runs end decides in which order sums are added up.
int64_t run_length(const Panel& panel, const std::vector<Range>& ranges) {
  const int64_t reach = panel.rows.reach * panel.pitch() + panel.columns.reach;
  const int64_t fits = slab() / std::max<int64_t>(1, panel.channels * panel.phases) - reach;
  int64_t length = std::min(fits, results() / widest(ranges));
  // With few ranges of filters, threads have to share positions.
  if (ranges.size() < 8) length = std::min(length, panel.positions / 8);
  // Multiples of the tiles of 1, 4 and 8 rows.
  if (length >= 672) return length / 672 * 672;
  return std::max<int64_t>(96, length / 96 * 96);
}

void pack(const Job& job, const Panel& panel, int64_t image, float* to) {
  const Source x = job.image(image);
  if (job.in.channel == 1 && !job.in_channels) {
    const int64_t whole = panel.channels / kLanes * kLanes;
    torch::stable::parallel_for(
        0, (panel.channels + kLanes - 1) / kLanes, 1, [&](int64_t b0, int64_t b1) {
          for (int64_t b = b0; b < b1; ++b) {
            if (b * kLanes < whole) {
              panel.pack_lanes_of_channels(job.kernels, x + b * kLanes, job.in, b * kLanes, to);
              continue;
            }
            for (int64_t c = whole; c < panel.channels; ++c)
              panel.pack(job.kernels, x + c, job.in, c, to);
          }
        });
    return;
  }
  torch::stable::parallel_for(0, panel.channels, 8, [&](int64_t c0, int64_t c1) {
    for (int64_t c = c0; c < c1; ++c)
      panel.pack(job.kernels, x + job.in_channel(c) * job.in.channel, job.in, c, to);
  });
}

// A block of filters over positions [from, to), to lines of results that are `ld` apart.
void compute(const Job& job, const Block& block, const Panel& panel, const float* planes,
             const int32_t* offsets, int64_t from, int64_t to, float* results, int64_t ld) {
  const int64_t group_size = job.conv.group_channels() * panel.phases * panel.plane_size;
  const float* weights[kMaxRows];
  float bias[kMaxRows];
  for (int i = 0; i < block.count; ++i) {
    weights[i] = job.rows.values + job.rows.start[block.filter[i]];
    bias[i] = job.bias ? job.bias[block.filter[i]] : 0.0f;
  }
  const int64_t o = block.filter[0];
  job.kernels.rows(block.count, job.rows.length(o), job.rows.columns_of(o), offsets, weights, bias,
                   planes + o / job.conv.group_filters() * group_size + from, to - from, results,
                   ld, job.inner());
}

// One filter's results to its channel of an image.
void write_filter(const Job& job, const Segment& run, const Panel& panel, int64_t image, int64_t o,
                  const float* results, float* dense) {
  const Spot first{image + run.image, job.out_channel(o), run.pixel};
  const int64_t width = job.conv.columns.out;
  const auto copy = job.kernels.ends[kFloat].copy;
  if (job.out.pixel != 1) {
    for (int64_t l = 0; l < run.lines; ++l)
      job.write({first.image, first.channel, run.pixel + l * width}, run.length,
                results + l * panel.pitch(), 1);
  } else if (job.direct()) {
    copy(run.lines, run.length, results, panel.pitch(), job.floats(first), width, 0);
  } else {
    // Several lines are whole ones: nothing lies between them.
    copy(run.lines, run.length, results, panel.pitch(), dense, run.length, 0);
    job.put(first, {}, 1, run.lines * run.length, dense, 0);
  }
}

// kLanes filters from o on, whose results are `ld` apart, to pixels that hold them next to each
// other.
void write_lanes(const Job& job, const Segment& run, const Panel& panel, int64_t image, int64_t o,
                 const float* results, int64_t ld, float* dense) {
  for (int64_t l = 0; l < run.lines; ++l) {
    const Spot first{image + run.image, o, run.pixel + l * job.conv.columns.out};
    const float* line = results + l * panel.pitch();
    if (job.direct()) {
      job.kernels.interleave(run.length, line, ld, 1, job.floats(first), job.out.pixel);
      continue;
    }
    job.kernels.interleave(run.length, line, ld, 1, dense, kLanes);
    job.put(first, {0, 0, 1}, run.length, kLanes, dense, kLanes);
  }
}

// All filters of a range over positions [from, to), by way of a buffer (filters, ld).
void run_range(const Job& job, const Range& range, const Panel& panel, const float* planes,
               const int32_t* offsets, const std::vector<Segment>& runs, int64_t image,
               int64_t from, int64_t to, float* buffer, int64_t ld, float* dense) {
  const bool last = job.out.channel == 1 && !job.out_channels;
  for (const Block& block : range.blocks) {
    const int64_t o = block.filter[0], step = block.count > 1 ? block.filter[1] - o : 1;
    // Channels last wants all results of a pixel at once; otherwise each block is written while
    // hot.
    float* results = last ? buffer + (o - range.first) * ld : buffer;
    const int64_t apart = last ? step * ld : ld;
    compute(job, block, panel, planes, offsets, from, to, results, apart);
    if (last) continue;
    for (const Segment& run : runs)
      for (int i = 0; i < block.count; ++i)
        write_filter(job, run, panel, image, block.filter[i],
                     results + i * ld + run.position - from, dense);
  }
  if (!last) return;
  for (const Segment& run : runs) {
    const float* results = buffer + run.position - from;
    int64_t o = range.first;
    for (; o + kLanes <= range.last; o += kLanes)
      write_lanes(job, run, panel, image, o, results + (o - range.first) * ld, ld, dense);
    for (; o < range.last; ++o)
      write_filter(job, run, panel, image, o, results + (o - range.first) * ld, dense);
  }
}

// How many cache lines a vector touches on average, where lines of pixels start at multiples of
// `width`.
double lines_touched(int64_t width) {
  if (width % kLanes == 0) return 1;
  return kLanes % width == 0 ? 2 - static_cast<double>(width) / kLanes : 2;
}

// Whether a plane for each column of the kernel, of exactly the output's width, is worth its
// copies: vectors are fewer then, and on widths of 4, 8, 16, ... less often across cache lines. A
// line copied costs about what 26 lines touched do (Zen 5).
bool copies_pay(const Job& job, const std::vector<Range>& ranges, const Convolution& apart,
                int64_t images) {
  constexpr double kLineCopied = 26;
  const Panel now(job.conv.rows, job.conv.columns, job.conv.channels, images);
  const Panel then(apart.rows, apart.columns, apart.channels, images);
  if (then.size > slab() || lines_touched(apart.columns.out) == 2) return false;
  const auto vectors = [](const Panel& panel) { return (panel.positions + kLanes - 1) / kLanes; };
  const double saved = 2.0 * vectors(now) - lines_touched(apart.columns.out) * vectors(then);
  int64_t loads = 0;
  for (const Range& range : ranges)
    for (const Block& block : range.blocks) loads += job.rows.length(block.filter[0]);
  const int64_t copied = then.channels * (then.phases - now.phases) * then.rows.out * images;
  return saved * loads > kLineCopied * copied;
}

// Where a plane for each column of the kernel pays, a convolution with such planes.
Convolution laid_out(const Job& job, const std::vector<Range>& ranges, int64_t images) {
  Convolution apart = job.conv;
  apart.columns = job.conv.columns.with_taps_apart();
  return copies_pay(job, ranges, apart, images) ? apart : job.conv;
}

}  // namespace

PlanarPlan::PlanarPlan(const Job& job, int64_t images)
    : PlanarPlan(job, ranges_of(job), laid_out(job, ranges_of(job), images), images) {}

PlanarPlan::PlanarPlan(const Job& job, std::vector<Range> ranges, const Convolution& conv,
                       int64_t images)
    : conv_(conv),
      ranges_(std::move(ranges)),
      panel_(conv.rows, conv.columns, conv.channels, images),
      offsets_(offsets_of(conv, panel_, 1)),
      length_(std::min(run_length(panel_, ranges_), panel_.positions)) {
  for (int64_t first = 0; first < panel_.positions; first += length_)
    runs_.push_back(segments(panel_, first, std::min(panel_.positions, first + length_)));
  ld_ = (length_ + kLanes - 1) / kLanes * kLanes;
  planes_ = (panel_.size + kLanes - 1) / kLanes * kLanes;
  results_ = widest(ranges_) * ld_;
  const int64_t dense = std::max(ld_, (kLanes * conv.columns.out + kLanes - 1) / kLanes * kLanes);
  buffer_ = results_ + (job.direct() ? 0 : dense);
}

int64_t PlanarPlan::shares(int64_t threads) const {
  return std::min(threads, static_cast<int64_t>(runs_.size() * ranges_.size()));
}

void PlanarPlan::run(const Job& given, int64_t image, int64_t shares, float* scratch) const {
  const Job job = given.with(conv_);
  const int64_t count = static_cast<int64_t>(ranges_.size());
  const int64_t runs = static_cast<int64_t>(runs_.size()), parts = parts_for(runs, count, shares);
  pack(job, panel_, image, scratch);
  std::fill(scratch + panel_.size - kOverrun, scratch + panel_.size, 0.0f);
  torch::stable::parallel_for(0, shares, 1, [&](int64_t s0, int64_t s1) {
    for (int64_t s = s0; s < s1; ++s) {
      float* buffer = scratch + planes_ + s * buffer_;
      for (int64_t i = runs * parts * s / shares; i < runs * parts * (s + 1) / shares; ++i) {
        const int64_t part = i % parts, run = i / parts, first = run * length_;
        const int64_t last = std::min(panel_.positions, first + length_);
        for (int64_t r = count * part / parts; r < count * (part + 1) / parts; ++r)
          run_range(job, ranges_[r], panel_, scratch, offsets_.data(), runs_[run], image, first,
                    last, buffer, ld_, buffer + results_);
      }
    }
  });
}

void forward_planar(const Job& job, int64_t from, int64_t to) {
  const Convolution laid = laid_out(job, ranges_of(job), to - from);
  const int64_t chunk = laid.chunk(laid.channels, to - from);
  const int64_t threads = torch::stable::get_num_threads();
  for (int64_t n = from; n < to;) {
    // The last chunk may be smaller.
    const int64_t size = std::min(chunk, to - n);
    const PlanarPlan plan(job, ranges_of(job), laid, size);
    const int64_t shares = plan.shares(threads);
    const Scratch<float> scratch(plan.scratch(shares));
    for (; n + size <= to; n += size) plan.run(job, n, shares, scratch.get());
  }
}

}  // namespace sparse_ops
