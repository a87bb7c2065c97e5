// Convolutions of blocked images by machine code; see conv_code.h.
#include "blocked_cells.h"

namespace sparse_ops {

void CodedConvolution::run(const float* from, const float* residual, float* to) const {
  const Cells cells = this->cells();
  const int64_t parts = static_cast<int64_t>(code.cost().size()) - 1;
  const int64_t splits = static_cast<int64_t>(code.parts().size()) / parts;
  deal_out(cells, y, code.cost(), [&](const Cell& cell, const Cell* next, int64_t p0, int64_t p1) {
    Ahead ahead(*this, from, cell, next, splits * (p1 - p0) * cell.lines);
    alignas(64) float sums[ConvCode::kSums];
    for (int64_t i = splits * p0; i < splits * p1; ++i) {
      const int64_t split = (i - splits * p0) / (p1 - p0), p = p0 + (i - splits * p0) % (p1 - p0);
      const ConvCode::Part& part = code.parts()[split * parts + p];
      if (split == 0)
        for (int64_t f = part.first; f < part.end; ++f) clear(to, cell, f);
      const float* line = from + origin(cell);
      const float* more = residual ? residual + in_added(cell, part.first) : nullptr;
      float* out = to + in_y(cell, part.first);
      for (int64_t l = 0; l < cell.lines; ++l) {
        ahead.some();
        part.run(line, out, part.table, more, sums, cell.width);
        line += stride_l * x.line();
        out += y.line();
        if (more) more += added.line();
      }
    }
  });
}

}  // namespace sparse_ops
