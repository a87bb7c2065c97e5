// What tests of microkernels share: memory with guards, numbers, and the bound of an honest kernel.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "row_sparse.h"
#include "steps.h"
#include "tiles.h"

namespace checking {

inline int failures = 0;

inline void fail(const std::string& what) {
  if (++failures <= 20) std::printf("wrong: %s\n", what.c_str());
}

inline std::mt19937& chance() {
  static std::mt19937 engine(7);
  return engine;
}
inline float number() { return std::normal_distribution<float>()(chance()); }
inline int64_t below(int64_t limit) {
  return static_cast<int64_t>(chance()() % static_cast<uint64_t>(limit));
}

// Numbers between NaNs, on an address that is a multiple of 64 or, shifted, of 4 only. What is read
// outside of them shows in results, what is written there when they go.
class Floats {
 public:
  explicit Floats(int64_t size, bool random = true, int64_t shift = 1)
      : size_(size), whole_(size + 2 * kGuard + 16 + shift) {
    std::memset(whole_.data(), 0xff, whole_.size() * sizeof(float));
    const auto address = reinterpret_cast<uintptr_t>(whole_.data() + kGuard);
    at_ = whole_.data() + kGuard + (64 - address % 64) / sizeof(float) % 16 + shift;
    if (random)
      for (int64_t i = 0; i < size; ++i) at_[i] = number();
  }
  Floats(const Floats&) = delete;
  Floats(Floats&& other) : size_(other.size_), whole_(std::move(other.whole_)), at_(other.at_) {}
  ~Floats() {
    for (const float& each : whole_) {
      if (&each >= at_ && &each < at_ + size_) continue;
      uint32_t bits;
      std::memcpy(&bits, &each, sizeof bits);
      if (bits == 0xffffffffu) continue;
      fail("something was written outside of what was given");
      return;
    }
  }
  float* get() { return at_; }
  float& operator[](int64_t i) { return at_[i]; }
  float operator[](int64_t i) const { return at_[i]; }

 private:
  // kOverrun may be read behind a panel.
  static constexpr int64_t kGuard = sparse_ops::kOverrun + 16;
  int64_t size_;
  std::vector<float> whole_;
  float* at_;
};

// A sum in double, what it is a sum of, and how many those are.
struct Exact {
  double sum = 0, size = 0;
  int64_t terms = 2;

  Exact& add(double weight, double x) {
    sum += weight * x;
    size += std::abs(weight * x);
    ++terms;
    return *this;
  }
  Exact& plus(double x) { return add(1, x); }
};

// The sum of k weights, `step` apart, times what stands at the offsets from x on.
inline Exact products(int64_t k, const float* weights, int64_t step,
                      const std::vector<int32_t>& offsets, const float* x) {
  Exact exact;
  for (int64_t j = 0; j < k; ++j) exact.add(weights[j * step], x[offsets[j]]);
  return exact;
}

inline double activated(double v, sparse_ops::Activation activation) {
  using namespace sparse_ops;
  const auto gate = [](double x) { return x < 0 ? 0.0 : x > 6 ? 6.0 : x; };
  switch (activation.kind) {
    case kNone:
      return v;
    case kReLU:
      return v < 0 ? 0 : v;
    case kReLU6:
      return gate(v);
    case kSiLU:
      return v / (1 + std::exp(-v));
    case kHardswish:
      return v * gate(v + 3) / 6;
    case kGELU:
      return v * std::erfc(-v / std::sqrt(2.0)) / 2;
    case kGELUTanh:
      return v / (1 + std::exp(-std::sqrt(8 / std::acos(-1.0)) * (v + 0.044715 * v * v * v)));
    case kLeakyReLU:
      return v > 0 ? v : v * activation.slope;
  }
  return NAN;
}

// A float32 sum of n products is off by n 2^-24 of their absolute values, to first order;
// activations are at most 1.5 steep, and exact to eight roundings.
inline void compare(const char* what, float got, const Exact& exact,
                    sparse_ops::Activation activation = sparse_ops::kNone) {
  const double wanted = activated(exact.sum, activation);
  const double bound =
      1.5 * exact.terms * 0x1p-24 * exact.size + 8 * 0x1p-24 * std::abs(wanted) + 1e-30;
  if (!(std::abs(got - wanted) <= bound))
    fail(std::string(what) + ": " + std::to_string(got) + " where " + std::to_string(wanted) +
         " is right, " + std::to_string(std::abs(got - wanted) / bound) + " times the bound");
}

inline sparse_ops::Activation any_activation() {
  using namespace sparse_ops;
  const Activation all[] = {kNone,      kReLU, kReLU6,    kSiLU,
                            kHardswish, kGELU, kGELUTanh, {kLeakyReLU, -0.3f}};
  return all[below(8)];
}

}  // namespace checking
