// Runs our CUDA kernels on a CPU, block by block, for tests: included before kernels/cuda/*.cuh.
//
// The threads of a block are fibers of one OS thread, resumed in random order between the points
// where they meet. Shared memory starts as NaN; copies into it arrive when they are waited for, not
// before; every access to it is checked against its size. A barrier that not all threads of a block
// reach at the same line, or a warp whose lanes do not meet, is an error. The blocks of a cluster run
// together, each with memory of its own.
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
#define __cluster_dims__(...)
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
constexpr unsigned MOST_BLOCKS = 2;
alignas(16) inline unsigned char areas[MOST_BLOCKS][MARGIN + MOST + MARGIN];
// Those of the block that is at work; threads are counted through all blocks of a cluster.
inline unsigned char *area = areas[0], *memory = area + MARGIN;
inline size_t memory_size;
inline unsigned thread, own, block, first_block, threads_of_block;
inline std::mt19937 random_numbers;
inline std::function<void()> body;

inline unsigned char* shared_memory() { return memory; }

// Alignment and, in shared memory, bounds.
inline void check(const void* p, size_t size) {
  if ((uintptr_t)p % size) throw std::runtime_error("an access is not aligned to its size");
  const unsigned char* at = (const unsigned char*)p;
  const bool near = at + size > area && at < area + sizeof areas[0];
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

// wgmma_on_host.h and cluster_on_host.h: what goes on by itself beside the threads.
inline void begin_products(unsigned threads);
inline void show_copies(unsigned block);
inline void end_products(unsigned threads);
inline void begins(unsigned block, unsigned to, unsigned size);
inline void landed(unsigned to);
inline void begin_cluster(unsigned blocks);
inline bool something_arrives(bool must);

// Makes a thread the one at work, and its block.
inline void enter_thread(unsigned i) {
  current = &fibers[i], thread = i, own = i % threads_of_block;
  block = first_block + i / threads_of_block;
  area = areas[i / threads_of_block], memory = area + MARGIN;
}

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
  for (unsigned b = 0; b < threads; b += threads_of_block) {
    const auto begin = fibers.begin() + b, end = begin + threads_of_block;
    if (!std::all_of(begin, end, [](const Fiber& f) { return f.state == AT_BARRIER; })) continue;
    if (std::any_of(begin, end, [&](const Fiber& f) { return f.line != begin->line; }))
      throw std::runtime_error("threads of a block wait at different barriers");
    show_copies(b / threads_of_block);
    go(b, threads_of_block);
  }
  for (unsigned i = 0; i < threads; i++)
    if (fibers[i].state == AT_CONDITION && fibers[i].condition()) go(i, 1);
  return moved;
}

inline void run_cluster(unsigned number, unsigned blocks) {
  const unsigned threads = blocks * threads_of_block;
  first_block = number;
  for (unsigned b = 0; b < blocks; b++) memset(areas[b] + MARGIN, 0xff, memory_size);
  begin_products(threads);
  begin_cluster(blocks);
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
  // Now and then a block of a cluster is held for some rounds, so that the others get ahead of it.
  unsigned held = blocks, rounds = 0;
  for (;;) {
    if (blocks > 1 && rounds-- == 0) {
      held = random_numbers() % (blocks + 1), rounds = random_numbers() % 512;
    }
    std::shuffle(order.begin(), order.end(), random_numbers);
    bool moved = false;
    for (unsigned i : order)
      if (fibers[i].state == READY && i / threads_of_block != held) {
        enter_thread(i), moved = true;
        swapcontext(&scheduler, &current->context);
        if (fibers[0].line == -1) throw std::runtime_error((const char*)fibers[0].brought[0]);
      }
    const auto done = [](const Fiber& f) { return f.state == DONE; };
    if (std::all_of(fibers.begin(), fibers.begin() + threads, done)) return end_products(threads);
    moved = something_arrives(false) || moved;
    moved = release(threads) || moved;
    if (moved || something_arrives(true)) continue;
    if (held < blocks)
      held = blocks;
    else
      throw std::runtime_error("some threads wait for others that do not come");
  }
}

// From sm_80 on a copy arrives when it is waited for.
inline void copy16(unsigned to, const void* from, bool there, bool later) {
  begins(block - first_block, to, 16);
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
    landed(copy.to);
  }
  current->copies.clear();
}

struct Index { unsigned x; };

// Runs clusters one after another, from that of block `first` on; what went wrong, or null.
template <class F>
const char* run(F kernel, unsigned first, unsigned blocks, unsigned threads, unsigned shared,
                unsigned seed, unsigned cluster) {
  static std::string words;
  try {
    random_numbers.seed(seed);
    body = kernel;
    threads_of_block = threads;
    fibers.resize(threads * cluster);
    if (shared > MOST) throw std::runtime_error("a block has more shared memory than any card");
    if (blocks % cluster || first % cluster) throw std::runtime_error("the last cluster is not whole");
    memory_size = shared;
    for (unsigned b = first; b < blocks; b += cluster) run_cluster(b, cluster);
    return nullptr;
  } catch (const std::exception& error) {
    words = error.what();
    return words.c_str();
  }
}

}  // namespace host

#define threadIdx host::Index{host::own}
#define blockIdx host::Index{host::block}
#define __syncthreads() host::pause(host::AT_BARRIER, __LINE__)

#include "products_on_host.h"
#include "wgmma_on_host.h"
#include "cluster_on_host.h"
