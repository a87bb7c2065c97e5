// Vectors of filters: kLanes filters that keep the same columns, times broadcast pixels.
//
// Images are stored padded, with kLanes channels of a pixel next to each other, so that a tap of
// any stride is a shift and no position is computed for nothing. Weights are turned once a call,
// kLanes filters innermost. Each piece of work (some images, some lines, some filters) packs what
// it reads, computes, and writes its results in the layout asked for.
#include "conv2d.h"
#include "scratch.h"
#include "second_cache.h"

namespace sparse_ops {
namespace {

// What a piece of work reads and writes should fit half of the second cache.
int64_t slab() { return second_cache() / 2; }

int64_t up(int64_t value, int64_t step) { return (value + step - 1) / step; }

// One to max_units units of kLanes filters that keep the same columns: first, first + classes, ...
struct Bundle {
  int64_t first;
  int count;  // filters
  int units;
  int64_t weights;  // where its (k, units * kLanes) turned weights start
  int64_t bias;     // where its (units * kLanes) biases start
  int64_t results;  // which unit of its section is its first
};

// Filters [first, last), all classes of them: what is written together.
struct Section {
  int64_t first, last, units;
  std::vector<Bundle> bundles;
};

struct Sections {
  std::vector<Section> all;
  int64_t weights = 0, biases = 0, units = 0;

  explicit Sections(const Job& job) {
    const int64_t per_group = job.conv.group_filters(), classes = job.rows.classes;
    int64_t max_units = job.kernels.max_units;
    // No more than the filters fill.
    while (max_units > 1 && per_group <= classes * kLanes * (max_units - 1)) --max_units;
    const int64_t span = classes * kLanes * max_units;
    for (int64_t g = 0; g < job.conv.groups; ++g)
      for (int64_t f = g * per_group; f < (g + 1) * per_group; f += span) {
        Section section{f, std::min(f + span, (g + 1) * per_group), 0, {}};
        for (int64_t o = f; o < std::min(section.last, f + classes); ++o) {
          const int count = static_cast<int>(up(section.last - o, classes));
          const int n = static_cast<int>(up(count, kLanes));
          section.bundles.push_back({o, count, n, weights, biases, section.units});
          weights += job.rows.length(o) * n * kLanes;
          biases += n * kLanes;
          section.units += n;
        }
        units = std::max(units, section.units);
        all.push_back(std::move(section));
      }
  }
};

// The turned weights of all sections; filters that fill up a unit are zero.
struct Turned {
  Scratch<float> weights, bias;

  Turned(const Job& job, const Sections& sections)
      : weights(sections.weights), bias(sections.biases) {
    std::vector<const Bundle*> bundles;
    for (const Section& section : sections.all)
      for (const Bundle& bundle : section.bundles) bundles.push_back(&bundle);
    torch::stable::parallel_for(0, static_cast<int64_t>(bundles.size()), 4,
                                [&](int64_t b0, int64_t b1) {
                                  for (int64_t b = b0; b < b1; ++b) turn(job, *bundles[b]);
                                });
  }

  void turn(const Job& job, const Bundle& bundle) {
    const int64_t k = job.rows.length(bundle.first), step = bundle.units * kLanes;
    const int64_t classes = job.rows.classes;
    for (int i = 0; i < bundle.units * kLanes; ++i)
      bias.get()[bundle.bias + i] =
          job.bias && i < bundle.count ? job.bias[bundle.first + i * classes] : 0.0f;
    for (int u = 0; u < bundle.units; ++u) {
      const int64_t o = bundle.first + u * kLanes * classes;
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, bundle.count - u * kLanes));
      float* to = weights.get() + bundle.weights + u * kLanes;
      const float* from = job.rows.values + job.rows.start[o];
      // From a filter to the next of its class all classes come by once.
      const int64_t apart = job.rows.crow[classes];
      if (lanes == kLanes) {
        job.kernels.interleave(k, from, apart, 1, to, step);
        continue;
      }
      for (int64_t j = 0; j < k; ++j)
        for (int l = 0; l < kLanes; ++l) to[j * step + l] = l < lanes ? from[l * apart + j] : 0.0f;
    }
  }
};

// How work is cut up, and where a piece keeps its padded input: (channel block, image, line,
// column, kLanes).
struct Pieces {
  int64_t images, lines;            // at a time
  int64_t image_steps, line_steps;  // how many of those
  int64_t parts;                    // of the sections
  int64_t height, width;            // padded lines and columns of one piece
  int64_t plane;                    // from one channel block to the next

