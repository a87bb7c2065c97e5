// What only copies, in other orders or types.
#include "microkernels.h"

namespace checking {

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
    over({kLanes, length}, [&](int64_t l, int64_t i) {
      if (blocks[i * kLanes + l] != images[l * lane + i]) fail("interleave");
      if (back[l * lane + i] != images[l * lane + i]) fail("separate");
    });
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
      over({length, kLanes, ways}, [&](int64_t i, int64_t l, int64_t w) {
        if (woven[(i * kLanes + l) * ways + w] != from[w][i * kLanes + l]) fail("weave");
      });
    }
  }
}

void test_finish(const RowSparseKernels& kernels) {
  for (const int64_t length : {1, 4, 15, 16, 31}) {
    const int64_t lines = 2, step = length + 3;
    const Activation activation = any_activation();
    Floats residual(lines * step), y(lines * step);
    const std::vector<float> before(y.get(), y.get() + lines * step);
    kernels.finish(lines, length, step, residual.get(), y.get(), activation);
    over({lines, step}, [&](int64_t l, int64_t i) {
      const int64_t at = l * step + i;
      Exact exact;
      exact.plus(before[at]);
      if (i < length) exact.plus(residual[at]);
      compare("finish", y[at], exact, i < length ? activation : Activation(kNone));
    });
  }
}

// From and to 16 bits, as the portable kernels do it.
void test_ends(const RowSparseKernels& kernels) {
  const RowSparseKernels& portable = *row_sparse_scalar();
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

}  // namespace checking
