// The microkernels' contract on raw pointers, without torch: guards of NaN on both sides of
// everything, float64, and the portable kernels. Prints what is wrong, and for each instruction set
// what was compared.
#include "checking.h"

#include <algorithm>

using namespace sparse_ops;
using namespace checking;

namespace {

// Sums over nothing, a few, more than a vector; and longer than a piece (vector_body.h).
const int64_t kLengths[] = {0, 1, 3, 17, 40, 300};

// Column c of a panel starts at offsets[c]; `count` offsets, and `spare` more that can be read.
std::vector<int32_t> places(int64_t count, int64_t limit, int64_t spare = 0) {
  std::vector<int32_t> result(count + spare, 0);
  for (int64_t i = 0; i < count; ++i) result[i] = static_cast<int32_t>(below(limit));
  return result;
}

void test_rows(const RowSparseKernels& kernels) {
  for (int rows = 1; rows <= kernels.max_rows; rows *= 2)
    for (const int64_t k : kLengths)
      for (const int64_t positions : {1, 15, 16, 57, 130, 257}) {
        const int64_t columns = 9, ld = (positions + 15) / 16 * 16 + 16;
        const Activation activation = any_activation();
        const auto offsets = places(columns, 50), which = places(k, columns);
        Floats panel(50 + positions), bias(rows), out(rows * ld, false);
        std::vector<std::vector<float>> weights(rows, std::vector<float>(k));
        const float* pointers[kMaxRows];
        for (int r = 0; r < rows; ++r) {
          for (float& w : weights[r]) w = number();
          pointers[r] = weights[r].data();
        }
        const bool biased = k % 2;
        kernels.rows(rows, k, which.data(), offsets.data(), pointers, biased ? bias.get() : nullptr,
                     panel.get(), positions, out.get(), ld, activation);
        for (int r = 0; r < rows; ++r)
          for (int64_t p = 0; p < positions; ++p) {
            Exact exact;
            for (int64_t j = 0; j < k; ++j) exact.add(weights[r][j], panel[offsets[which[j]] + p]);
            if (biased) exact.add(1, bias[r]);
            compare("rows", out[r * ld + p], exact, activation);
          }
      }
}

void test_blocked(const RowSparseKernels& kernels) {
  for (int rows = 1; rows <= kernels.max_rows; ++rows)
    for (const int64_t k : kLengths)
      for (int64_t stride = 1; stride <= 2; ++stride)
        for (const int64_t width : {1, 2, 7, 16, 19}) {
          const int64_t lines = 1 + below(5), line = (stride * width + 2) * kLanes;
          const int64_t plane = line * (lines + 2), out_step = (width + 1) * kLanes;
          const auto offsets = places(k, 2 * kLanes, kSpareOffsets);
          Floats panel(plane + 2 * kLanes), weights(k * rows);
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
          const bool adds = below(2);
          for (int r = 0; r < rows; ++r) {
            out.emplace_back((lines - 1) * out_step + width * kLanes, false);
            added.emplace_back((lines - 1) * out_step + width * kLanes);
            work.bias[r] = number();
            work.out[r] = out[r].get();
            work.added[r] = adds ? added[r].get() : nullptr;
          }
          kernels.blocked(rows, work);
          for (int r = 0; r < rows; ++r)
            for (int64_t l = 0; l < lines; ++l)
              for (int64_t p = 0; p < width; ++p)
                for (int64_t i = 0; i < kLanes; ++i) {
                  const int64_t at = l * out_step + p * kLanes + i;
                  Exact exact;
                  for (int64_t j = 0; j < k; ++j)
                    exact.add(weights[j * rows + r],
                              panel[offsets[j] + l * line + p * work.pixel_step + i]);
                  exact.add(1, work.bias[r]);
                  if (adds) exact.add(1, added[r][at]);
                  compare("blocked", out[r][at], exact, work.activation);
                }
        }
}

void test_channels(const RowSparseKernels& kernels) {
  for (int units = 1; units <= kernels.max_units; ++units)
    for (const int64_t k : kLengths)
      for (const int64_t pixel : {int64_t{1}, int64_t{3}, kLanes, 2 * kLanes})
        for (const int64_t width : {1, 2, 5, 14, 17}) {
          const int64_t lines = 1 + below(4), images = 1 + below(3);
          const int64_t line = width * pixel + 5, image = line * (lines + 1);
          const auto offsets = places(k, 20, 1);
          const int64_t out_line = width * kLanes, out_image = lines * out_line;
          const int64_t unit = images * out_image + 16;
          Floats panel(images * image + 20), weights(k * units * kLanes), bias(units * kLanes);
          Floats out(units * unit, false);
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
          for (int u = 0; u < units; ++u)
            for (int64_t n = 0; n < images; ++n)
              for (int64_t l = 0; l < lines; ++l)
                for (int64_t p = 0; p < width; ++p)
                  for (int64_t i = 0; i < kLanes; ++i) {
                    Exact exact;
                    for (int64_t j = 0; j < k; ++j)
                      exact.add(weights[(j * units + u) * kLanes + i],
                                panel[offsets[j] + n * image + l * line + p * pixel]);
                    exact.add(1, bias[u * kLanes + i]);
                    compare("channels",
                            out[u * unit + n * out_image + l * out_line + p * kLanes + i], exact,
                            work.activation);
                  }
        }
}

void test_tiles(const TileKernels& tiles) {
  int64_t found = 0;
  for (int units = 1; units <= kMostUnits; ++units)
    for (const int64_t pixel : {int64_t{1}, int64_t{2}, kLanes, 2 * kLanes})
      for (int width = 1; width <= tiles.pixels[units]; ++width)
        for (int lines = 1; lines * width <= tiles.pixels[units]; ++lines) {
          const Tile tile = tiles.tile(units, width, lines, pixel);
          if (!tile) continue;
          ++found;
          for (const int64_t k : kLengths) {
            const int64_t line = width * pixel + 3, out_line = width * kLanes;
            const int64_t out_unit = lines * out_line + 16, step = (k + 1) * kLanes;
            const auto offsets = places(k, 20, 1), later = places(k, 20, 1);
            Floats panel(line * lines + 20), weights(units * step), bias(units * kLanes);
            Floats out(units * out_unit, false), added(units * out_unit);
            TileWork work = {};
            work.k = k;
            work.offsets = offsets.data();
            work.weights = weights.get();
            work.weight_step = step;
            work.bias = bias.get();
            work.line_step = line;
            work.out_line = work.added_line = out_line;
            work.out_unit = work.added_unit = out_unit;
            work.ahead = panel.get();
            work.later = later.data();
            work.activation = any_activation();
            const bool adds = below(2);
            tile(work, panel.get(), out.get(), adds ? added.get() : nullptr);
            for (int u = 0; u < units; ++u)
              for (int64_t l = 0; l < lines; ++l)
                for (int64_t p = 0; p < width; ++p)
                  for (int64_t i = 0; i < kLanes; ++i) {
                    const int64_t at = u * out_unit + l * out_line + p * kLanes + i;
                    Exact exact;
                    for (int64_t j = 0; j < k; ++j)
                      exact.add(weights[u * step + j * kLanes + i],
                                panel[offsets[j] + l * line + p * pixel]);
                    exact.add(1, bias[u * kLanes + i]);
                    if (adds) exact.add(1, added[at]);
                    compare("tile", out[at], exact, work.activation);
                  }
          }
        }
  if (found < 4) fail("there are only " + std::to_string(found) + " tiles");
}

void test_depthwise(const TileKernels& tiles) {
  for (const int64_t taps : {1, 9, 25})
    for (const int64_t pixel : {kLanes, 2 * kLanes, 3 * kLanes})
      for (const int64_t width : {1, 5, 14, 29}) {
        const int64_t lines = 3, line = (width + 2) * pixel, out_line = width * kLanes;
        auto offsets = places(taps, 2);
        for (int32_t& each : offsets) each *= kLanes;
        Floats panel(line * lines + 2 * kLanes), weights(taps * kLanes), bias(kLanes);
        Floats out(lines * out_line, false), added(lines * out_line);
        DepthwiseWork work = {};
        work.lines = lines;
        work.width = width;
        work.taps = taps;
        work.offsets = offsets.data();
        work.weights = weights.get();
        work.bias = bias.get();
        work.panel = panel.get();
        work.line_step = line;
        work.pixel_step = pixel;
        work.out = out.get();
        work.out_line = work.added_line = out_line;
        work.added = width % 2 ? added.get() : nullptr;
        work.activation = any_activation();
        tiles.depthwise(work);
        for (int64_t l = 0; l < lines; ++l)
          for (int64_t p = 0; p < width; ++p)
            for (int64_t i = 0; i < kLanes; ++i) {
              const int64_t at = l * out_line + p * kLanes + i;
              Exact exact;
              for (int64_t t = 0; t < taps; ++t)
                exact.add(weights[t * kLanes + i], panel[offsets[t] + l * line + p * pixel + i]);
              exact.add(1, bias[i]);
              if (work.added) exact.add(1, added[at]);
              compare("depthwise", out[at], exact, work.activation);
            }
      }
}

// A sparse matrix of some rows, the first of them empty, with rising columns.
struct Matrix {
  std::vector<int32_t> crow = {0, 0}, columns;
  std::vector<float> values;

