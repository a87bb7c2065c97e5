// Barriers that count arrivals and bytes, copies that arrive at them, and some warps' own barrier, for
// cuda_on_host.h.
//
// A copy arrives some time after it began, at its barrier; until then nobody sees it. What it is to
// must not be read by products at work.
#pragma once
#include <map>

namespace host {

struct Counting {
  unsigned count, left, phase;
  long bytes;
};
struct Arriving {
  std::vector<Copy> copies;           // of a thread, 16 bytes each; or
  std::vector<unsigned char> bytes;   // of a bulk copy
  unsigned to, barrier;
};
inline std::map<unsigned, Counting> barriers;
inline std::vector<Arriving> arriving;
// Number of a barrier of some threads -> how many have come to it, ever.
inline std::map<unsigned, unsigned> came;
// Of so many times, a copy arrives once: in some blocks all are there soon, in others late.
inline unsigned late;

inline void begin_barriers() {
  barriers.clear();
  arriving.clear();
  came.clear();
  late = 2u << random_numbers() % 6;
}

inline Counting& barrier_at(unsigned at) {
  const auto found = barriers.find(at);
  if (found == barriers.end()) throw std::runtime_error("there is no barrier");
  return found->second;
}
inline void settle(Counting& c) {
  if (c.left == 0 && c.bytes == 0) c.left = c.count, c.phase++;
}
inline void init_barrier(unsigned at, unsigned count) {
  check(memory + at, 8);
  barriers[at] = {count, count, 0, 0};
}
inline void expect_bytes(unsigned at, unsigned bytes) {
  Counting& c = barrier_at(at);
  if (c.left == 0) throw std::runtime_error("more arrive at a barrier than it counts");
  c.bytes += bytes, c.left--;
  settle(c);
}
// Waits until the phase of that parity is over.
inline void wait_phase(unsigned at, unsigned parity) {
  Counting& c = barrier_at(at);
  if (c.phase % 2 == parity) wait_until([&c, parity] { return c.phase % 2 != parity; });
}
inline void copy_bytes(unsigned to, const void* from, unsigned size, unsigned barrier) {
  if (size == 0 || size % 16) throw std::runtime_error("a copy is not of 16 bytes");
  check(from, 16), check(memory + to, 16), check(memory + to + size - 16, 16);
  const unsigned char* bytes = (const unsigned char*)from;
  begins(to, size);
  arriving.push_back({{}, {bytes, bytes + size}, to, barrier});
}
// What this thread has copied arrives later, and its arrival with it.
inline void copies_arrive(unsigned barrier) {
  arriving.push_back({std::move(current->copies), {}, 0, barrier});
  current->copies.clear();
}
// Lets one of the copies arrive, now and then, or because all else waits.
inline bool something_arrives(bool must) {
  if (arriving.empty() || (!must && random_numbers() % late)) return false;
  const size_t i = random_numbers() % arriving.size();
  const Arriving a = arriving[i];
  arriving.erase(arriving.begin() + i);
  Counting& c = barrier_at(a.barrier);
  if (a.bytes.empty()) {
    for (const Copy& copy : a.copies) {
      check(memory + copy.to, 16);
      memcpy(memory + copy.to, copy.bytes, 16);
    }
    if (c.left == 0) throw std::runtime_error("more arrive at a barrier than it counts");
    c.left--;
  } else {
    memcpy(memory + a.to, a.bytes.data(), a.bytes.size());
    memcpy(seen + a.to, a.bytes.data(), a.bytes.size());
    c.bytes -= a.bytes.size();
  }
  settle(c);
  return true;
}
inline void some_threads(unsigned number, unsigned count) {
  const unsigned turn = came[number]++ / count + 1;
  wait_until([number, count, turn] { return came[number] >= turn * count; });
}

inline unsigned of_lane(unsigned v, unsigned bit) {
  unsigned other = 0;
  together(8, [&](Fiber* warp) { other = *(const unsigned*)warp[thread % 32 ^ bit].brought[0]; }, &v);
  return other;
}
inline void whole_warp() {
  together(9, [](Fiber*) {}, nullptr);
}

}  // namespace host
