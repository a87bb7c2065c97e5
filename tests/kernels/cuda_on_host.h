// Runs our CUDA kernels on a CPU, block by block, for tests: included before kernels/cuda/*.cuh.
//
// The threads of a block are fibers of one OS thread, resumed in random order between the points
// where they meet. Shared memory starts as NaN; copies into it arrive when they are waited for, not
// before; every access to it is checked against its size. A barrier that not all threads of a block
// reach at the same line, or a warp whose lanes do not meet, is an error.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__
struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };

namespace host {

struct Copy { unsigned to; unsigned char bytes[16]; };
enum State { READY, AT_BARRIER, AT_WARP, AT_CONDITION, DONE };
struct Fiber {
  ucontext_t context;
  State state;
  int line;
  const void* brought[2];
  std::function<bool()> condition;
  std::vector<Copy> copies;
  std::vector<char> stack;
};

inline std::vector<Fiber> fibers;
inline Fiber* current;
inline ucontext_t scheduler;
// Shared memory stands amid bytes that nothing else owns: what comes near it meant it.
constexpr size_t MARGIN = 64 << 10, MOST = 256 << 10;
alignas(16) inline unsigned char area[MARGIN + MOST + MARGIN];
inline unsigned char* memory = area + MARGIN;
inline size_t memory_size;
inline unsigned thread, block;
inline std::mt19937 random_numbers;
inline std::function<void()> body;

inline unsigned char* shared_memory() { return memory; }

// Alignment and, in shared memory, bounds.
inline void check(const void* p, size_t size) {
  if ((uintptr_t)p % size) throw std::runtime_error("an access is not aligned to its size");
  const unsigned char* at = (const unsigned char*)p;
  const bool near = at + size > area && at < area + sizeof area;
  if (near && (at < memory || at + size > memory + memory_size))
    throw std::runtime_error("shared memory is left");
}
template <class T>
T load(const void* from) {
  check(from, sizeof(T));
  T v;
  memcpy(&v, from, sizeof v);
  return v;
}
template <class T>
void store(void* to, T v) {
  check(to, sizeof v);
  memcpy(to, &v, sizeof v);
}

inline void pause(State state, int line) {
  current->state = state;
  current->line = line;
  swapcontext(&current->context, &scheduler);
}
inline void enter() {
  try {
    body();
  } catch (const std::exception& error) {
    // It cannot leave a fiber: the block is given up below.
    fibers[0].line = -1;
    static std::string words;
    words = error.what();
    fibers[0].brought[0] = words.c_str();
  }
  pause(DONE, 0);
}

// Where lanes meet for an instruction: each brings something, and sees what the others brought.
template <class F>
void together(int instruction, F use, const void* a, const void* b = nullptr) {
  current->brought[0] = a, current->brought[1] = b;
  Fiber* warp = &fibers[thread / 32 * 32];
  pause(AT_WARP, 2 * instruction);
  use(warp);
  pause(AT_WARP, 2 * instruction + 1);
}

// Waits until something is so that other threads do.
inline void wait_until(std::function<bool()> condition) {
  current->condition = std::move(condition);
  pause(AT_CONDITION, 0);
}

// wgmma_on_host.h and barrier_on_host.h: what goes on by itself beside the threads.
inline void begin_products(unsigned threads);
inline void end_products(unsigned threads);
inline void begins(unsigned to, unsigned size);
inline void begin_barriers();
inline bool something_arrives(bool must);

// Lets threads go on that have all that they wait for.
inline bool release(unsigned threads) {
  bool moved = false;
  const auto go = [&](unsigned from, unsigned count) {
    for (unsigned i = from; i < from + count; i++) fibers[i].state = READY;
    moved = true;
  };
  // Lanes, when their whole warp is at the same place.
  for (unsigned w = 0; w < threads; w += 32)
    if (std::all_of(fibers.begin() + w, fibers.begin() + w + 32, [&](const Fiber& f) {
          return f.state == AT_WARP && f.line == fibers[w].line;
        }))
      go(w, 32);
  const auto begin = fibers.begin(), end = begin + threads;
  if (std::all_of(begin, end, [](const Fiber& f) { return f.state == AT_BARRIER; })) {
    if (std::any_of(begin, end, [&](const Fiber& f) { return f.line != begin->line; }))
      throw std::runtime_error("threads of a block wait at different barriers");
    go(0, threads);
  }
  for (unsigned i = 0; i < threads; i++)
    if (fibers[i].state == AT_CONDITION && fibers[i].condition()) go(i, 1);
  return moved;
}

inline void run_block(unsigned number, unsigned threads) {
  block = number;
  memset(memory, 0xff, memory_size);
  begin_products(threads);
  begin_barriers();
  std::vector<unsigned> order(threads);
  std::iota(order.begin(), order.end(), 0u);
  for (unsigned i = 0; i < threads; i++) {
    Fiber& f = fibers[i];
    getcontext(&f.context);
    f.stack.resize(96 << 10);
    f.context.uc_stack.ss_sp = f.stack.data();
    f.context.uc_stack.ss_size = f.stack.size();
    f.context.uc_link = nullptr;
    f.state = READY, f.line = 0;
    f.copies.clear();
    makecontext(&f.context, enter, 0);
  }
  for (;;) {
    std::shuffle(order.begin(), order.end(), random_numbers);
    bool moved = false;
    for (unsigned i : order)
      if (fibers[i].state == READY) {
        current = &fibers[i], thread = i, moved = true;
        swapcontext(&scheduler, &current->context);
        if (fibers[0].line == -1) throw std::runtime_error((const char*)fibers[0].brought[0]);
      }
    const auto done = [](const Fiber& f) { return f.state == DONE; };
    if (std::all_of(fibers.begin(), fibers.begin() + threads, done)) return end_products(threads);
    moved = something_arrives(false) || moved;
    moved = release(threads) || moved;
    if (moved || something_arrives(true)) continue;
    throw std::runtime_error("some threads wait for others that do not come");
  }
}

// From sm_80 on a copy arrives when it is waited for.
inline void copy16(unsigned to, const void* from, bool there, bool later) {
  begins(to, 16);
  Copy copy{to, {}};
  if (there) {
    check(from, 16);
    memcpy(copy.bytes, from, 16);
  }
  current->copies.push_back(copy);
  if (later) return;
  check(memory + to, 16);
  memcpy(memory + to, copy.bytes, 16);
  current->copies.clear();
}
inline void copies_done() {
  for (const Copy& copy : current->copies) {
    check(memory + copy.to, 16);
    memcpy(memory + copy.to, copy.bytes, 16);
  }
  current->copies.clear();
}

struct Index { unsigned x; };

// Runs blocks one after another, from block `first` on; what went wrong, or null.
template <class F>
const char* run(F kernel, unsigned first, unsigned blocks, unsigned threads, unsigned shared,
                unsigned seed) {
  static std::string words;
  try {
    random_numbers.seed(seed);
    body = kernel;
    fibers.resize(threads);
    if (shared > MOST) throw std::runtime_error("a block has more shared memory than any card");
    memory_size = shared;
    for (unsigned b = first; b < blocks; b++) run_block(b, threads);
    return nullptr;
  } catch (const std::exception& error) {
    words = error.what();
    return words.c_str();
  }
}

}  // namespace host

#define threadIdx host::Index{host::thread}
#define blockIdx host::Index{host::block}
#define __syncthreads() host::pause(host::AT_BARRIER, __LINE__)

#include "products_on_host.h"
#include "wgmma_on_host.h"
#include "barrier_on_host.h"
