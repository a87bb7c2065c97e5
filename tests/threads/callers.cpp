// Threads that make the same calls at once, in other orders, and compare what they get.
//
//   callers CASES SECONDS [race]
//
// CASES is a file of int64: how many cases; of each its kind, its numbers and its tensors, the last
// of which are what is expected. With `race` every parallel loop has one on purpose.
#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <random>
#include <thread>

#include "../../csrc/cpu/csr_linear.h"
#include "../../csrc/cpu/sparse_conv2d.h"
#include "../../csrc/program/run.h"

namespace {

bool race = false;
int64_t calls_of_loops = 0;
constexpr int64_t kThreadsOfALoop = 3;
constexpr int kCallers = 6;

}  // namespace

// In the place of libtorch's, as the executable comes first.
extern "C" AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t grain,
                                             ParallelFunc work, void* context) {
  const int64_t least = std::max<int64_t>(1, grain);
  const int64_t parts = std::min(kThreadsOfALoop, std::max<int64_t>(1, (end - begin) / least));
  if (end <= begin) return 0;
  std::vector<std::thread> threads;
  for (int64_t p = 0; p < parts; ++p)
    threads.emplace_back([=] {
      if (race) ++calls_of_loops;
      work(begin + (end - begin) * p / parts, begin + (end - begin) * (p + 1) / parts, context);
    });
  for (std::thread& thread : threads) thread.join();
  return 0;
}

namespace sparse_ops {
namespace {

enum Kind { kProgram, kConv, kLinear, kChannels };

struct Case {
  int64_t kind;
  Numbers numbers;
  std::vector<Tensor> tensors;
};

std::vector<int64_t> words;
size_t at = 0;

int64_t next() { return words.at(at++); }

// How many there are, and they.
Numbers numbers() {
  Numbers all(next());
  for (int64_t& each : all) each = next();
  return all;
}

// Its type, sizes, bytes, and its content to the next whole word.
Tensor tensor() {
  const auto type = static_cast<ScalarType>(next());
  const Numbers sizes = numbers();
  Numbers strides(sizes.size(), 1);
  for (size_t d = sizes.size(); d-- > 1;) strides[d - 1] = strides[d] * sizes[d];
  const int64_t bytes = next();
  void* content = words.data() + at;
  at += (bytes + 7) / 8;
  const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  return torch::stable::from_blob(content, sizes, strides, cpu, type);
}

std::vector<Case> read(const char* path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  words.resize(file.tellg() / 8);
  file.seekg(0);
  file.read(reinterpret_cast<char*>(words.data()), words.size() * 8);
  std::vector<Case> cases(next());
  for (Case& each : cases) {
    each.kind = next();
    each.numbers = numbers();
    for (int64_t left = next(); left > 0; --left) each.tensors.push_back(tensor());
  }
  return cases;
}

std::vector<Tensor> part(const std::vector<Tensor>& all, size_t first, size_t count) {
  return {all.begin() + first, all.begin() + first + count};
}

std::vector<Tensor> call(const RowSparseKernels& kernels, const Case& c) {
  const std::vector<Tensor>& t = c.tensors;
  const Numbers& n = c.numbers;
  const auto pair = [&](size_t first) { return Numbers(n.begin() + first, n.begin() + first + 2); };
  const Numbers shape(n.begin(), n.begin() + std::min<size_t>(4, n.size()));
  switch (c.kind) {
    case kProgram:  // inputs, constants; the program itself, all inputs, all constants
      return program::run_program(kernels, part(t, 1, n[0]), t[0], part(t, 1 + n[0], n[1]), {});
    case kConv:
      return {row_sparse_conv2d(kernels, t[0], t[1], t[2], t[3], t[4], std::nullopt, shape, pair(4),
                                pair(6), pair(8), n[10], kReLU, std::nullopt)};
    case kLinear:
      return {csr_linear(kernels, t[0], t[1], t[2], t[3], t[4], std::nullopt, kReLU, std::nullopt)};
    default:
      return {channel_pruned_conv2d(kernels, t[0], t[1], t[2], t[3], t[4], std::nullopt, shape,
                                    pair(4), pair(6), pair(8), kReLU, std::nullopt)};
  }
}

void check(const std::vector<Tensor>& found, const Case& c) {
  const std::vector<Tensor> wanted = part(c.tensors, c.tensors.size() - found.size(), found.size());
  for (size_t i = 0; i < found.size(); ++i) {
    const float* y = found[i].const_data_ptr<float>();
    const float* z = wanted[i].const_data_ptr<float>();
    // Bits depend on the compiler's flags; a race would give something else.
    for (int64_t k = 0; k < wanted[i].numel(); ++k)
      STD_TORCH_CHECK(std::abs(y[k] - z[k]) <= 1e-3f * (1 + std::abs(z[k])) || z[k] != z[k],
                      "got ", y[k], ", not ", z[k]);
  }
}

int64_t make_calls(const RowSparseKernels& kernels, const std::vector<Case>& cases, double seconds) {
  std::atomic<int64_t> made{0};
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller)
    callers.emplace_back([&, caller] {
      std::mt19937 chance(caller);
      // Each has all cases once or more.
      for (int64_t i = 0; std::chrono::steady_clock::now() < until; ++i) {
        const Case& c = cases[i < static_cast<int64_t>(cases.size()) ? (i * 7 + caller) % cases.size()
                                                                     : chance() % cases.size()];
        check(call(kernels, c), c);
        ++made;
      }
    });
  for (std::thread& caller : callers) caller.join();
  return made;
}

}  // namespace
}  // namespace sparse_ops

int main(int count, char** given) {
  race = count > 3 && !std::strcmp(given[3], "race");
  const std::vector<sparse_ops::Case> cases = sparse_ops::read(given[1]);
  const int64_t made =
      sparse_ops::make_calls(*sparse_ops::row_sparse_scalar(), cases, std::atof(given[2]));
  std::printf("%lld calls of %zu cases by %d threads\n", static_cast<long long>(made), cases.size(),
              kCallers);
  return made < static_cast<int64_t>(cases.size());
}