  Pieces(const Job& job, const Sections& sections) {
    const Convolution& conv = job.conv;
    const Axis &rows = conv.rows, &columns = conv.columns;
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t blocks = up(conv.channels, kLanes);
    width = (columns.out - 1) * columns.stride + columns.dilation * (columns.kernel - 1) + 1;
    const auto padded = [&](int64_t l) {
      return (l - 1) * rows.stride + rows.dilation * (rows.kernel - 1) + 1;
    };
    const auto size = [&](int64_t l) {
      return kLanes * (blocks * padded(l) * width + sections.units * l * columns.out);
    };
    lines = rows.out;
    while (lines > 4 && size(lines) > slab()) lines = up(lines, 2);
    // More lines at once read fewer lines twice; fewer are more pieces for the threads.
    if (threads > 1)
      while (lines > 8 && conv.batch * up(rows.out, lines) < 4 * threads) lines = up(lines, 2);
    line_steps = up(rows.out, lines);
    lines = up(rows.out, line_steps);
    images = 1;
    if (line_steps == 1)
      images = std::clamp<int64_t>(slab() / size(lines), 1, up(conv.batch, threads));
    image_steps = up(conv.batch, images);
    images = up(conv.batch, image_steps);
    parts = parts_for(image_steps * line_steps, static_cast<int64_t>(sections.all.size()), threads);
    height = padded(lines);
    // An odd number of cache lines: planes a power of two apart would crowd the same cache sets.
    plane = (images * height * width | 1) * kLanes;
  }

  int64_t count() const { return image_steps * line_steps * parts; }
  // Floats for results, for those of one unit of each class, and for all that a piece needs.
  int64_t results(const Job& job, const Sections& sections) const {
    return sections.units * images * lines * job.conv.columns.out * kLanes;
  }
  int64_t dense(const Job& job) const {
    return job.rows.classes * lines * job.conv.columns.out * kLanes;
  }
  int64_t scratch(const Job& job, const Sections& sections) const {
    const int64_t pointers = up(job.rows.classes * 2, kLanes) * kLanes;
    return up(job.conv.channels, kLanes) * plane + results(job, sections) + dense(job) + pointers;
  }
};

// Where a piece's panel has what each class of each group of filters keeps: found once a call.
class Offsets {
 public:
  Offsets(const Job& job, const Pieces& pieces)
      : classes_(job.rows.classes),
        // One more than is kept is read ahead.
        step_(job.rows.crow[classes_] + classes_),
        offsets_(job.conv.groups * step_, 0),
        crow_(job.rows.crow) {
    const Convolution& conv = job.conv;
    STD_TORCH_CHECK(up(conv.channels, kLanes) * pieces.plane < std::numeric_limits<int32_t>::max(),
                    "one padded image must be under 2^31 values");
    const int64_t taps = conv.taps(), channels = conv.group_channels();
    std::vector<int32_t> of_column(channels * taps);
    for (int64_t g = 0; g < conv.groups; ++g) {
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t t = 0; t < taps; ++t) {
          const int64_t channel = g * channels + c;
          const int64_t y = t / conv.columns.kernel * conv.rows.dilation;
          const int64_t x = t % conv.columns.kernel * conv.columns.dilation;
          of_column[c * taps + t] = static_cast<int32_t>(
              channel / kLanes * pieces.plane + (y * pieces.width + x) * kLanes + channel % kLanes);
        }
      for (int64_t c = 0; c < classes_; ++c)
        for (int64_t j = crow_[c]; j < crow_[c + 1]; ++j)
          offsets_[g * step_ + j + c] = of_column[job.rows.col[j]];
    }
  }

  const int32_t* of(int64_t group, int64_t filter) const {
    const int64_t c = filter % classes_;
    return offsets_.data() + group * step_ + crow_[c] + c;
  }

 private:
  int64_t classes_, step_;
  std::vector<int32_t> offsets_;
  const int32_t* crow_;
};

class Piece {
 public:
  Piece(const Job& job, const Sections& sections, const Turned& turned, const Pieces& pieces,
        const Offsets& offsets, float* scratch)
      : job_(job),
        conv_(job.conv),
        sections_(sections),
        turned_(turned),
        pieces_(pieces),
        offsets_(offsets),
        panel_(scratch),
        results_(panel_ + up(conv_.channels, kLanes) * pieces.plane),
        dense_(results_ + pieces.results(job, sections)),
        woven_(reinterpret_cast<const float**>(dense_ + pieces.dense(job))) {}

