// The microkernels of every sparse operator, as tables of functions on raw pointers.
//
// One idea serves linear layers and convolutions, forwards and backwards: a sparse row times a
// panel. A panel is dense memory in which column c of the weight starts at offsets[c], and
// consecutive positions (pixels, or the batch of a linear layer) stand next to each other:
//
//     out[m][p] = bias[m] + sum_k  weights[m][k] * panel[offsets[columns[k]] + p]
//
// Files that implement this are free of torch and of std, so that code compiled for an instruction
// set emits nothing that the linker could share with the rest of the library.
#pragma once
#include <cstdint>

namespace sparse_ops {

// Activations by the numbers of _activation.py.
enum ActivationKind : int32_t {
  kNone = 0,
  kReLU = 1,
  kReLU6 = 2,
  kSiLU = 3,
  kHardswish = 4,
  kGELU = 5,
  kGELUTanh = 6,
  kLeakyReLU = 10,
};

struct Activation {
  ActivationKind kind;
  float slope;  // of kLeakyReLU, below zero

  Activation() = default;
  constexpr Activation(ActivationKind kind, float slope = 0) : kind(kind), slope(slope) {}
};

constexpr int kMaxRows = 8;

// Images that stand next to each other where the batch is innermost: one cache line of them.
constexpr int64_t kLanes = 16;

// Reads past the positions asked for stay under this many floats; panels are that much longer.
constexpr int64_t kOverrun = 256;

// `units` times kLanes rows that keep the same k columns, over rectangles of output pixels of some
// images, in which kLanes channels stand next to each other:
//     out[u][n][l][p][i] = bias[u * kLanes + i]
//         + sum_j  weights[j][u][i] * panel[offsets[j] + n * image_step + l * line_step + p *
//         pixel_step]
// Steps of out are out_image, out_line and kLanes; units are unit_step apart. One more offset than
// k is read.
struct ChannelWork {
  int64_t images, lines, width, k;
  const int32_t* offsets;
  const float* weights;
  const float* bias;
  const float* panel;
  int64_t image_step, line_step, pixel_step;
  float* out;
  int64_t out_image, out_line, unit_step;
  Activation activation;
};

// A stretch of `rows` rows: those weights from cursors[r] on, up to ends[r], whose columns come
// before the limit, and at the end all that are left:
//     sums[r][p] += sum_k  values[k] * panel[columns[k]][p]
// over the positions of `units` cache lines. Sums start with the bias at the beginning, and pass
// through the activation at the end. Cursors move on; a few weights past the limit may be taken.
struct Stretch {
  int64_t rows;
  const int32_t* ends;
  int32_t* cursors;
  const int32_t* columns;
  const float* values;
  int64_t limit;
  const float* panel;
  float* sums;
  const float* bias;
  bool begin, end;
  Activation activation;
};

// Filters that keep the same k columns, over a rectangle of output pixels of kLanes images each,
// from and to images that are blocked (blocked.h), so that all loads are of whole cache lines:
//     out[r][l * out_step + p * kLanes + i] = activation(bias[r] + added[r][l * added_step + p *
//     kLanes + i]
//         + sum_j  weights[j * rows + r] * panel[offsets[j] + l * line_step + p * pixel_step + i])
// kSpareOffsets more offsets can be read; what they point at is only asked for ahead.
struct BlockedWork {
  int64_t lines, width, k;
  const int32_t* offsets;
  const float* weights;
  const float* panel;
  int64_t line_step, pixel_step;
  float bias[kMaxRows];
  float* out[kMaxRows];
  int64_t out_step;
  const float* added[kMaxRows];  // or all null
  int64_t added_step;
  Activation activation;
};
constexpr int64_t kSpareOffsets = 8;

// A strip of tiles of Winograd's F(MxM, 3x3) (Lavin and Gray, arXiv:1509.09308), M = 2 or 4: M
// lines of output of kLanes images or channels, M pixels a tile. What (M + 2)^2 of the input
// become, and of what M^2 of the output are made, are at (M + 2)^2 positions: position_step apart,
// pixels of a tile next to each other.
struct WinogradWork {
  int64_t side;   // M
  int64_t tiles;  // up to kMostTiles
  int64_t position_step;
  int64_t lines, width;  // of the output: up to M, and up to M times the tiles
  int64_t out_line, added_line;
  Activation activation;
};
constexpr int64_t kMostTiles = 8;

// A plane of pooling windows of blocked images, as torch has them; what lies outside does not
// count.
struct PoolWork {
  bool most;             // the largest, else the mean
  int64_t lines, width;  // of the output
  int64_t kernel[2], stride[2], padding[2];
  int64_t size[2];  // of the input
  const float* from;
  int64_t from_step;
  float* to;
  int64_t to_step;
};

// The types of what operators are given and give; they compute in float.
enum Element { kFloat = 0, kHalf = 1, kBFloat = 2 };

// The ends of an operator, for one Element T: from tensors of T to the kernels' floats, and back.
// Pointers without a type are to T; steps are counted in values. Results are rounded to nearest,
// ties to even; NaN stays NaN.
struct EndKernels {
  // Copies `lines` lines of `length` values, whose starts are `from_step` and `to_step` apart, and
  // writes zeros from each line's end up to `gap` floats further.
  void (*copy)(int64_t lines, int64_t length, const void* from, int64_t from_step, float* to,
               int64_t to_step, int64_t gap);

  // to[i * to_step] = from[i * step] for i in [0, length).
  void (*read)(int64_t length, const void* from, int64_t step, float* to, int64_t to_step);