  Matrix(int64_t rows, int64_t width) {
    for (int64_t r = 1; r < rows; ++r) {
      for (int64_t c = 0; c < width; ++c)
        if (below(3) == 0) {
          columns.push_back(static_cast<int32_t>(c));
          values.push_back(number());
        }
      crow.push_back(static_cast<int32_t>(columns.size()));
    }
  }
  // Row o times column b of x, which is `batch` wide.
  Exact times(int64_t o, const Floats& x, int64_t batch, int64_t b) const {
    Exact exact;
    for (int32_t k = crow[o]; k < crow[o + 1]; ++k) exact.add(values[k], x[columns[k] * batch + b]);
    return exact;
  }
};

void test_linear(const RowSparseKernels& kernels) {
  const int64_t rows = 23, width = 90, first = 1;
  const Matrix matrix(rows, width);
  Floats bias(rows);
  const SparseWork work = {
      first, rows, matrix.crow.data(), matrix.columns.data(), matrix.values.data(), bias.get()};
  const auto check = [&](const char* what, Floats& y, const Floats& x, int64_t batch,
                         Activation activation) {
    for (int64_t o = first; o < rows; ++o)
      for (int64_t b = 0; b < batch; ++b) {
        Exact exact = matrix.times(o, x, batch, b);
        exact.add(1, bias[o]);
        compare(what, y[(o - first) * batch + b], exact, activation);
      }
  };
  for (int again = 0; again < 8; ++again) {
    const Activation activation = any_activation();
    Floats one(width), four(4 * width, true, 0), y(rows - first, false),
        y4(4 * (rows - first), false);
    kernels.gather(first, rows, matrix.crow.data(), matrix.columns.data(), matrix.values.data(),
                   bias.get(), one.get(), y.get(), activation);
    check("gather", y, one, 1, activation);
    kernels.gather4(first, rows, matrix.crow.data(), matrix.columns.data(), matrix.values.data(),
                    bias.get(), four.get(), y4.get(), activation);
    check("gather4", y4, four, 4, activation);
  }
  Floats one(width), four(4 * width, true, 0), y(rows - first, false);
  Floats y4(4 * (rows - first), false, 0);
  kernels.tiles->sparse_one(work, one.get(), y.get());
  check("sparse_one", y, one, 1, kNone);
  kernels.tiles->sparse_four(work, four.get(), y4.get());
  check("sparse_four", y4, four, 4, kNone);
  for (int units = 1; units <= kernels.tiles->most_lines; ++units) {
    const int64_t batch = units * kLanes;
    Floats x(batch * width), out(batch * (rows - first), false);
    kernels.tiles->sparse_lines(units, work, x.get(), out.get());
    check("sparse_lines", out, x, batch, kNone);
  }
}

void test_stretch(const RowSparseKernels& kernels) {
  const int64_t rows = 11, width = 120;
  for (int units = 1; units <= kernels.max_stretch; ++units)
    for (const int64_t limit : {width, int64_t{50}}) {
      const Matrix matrix(rows, width);
      const int64_t batch = units * kLanes;
      Floats panel(width * batch), sums(rows * batch, false), bias(rows);
      std::vector<int32_t> cursors(matrix.crow.begin(), matrix.crow.end() - 1);
      Stretch stretch = {};
      stretch.rows = rows;
      stretch.ends = matrix.crow.data() + 1;
      stretch.cursors = cursors.data();
      stretch.columns = matrix.columns.data();
      stretch.values = matrix.values.data();
      stretch.panel = panel.get();
      stretch.sums = sums.get();
      stretch.bias = bias.get();
      stretch.activation = any_activation();
      stretch.begin = true;
      if (limit < width) {
        stretch.limit = limit;
        kernels.stretch(units, stretch);
        stretch.begin = false;
      }
      stretch.limit = width;
      stretch.end = true;
      kernels.stretch(units, stretch);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t b = 0; b < batch; ++b) {
          Exact exact = matrix.times(r, panel, batch, b);
          exact.add(1, bias[r]);
          compare("stretch", sums[r * batch + b], exact, stretch.activation);
        }
    }
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
      exact.add(1, before[j]);
      compare("dots", out[j], exact);
    }
  }
}