  void run(int64_t number) {
    const int64_t part = number % pieces_.parts, place = number / pieces_.parts;
    image_ = place / pieces_.line_steps * pieces_.images;
    images_ = std::min(pieces_.images, conv_.batch - image_);
    line_ = place % pieces_.line_steps * pieces_.lines;
    lines_ = std::min(pieces_.lines, conv_.rows.out - line_);
    if (images_ <= 0 || lines_ <= 0) return;
    const int64_t count = static_cast<int64_t>(sections_.all.size());
    const int64_t s0 = count * part / pieces_.parts, s1 = count * (part + 1) / pieces_.parts;
    // Only the groups that these filters read.
    const int64_t group = conv_.group_channels(), filters = conv_.group_filters();
    pack(sections_.all[s0].first / filters * group,
         ((sections_.all[s1 - 1].last - 1) / filters + 1) * group);
    for (int64_t s = s0; s < s1; ++s) {
      for (const Bundle& bundle : sections_.all[s].bundles) compute(bundle);
      for (int64_t n = 0; n < images_; ++n) write(sections_.all[s], n);
    }
  }

 private:
  int64_t pixel() const { return line_ * conv_.columns.out; }
  int64_t pixels() const { return lines_ * conv_.columns.out; }
  int64_t unit_size() const { return images_ * pixels() * kLanes; }

  // Channels [first, last), in whole blocks, with their padding.
  void pack(int64_t first, int64_t last) {
    const Axis &rows = conv_.rows, &columns = conv_.columns;
    const int64_t left = std::min(columns.padding, pieces_.width);
    const int64_t size = std::min(columns.size, pieces_.width - left);
    for (int64_t block = first / kLanes; block < up(last, kLanes); ++block)
      for (int64_t n = 0; n < images_; ++n)
        for (int64_t l = 0; l < pieces_.height; ++l) {
          float* to =
              panel_ + block * pieces_.plane + (n * pieces_.height + l) * pieces_.width * kLanes;
          const int64_t y = line_ * rows.stride - rows.padding + l;
          if (y < 0 || y >= rows.size || size <= 0) {
            std::fill(to, to + pieces_.width * kLanes, 0.0f);
            continue;
          }
          std::fill(to, to + left * kLanes, 0.0f);
          pack_line(job_.image(image_ + n) + y * columns.size * job_.in.pixel, block * kLanes, size,
                    to + left * kLanes);
          std::fill(to + (left + size) * kLanes, to + pieces_.width * kLanes, 0.0f);
        }
  }

  void pack_line(const Source& x, int64_t channel, int64_t length, float* to) {
    const int64_t lanes = std::min(kLanes, conv_.channels - channel);
    const EndKernels& ends = job_.kernels.ends[x.type];
    if (lanes == kLanes && !job_.in_channels) {
      const Source from = x + channel * job_.in.channel;
      if (job_.in.channel == 1)
        ends.copy(length, kLanes, from.at, job_.in.pixel, to, kLanes, 0);
      else
        ends.interleave(length, from.at, job_.in.channel, 1, to, kLanes);
      return;
    }
    // Channels that are not there have no weights that could read them.
    int64_t index[kLanes];
    for (int64_t l = 0; l < lanes; ++l) index[l] = job_.in_channel(channel + l) * job_.in.channel;
    if (job_.in.pixel != 1) {
      ends.pick(length, lanes, x.at, job_.in.pixel, index, to, kLanes);
      return;
    }
    for (int64_t l = 0; l < lanes; ++l) ends.read(length, (x + index[l]).at, 1, to + l, kLanes);
  }

  void compute(const Bundle& bundle) {
    const Axis &rows = conv_.rows, &columns = conv_.columns;
    const int64_t k = job_.rows.length(bundle.first);
    const int64_t line_step = pieces_.width * kLanes, image_step = pieces_.height * line_step;
    const int64_t out_line = columns.out * kLanes;
    job_.kernels.channels(bundle.units,
                          {images_, lines_, columns.out, k,
                           offsets_.of(bundle.first / conv_.group_filters(), bundle.first),
                           turned_.weights.get() + bundle.weights, turned_.bias.get() + bundle.bias,
                           panel_, image_step, rows.stride * line_step, columns.stride * kLanes,
                           results_ + bundle.results * unit_size(), lines_ * out_line, out_line,
                           unit_size(), job_.inner()});
  }

