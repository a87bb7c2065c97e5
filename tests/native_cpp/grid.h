// Loops over several sizes at once.
#pragma once
#include <cstddef>
#include <cstdint>

namespace checking {

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