  // As those of RowSparseKernels.
  void (*interleave)(int64_t length, const void* from, int64_t lane_step, int64_t step, float* to,
                     int64_t to_step);
  void (*separate)(int64_t length, const void* from, int64_t from_step, float* to,
                   int64_t lane_step);

  // to = activation(from + residual), for lines of `length` values that start a step apart in each.
  // residual may be null; `to` must not overlap `from`.
  void (*put)(int64_t lines, int64_t length, const float* from, int64_t from_step,
              const void* residual, int64_t residual_step, void* to, int64_t to_step,
              Activation activation);

  // to[i * to_step + l] = from[i * step + index[l]] for i in [0, length), l in [0, lanes), lanes
  // being up to kLanes.
  void (*pick)(int64_t length, int64_t lanes, const void* from, int64_t step, const int64_t* index,
               float* to, int64_t to_step);

  // to[i * to_step + index[l]] = activation(from[i * from_step + l] + residual[i * residual_step +
  // index[l]]), likewise; without residual it is from[i * from_step + l].
  void (*scatter)(int64_t length, int64_t lanes, const float* from, int64_t from_step,
                  const int64_t* index, const void* residual, int64_t residual_step, void* to,
                  int64_t to_step, Activation activation);

  // As `put`, for one line of values that are a step apart in each.
  void (*write)(int64_t length, const float* from, int64_t from_step, const void* residual,
                int64_t residual_step, void* to, int64_t to_step, Activation activation);
};

struct TileKernels;
// What programs do beside convolutions and linear layers: steps.h.
struct StepKernels;

struct RowSparseKernels {
  // `rows` rows (1 to max_rows) that keep the same k columns, over positions [0, positions).
  // Writes all of out (rows, ld), ld >= positions rounded up to 16. Reads the panel up to
  // kOverrun floats beyond the last position. bias may be null. Innermost: positions.
  void (*rows)(int rows, int64_t k, const int32_t* columns, const int32_t* offsets,
               const float* const* weights, const float* bias, const float* panel,
               int64_t positions, float* out, int64_t ld, Activation activation);

  // See BlockedWork; 1 to max_rows rows, pixel_step is kLanes or twice that.
  void (*blocked)(int rows, const BlockedWork& work);
  void (*pool)(const PoolWork& work);

  // A channel's M + 2 lines, of which `lines` are there, and M * tiles + 2 columns, of which
  // `columns` are; what is not there only makes output that is left out.
  void (*winograd_in)(const WinogradWork& work, const float* from, int64_t line_step, int64_t lines,
                      int64_t columns, float* to);
  // The output of a plane from positions that are from_step apart; kLanes biases; `added` may be
  // null.
  void (*winograd_out)(const WinogradWork& work, const float* from, int64_t from_step,
                       const float* bias, const float* added, float* out);

  // to[i * to_step + l] = from[l * lane_step + i * step] for i in [0, length), l in [0, kLanes).
  void (*interleave)(int64_t length, const float* from, int64_t lane_step, int64_t step, float* to,
                     int64_t to_step);

  // to[l * lane_step + i] = from[i * from_step + l], likewise.
  void (*separate)(int64_t length, const float* from, int64_t from_step, float* to,
                   int64_t lane_step);

  // See ChannelWork; 1 to max_units units.
  void (*channels)(int units, const ChannelWork& work);

  // to[i * to_step + l * ways + w] = from[w][i * kLanes + l] for i in [0, length), l in [0,
  // kLanes), w in [0, ways).
  void (*weave)(int ways, int64_t length, const float* const* from, float* to, int64_t to_step);

  // y = activation(y + residual), for lines of `length` values that start `step` apart in both.
  void (*finish)(int64_t lines, int64_t length, int64_t step, const float* residual, float* y,
                 Activation activation);

  // out[j] += sum_p  dy[p] * panel[offsets[columns[j]] + p]  for j in [0, k), p in [0, positions).
  void (*dots)(int64_t k, const int32_t* columns, const int32_t* offsets, const float* dy,
               const float* panel, int64_t positions, float* out);

  // y[o - first] = activation(bias[o] + sum_k values[k] * x[columns[k]]) for rows o in [first,
  // last); values and columns are indexed by crow. For batches too small to fill a panel.
  void (*gather)(int64_t first, int64_t last, const int32_t* crow, const int32_t* columns,
                 const float* values, const float* bias, const float* x, float* y,
                 Activation activation);
  // The same for four vectors: x (features, 4), on a multiple of 16 bytes, y (last - first, 4).
  void (*gather4)(int64_t first, int64_t last, const int32_t* crow, const int32_t* columns,
                  const float* values, const float* bias, const float* x, float* y,
                  Activation activation);

  // See Stretch; 1 to max_stretch units.
  void (*stretch)(int units, const Stretch& stretch);

  // Whether all are in [0, limit), limit at least 1.
  bool (*in_range)(const int32_t* index, int64_t count, int64_t limit);

  // The most rows that `rows` takes at once: 8 or 4. A block of rows is 1, 2, 4 or 8.
  int max_rows;

  // The most units that `channels` takes at once.
  int max_units;

  // The most units that `stretch` takes at once.
  int max_stretch;

  // Whether machine code that is made at run time may stand beside them: conv_code.h.
  bool code;

  // By Element.
  EndKernels ends[3];

  // See tiles.h.
  const TileKernels* tiles;
  const StepKernels* steps;
};

// For one instruction set, or null where this library was not compiled for it.
const RowSparseKernels* row_sparse_scalar();
const RowSparseKernels* row_sparse_avx2();
const RowSparseKernels* row_sparse_avx512();
const RowSparseKernels* row_sparse_neon();

}  // namespace sparse_ops