  void write(const Section& section, int64_t n) {
    const float* results = results_ + n * pixels() * kLanes;
    const int64_t whole = section.units * kLanes;
    if (job_.out.channel == 1 && !job_.out_channels && section.last - section.first == whole) {
      // Every class has as many units: the u-th ones of all classes are neighbours.
      for (int u = 0; u < section.bundles[0].units; ++u) write_woven(section, u, n, results);
      return;
    }
    for (const Bundle& bundle : section.bundles)
      for (int u = 0; u < bundle.units; ++u)
        write_unit(bundle, u, n, results + (bundle.results + u) * unit_size());
  }

  void write_woven(const Section& section, int u, int64_t n, const float* results) {
    const int64_t classes = job_.rows.classes;
    const Spot first{image_ + n, section.first + u * kLanes * classes, pixel()};
    for (int64_t c = 0; c < classes; ++c)
      woven_[c] = results + (section.bundles[c].results + u) * unit_size();
    const int ways = static_cast<int>(classes);
    if (job_.direct()) {
      job_.kernels.weave(ways, pixels(), woven_, job_.floats(first), job_.out.pixel);
      return;
    }
    const int64_t length = classes * kLanes;
    job_.kernels.weave(ways, pixels(), woven_, dense_, length);
    job_.put(first, {0, 0, 1}, pixels(), length, dense_, length);
  }

  void write_unit(const Bundle& bundle, int u, int64_t n, const float* results) {
    const int64_t classes = job_.rows.classes, filter = bundle.first + u * kLanes * classes;
    const int64_t lanes = std::min<int64_t>(kLanes, bundle.count - u * kLanes);
    if (job_.out.pixel != 1) {
      int64_t channels[kLanes];
      for (int64_t l = 0; l < lanes; ++l) channels[l] = job_.out_channel(filter + l * classes);
      job_.scatter({image_ + n, 0, pixel()}, pixels(), channels, lanes, results, kLanes);
      return;
    }
    const Spot first{image_ + n, filter, pixel()};
    if (lanes == kLanes && !job_.out_channels && job_.direct()) {
      job_.kernels.separate(pixels(), results, kLanes, job_.floats(first),
                            classes * job_.out.channel);
      return;
    }
    job_.kernels.separate(pixels(), results, kLanes, dense_, pixels());
    for (int64_t l = 0; l < lanes; ++l)
      job_.put({first.image, job_.out_channel(filter + l * classes), first.pixel}, {}, 1, pixels(),
               dense_ + l * pixels(), 0);
  }

  const Job& job_;
  const Convolution& conv_;
  const Sections& sections_;
  const Turned& turned_;
  const Pieces& pieces_;
  const Offsets& offsets_;
  float *panel_, *results_, *dense_;
  const float** woven_;
  int64_t image_ = 0, images_ = 0, line_ = 0, lines_ = 0;
};

}  // namespace

bool wide_classes(int64_t filters, int64_t groups, int64_t classes) {
  const int64_t per_group = filters / groups, width = up(per_group, classes);
  // Units that are filled to four fifths.
  return (groups == 1 || per_group % classes == 0) && width * 5 >= up(width, kLanes) * kLanes * 4;
}

struct ChannelsPlan::Parts {
  Sections sections;
  Turned turned;
  Pieces pieces;
  Offsets offsets;
  int64_t scratch;

  explicit Parts(const Job& job)
      : sections(job),
        turned(job, sections),
        pieces(job, sections),
        offsets(job, pieces),
        scratch(pieces.scratch(job, sections)) {}
};

ChannelsPlan::ChannelsPlan(const Job& job) : parts_(std::make_unique<const Parts>(job)) {}
ChannelsPlan::~ChannelsPlan() = default;

int64_t ChannelsPlan::shares(int64_t threads) const {
  return std::min(threads, parts_->pieces.count());
}

int64_t ChannelsPlan::scratch(int64_t shares) const { return shares * parts_->scratch; }

void ChannelsPlan::run(const Job& job, int64_t shares, float* scratch) const {
  const Parts& p = *parts_;
  torch::stable::parallel_for(0, shares, 1, [&](int64_t s0, int64_t s1) {
    for (int64_t s = s0; s < s1; ++s) {
      Piece piece(job, p.sections, p.turned, p.pieces, p.offsets, scratch + s * p.scratch);
      const int64_t count = p.pieces.count();
      for (int64_t i = count * s / shares; i < count * (s + 1) / shares; ++i) piece.run(i);
    }
  });
}

void forward_channels(const Job& job) {
  const ChannelsPlan plan(job);
  const int64_t shares = plan.shares(torch::stable::get_num_threads());
  const Scratch<float> scratch(plan.scratch(shares));
  plan.run(job, shares, scratch.get());
}

}  // namespace sparse_ops