void test_in_range(const RowSparseKernels& kernels) {
  for (const int64_t count : {1, 5, 16, 37})
    for (const int32_t wrong : {-1, 9, INT32_MIN, INT32_MAX}) {
      std::vector<int32_t> index = places(count, 9);
      if (!kernels.in_range(index.data(), count, 9)) fail("in_range: all are");
      index[below(count)] = wrong;
      if (kernels.in_range(index.data(), count, 9)) fail("in_range: one is not");
    }
}

void test_moves(const RowSparseKernels& kernels) {
  for (const int64_t length : {1, 4, 15, 16, 31}) {
    const int64_t lane = length + 3;
    Floats images(kLanes * lane), blocks(length * kLanes, false), back(kLanes * lane, false);
    kernels.interleave(length, images.get(), lane, 1, blocks.get(), kLanes);
    kernels.separate(length, blocks.get(), kLanes, back.get(), lane);
    for (int64_t l = 0; l < kLanes; ++l)
      for (int64_t i = 0; i < length; ++i) {
        if (blocks[i * kLanes + l] != images[l * lane + i]) fail("interleave");
        if (back[l * lane + i] != images[l * lane + i]) fail("separate");
      }
    for (const int ways : {1, 2, 3, 4, 8}) {
      std::vector<Floats> from;
      from.reserve(ways);
      const float* pointers[8];
      for (int w = 0; w < ways; ++w) {
        from.emplace_back(length * kLanes);
        pointers[w] = from[w].get();
      }
      Floats woven(length * kLanes * ways, false);
      kernels.weave(ways, length, pointers, woven.get(), kLanes * ways);
      for (int64_t i = 0; i < length; ++i)
        for (int64_t l = 0; l < kLanes; ++l)
          for (int w = 0; w < ways; ++w)
            if (woven[(i * kLanes + l) * ways + w] != from[w][i * kLanes + l]) fail("weave");
    }
    const Activation activation = any_activation();
    Floats residual(2 * lane), y(2 * lane);
    std::vector<float> before(y.get(), y.get() + 2 * lane);
    kernels.finish(2, length, lane, residual.get(), y.get(), activation);
    for (int64_t l = 0; l < 2; ++l)
      for (int64_t i = 0; i < lane; ++i) {
        Exact exact;
        exact.add(1, before[l * lane + i]);
        if (i < length) exact.add(1, residual[l * lane + i]);
        compare("finish", y[l * lane + i], exact, i < length ? activation : Activation(kNone));
      }
  }
}

