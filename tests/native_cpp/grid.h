// Tables of cases: of several axes not all combinations, but such that every two values of two axes
// meet; and loops over all of an output.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace checking {

using Axis = std::vector<int64_t>;

inline Axis up_to(int64_t most) {
  Axis axis;
  for (int64_t i = 1; i <= most; ++i) axis.push_back(i);
  return axis;
}

// Rows of one value an axis, the same each time: as long as two values have not met, a row that
// has them, and of the other axes what has met the fewest of it.
template <size_t N>
std::vector<std::array<int64_t, N>> pairwise(const Axis (&axes)[N]) {
  std::vector<std::array<size_t, N>> rows;
  const auto met = [&](size_t i, size_t a, size_t j, size_t b) {
    for (const auto& row : rows)
      if (row[i] == a && row[j] == b) return true;
    return false;
  };
  const auto add = [&](size_t i, size_t a, size_t j, size_t b) {
    std::array<size_t, N> row = {};
    row[i] = a, row[j] = b;
    std::array<bool, N> is_set = {};
    is_set[i] = is_set[j] = true;
    for (size_t m = 0; m < N; ++m) {
      if (is_set[m]) continue;
      size_t most = 0;
      row[m] = rows.size() % axes[m].size();
      for (size_t value = 0; value < axes[m].size(); ++value) {
        size_t fresh = 0;
        for (size_t other = 0; other < N; ++other)
          fresh += is_set[other] && !met(m, value, other, row[other]);
        if (fresh > most) most = fresh, row[m] = value;
      }
      is_set[m] = true;
    }
    rows.push_back(row);
  };
  for (size_t i = 0; i < N; ++i)
    for (size_t j = i + 1; j < N; ++j)
      for (size_t a = 0; a < axes[i].size(); ++a)
        for (size_t b = 0; b < axes[j].size(); ++b)
          if (!met(i, a, j, b)) add(i, a, j, b);
  std::vector<std::array<int64_t, N>> values(rows.size());
  for (size_t r = 0; r < rows.size(); ++r)
    for (size_t i = 0; i < N; ++i) values[r][i] = axes[i][rows[r][i]];
  return values;
}

// f(i, j, ...) for every i below the first size, every j below the second, ...
template <size_t N, class F, class... At>
void over(const int64_t (&sizes)[N], const F& f, At... at) {
  if constexpr (sizeof...(At) == N) {
    f(at...);
  } else {
    for (int64_t i = 0; i < sizes[sizeof...(At)]; ++i) over(sizes, f, at..., i);
  }
}

}  // namespace checking
