// Clusters, barriers that count bytes, and copies to all blocks of a cluster, for cuda_on_host.h.
//
// A copy arrives in each block some time after it began, with its bytes at that block's barrier; until
// then nobody sees it. What it is to must not be read by products at work, nor belong to a block that
// has ended.
#pragma once
#include <map>

namespace host {

struct Counting {
  unsigned count, left, phase;
  long bytes;
};
struct Arriving {
  std::vector<unsigned char> bytes;
  unsigned block, to, barrier;
};
inline std::map<std::pair<unsigned, unsigned>, Counting> barriers;
inline std::vector<Arriving> arriving;
inline std::vector<unsigned> arrivals;  // of each thread at the cluster's own barrier
inline unsigned blocks_of_cluster;

inline void begin_cluster(unsigned blocks) {
  blocks_of_cluster = blocks;
  barriers.clear();
  arriving.clear();
  arrivals.assign(blocks * threads_of_block, 0);
}
inline unsigned rank() { return block - first_block; }

inline Counting& barrier_at(unsigned b, unsigned at) {
  const auto found = barriers.find({b, at});
  if (found == barriers.end()) throw std::runtime_error("there is no barrier");
  return found->second;
}
inline void settle(Counting& c) {
  if (c.left == 0 && c.bytes == 0) c.left = c.count, c.phase++;
}
inline void init_barrier(unsigned at, unsigned count) {
  check(memory + at, 8);
  barriers[{rank(), at}] = {count, count, 0, 0};
}
inline void expect_bytes(unsigned at, unsigned bytes) {
  Counting& c = barrier_at(rank(), at);
  if (c.left == 0) throw std::runtime_error("more arrive at a barrier than it counts");
  c.bytes += bytes, c.left--;
  settle(c);
}
// Waits until the phase of that parity is over.
inline void wait_phase(unsigned at, unsigned parity) {
  Counting& c = barrier_at(rank(), at);
  if (c.phase % 2 == parity) wait_until([&c, parity] { return c.phase % 2 != parity; });
}
inline void copy_to_all(unsigned to, const void* from, unsigned size, unsigned barrier) {
  if (size == 0 || size % 16) throw std::runtime_error("a copy is not of 16 bytes");
  check(from, 16), check(memory + to, 16), check(memory + to + size - 16, 16);
  const unsigned char* bytes = (const unsigned char*)from;
  for (unsigned b = 0; b < blocks_of_cluster; b++) {
    begins(b, to, size);
    arriving.push_back({{bytes, bytes + size}, b, to, barrier});
  }
}
// Lets one of the copies arrive, now and then, or because all else waits.
inline bool something_arrives(bool must) {
  if (arriving.empty() || (!must && random_numbers() % 4)) return false;
  const size_t i = random_numbers() % arriving.size();
  const Arriving a = arriving[i];
  arriving.erase(arriving.begin() + i);
  const auto begin = fibers.begin() + a.block * threads_of_block;
  if (std::all_of(begin, begin + threads_of_block, [](const Fiber& f) { return f.state == DONE; }))
    throw std::runtime_error("a copy is to a block that has ended");
  memcpy(areas[a.block] + MARGIN + a.to, a.bytes.data(), a.bytes.size());
  memcpy(seen[a.block] + a.to, a.bytes.data(), a.bytes.size());
  Counting& c = barrier_at(a.block, a.barrier);
  c.bytes -= a.bytes.size();
  settle(c);
  return true;
}

inline void cluster_arrive() { arrivals[thread]++; }
inline void cluster_wait() {
  const unsigned mine = arrivals[thread];
  const auto all = [mine] {
    return std::all_of(arrivals.begin(), arrivals.end(), [&](unsigned n) { return n >= mine; });
  };
  if (!all()) wait_until(all);
}

}  // namespace host
