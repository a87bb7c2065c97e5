// Winograd's two ends and a product between them, against the convolution.
#include "microkernels.h"

#include <algorithm>

namespace checking {

namespace {

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

// The size of a tile, and what the two ends at most multiply by what they add up: x by up to 4, or
// 33, and its products by up to 1, or 12.
struct Transform {
  int64_t side;
  const double (*rows)[3];
  double growth;
};
const Transform kTransforms[] = {{2, kTwo, 4}, {4, kFour, 33 * 12}};

// Multiplies each position by what a filter is there; returns how much that is, all together.
double multiply(const Transform& transform, const double (&g)[3][3], int64_t step, float* at) {
  const int64_t points = transform.side + 2;
  double size = 0;
  over({points, points}, [&](int64_t down, int64_t right) {
    double u = 0;
    over({3, 3}, [&](int64_t r, int64_t c) {
      u += transform.rows[down][r] * g[r][c] * transform.rows[right][c];
    });
    size += std::abs(u);
    float* position = at + (down * points + right) * step;
    for (int64_t i = 0; i < step; ++i) position[i] *= static_cast<float>(u);
  });
  return size;
}

void check(const RowSparseKernels& kernels, const Transform& transform, int64_t tiles) {
  const int64_t side = transform.side, points = side + 2;
  const int64_t columns = side * tiles + 2, line = columns * kLanes, step = tiles * kLanes;
  WinogradWork work = {};
  work.side = side;
  work.tiles = tiles;
  work.position_step = step;
  work.lines = side - below(2);
  work.width = side * tiles - below(side);
  // No further than the output reaches, so that what is written beyond it shows.
  const int64_t out_line = work.out_line = work.added_line = work.width * kLanes;
  work.activation = any_activation();
  Floats x(points * line), positions(points * points * step, false), bias(kLanes);
  Floats added(work.lines * out_line), out(work.lines * out_line, false);
  double g[3][3], most = 0;
  for (auto& row : g)
    for (double& each : row) each = number();
  for (int64_t i = 0; i < points * line; ++i) most = std::max<double>(most, std::abs(x[i]));
  kernels.winograd_in(work, x.get(), line, points, columns, positions.get());
  const double size = multiply(transform, g, step, positions.get());
  kernels.winograd_out(work, positions.get(), step, bias.get(), added.get(), out.get());
  over({work.lines, work.width, kLanes}, [&](int64_t l, int64_t p, int64_t i) {
    const int64_t at = l * out_line + p * kLanes + i;
    Exact exact;
    over({3, 3}, [&](int64_t y, int64_t c) {
      exact.add(g[y][c], x[(l + y) * line + (p + c) * kLanes + i]);
    });
    exact.plus(bias[i]).plus(added[at]);
    exact.size += transform.growth * most * size;
    compare("winograd", out[at], exact, work.activation);
  });
}

}  // namespace

void test_winograd(const RowSparseKernels& kernels) {
  for (const Transform& transform : kTransforms)
    for (int64_t tiles = 1; tiles <= kMostTiles; ++tiles) check(kernels, transform, tiles);
}

}  // namespace checking