// Rows of G: what three taps become at each point of F(2x2, 3x3), and of F(4x4, 3x3) at 0, +-3/4,
// +-3/2 and infinity.
const double kA = 0.5625, kB = 2.25, kOfA = 2 * kA * (kA - kB), kOfB = 2 * kB * (kB - kA);
const double kTwo[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
const double kFour[6][3] = {{1 / (kA * kB), 0, 0},
                            {1 / kOfA, 0.75 / kOfA, kA / kOfA},
                            {1 / kOfA, -0.75 / kOfA, kA / kOfA},
                            {1 / kOfB, 1.5 / kOfB, kB / kOfB},
                            {1 / kOfB, -1.5 / kOfB, kB / kOfB},
                            {0, 0, 1}};

// Winograd's two ends and a product between them, against the convolution.
void test_winograd(const RowSparseKernels& kernels, int64_t side) {
  const double (*rows)[3] = side == 4 ? kFour : kTwo;
  const int64_t points = side + 2;
  for (int64_t tiles = 1; tiles <= kMostTiles; ++tiles) {
    const int64_t columns = side * tiles + 2, line = columns * kLanes, step = tiles * kLanes;
    const int64_t out_line = side * tiles * kLanes;
    Floats x(points * line), positions(points * points * step, false), bias(kLanes);
    Floats added(side * out_line), out(side * out_line, false);
    WinogradWork work = {};
    work.side = side;
    work.tiles = tiles;
    work.position_step = step;
    work.lines = side - below(2);
    work.width = side * tiles - below(side);
    work.out_line = work.added_line = out_line;
    work.activation = any_activation();
    kernels.winograd_in(work, x.get(), line, points, columns, positions.get());
    double g[3][3], most = 0, size = 0;
    for (auto& row : g)
      for (double& each : row) each = number();
    for (int64_t i = 0; i < points * line; ++i) most = std::max<double>(most, std::abs(x[i]));
    for (int64_t p = 0; p < points * points; ++p) {
      double u = 0;
      for (int r = 0; r < 3; ++r)
        for (int c = 0; c < 3; ++c) u += rows[p / points][r] * g[r][c] * rows[p % points][c];
      size += std::abs(u);
      for (int64_t i = 0; i < step; ++i) positions[p * step + i] *= static_cast<float>(u);
    }
    kernels.winograd_out(work, positions.get(), step, bias.get(), added.get(), out.get());
    for (int64_t l = 0; l < work.lines; ++l)
      for (int64_t p = 0; p < work.width; ++p)
        for (int64_t i = 0; i < kLanes; ++i) {
          const int64_t at = l * out_line + p * kLanes + i;
          Exact exact;
          for (int y = 0; y < 3; ++y)
            for (int c = 0; c < 3; ++c)
              exact.add(g[y][c], x[(l + y) * line + (p + c) * kLanes + i]);
          exact.add(1, bias[i]);
          exact.add(1, added[at]);
          // What the transforms add up: x by up to 4, or 33, and its products by up to 1, or 12.
          exact.size += (side == 4 ? 33 * 12 : 4) * most * size;
          compare("winograd", out[at], exact, work.activation);
        }
  }
}

// From and to 16 bits, as the portable kernels do it.
void test_ends(const RowSparseKernels& kernels, const RowSparseKernels& portable) {
  const int64_t length = 1 << 16;
  std::vector<uint16_t> all(length);
  for (int64_t i = 0; i < length; ++i) all[i] = static_cast<uint16_t>(i);
  for (const Element element : {kHalf, kBFloat}) {
    std::vector<float> a(length + 16, 0.0f), b(length + 16, 0.0f);
    kernels.ends[element].copy(1, length, all.data(), length, a.data(), length, 0);
    portable.ends[element].copy(1, length, all.data(), length, b.data(), length, 0);
    for (int64_t i = 0; i < length; ++i)
      if (std::memcmp(&a[i], &b[i], 4) != 0 && !(std::isnan(a[i]) && std::isnan(b[i])))
        fail("copy of 16 bits " + std::to_string(i));
    // Between them, halfway, and far out.
    std::vector<float> numbers;
    for (int64_t i = 0; i + 1 < length; ++i) {
      numbers.push_back((a[i] + a[i + 1]) / 2);
      numbers.push_back(number() * std::ldexp(1.0f, static_cast<int>(below(60)) - 30));
    }
    const int64_t count = static_cast<int64_t>(numbers.size());
    std::vector<uint16_t> c(count), d(count);
    const auto put = [&](const RowSparseKernels& own, std::vector<uint16_t>& to) {
      own.ends[element].put(1, count, numbers.data(), count, nullptr, 0, to.data(), count, kReLU);
    };
    put(kernels, c);
    put(portable, d);
    for (int64_t i = 0; i < count; ++i)
      if (c[i] != d[i] && !std::isnan(numbers[i])) fail("put of " + std::to_string(numbers[i]));
  }
}

void test_steps(const RowSparseKernels& kernels, const RowSparseKernels& portable) {
  for (const int64_t length : {1, 5, 16, 37}) {
    const int64_t lines = 3, step = length + 4;
    Floats from(lines * step), to(lines * step, false), other(lines * step, false), slopes(length);
    const Lines work = {lines, length, from.get(), step, to.get(), step};
    Lines again = work;
    again.to = other.get();
    const auto same = [&](const std::string& what) {
      for (int64_t l = 0; l < lines; ++l)
        for (int64_t i = 0; i < length; ++i) {
          const float a = to[l * step + i], b = other[l * step + i];
          if (!(std::abs(a - b) <= 16 * 0x1p-24 * std::abs(b) + 1e-30) &&
              !(std::isnan(a) && std::isnan(b)))
            fail(what + " of " + std::to_string(from[l * step + i]));
        }
    };
    for (int64_t function = 1; function <= kReciprocal; ++function) {
      kernels.steps->unary(work, function, 0.7f, 1.3f);
      portable.steps->unary(again, function, 0.7f, 1.3f);
      same("function " + std::to_string(function));
    }
    kernels.steps->prelu(work, slopes.get(), false);
    portable.steps->prelu(again, slopes.get(), false);
    same("prelu");
    const Activation activation = any_activation();
    kernels.steps->affine(work, slopes.get(), slopes.get(), false, activation);
    for (int64_t l = 0; l < lines; ++l)
      for (int64_t i = 0; i < length; ++i) {
        Exact exact;
        exact.add(from[l * step + i], slopes[i]);
        exact.add(1, slopes[i]);
        compare("affine", to[l * step + i], exact, activation);
      }
  }
}

void test(const char* name, const RowSparseKernels& kernels) {
  const RowSparseKernels& portable = *row_sparse_scalar();
  test_rows(kernels);
  test_blocked(kernels);
  test_channels(kernels);
  test_tiles(*kernels.tiles);
  test_depthwise(*kernels.tiles);
  test_linear(kernels);
  test_stretch(kernels);
  test_dots(kernels);
  test_in_range(kernels);
  test_moves(kernels);
  test_winograd(kernels, 2);
  test_winograd(kernels, 4);
  test_ends(kernels, portable);
  test_steps(kernels, portable);
  std::printf("%s: %d wrong\n", name, failures);
}

}  // namespace

int main() {
  test("scalar", *row_sparse_scalar());
#if defined(__aarch64__)
  test("neon", *row_sparse_neon());
#elif defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    test("avx2", *row_sparse_avx2());
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    test("avx512", *row_sparse_avx512());
#endif
  return failures != 0;
}
