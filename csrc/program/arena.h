// The memory that programs run in: each call has some of its own, which stays for later ones.
#pragma once
#include "../cpu/scratch.h"
#include "program.h"

namespace sparse_ops {
namespace program {

// Memory for one call.
struct Arena {
  std::unique_ptr<Scratch<float>> memory;
  int64_t floats = 0;
  std::vector<View> views, in;
};

// An arena of at least `floats`, which no other call has; it goes back at the end. Throws
// bad_alloc.
class Lease {
 public:
  explicit Lease(int64_t floats);
  ~Lease();
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  Arena& arena() { return *arena_; }

 private:
  std::unique_ptr<Arena> arena_;
};

// Gives back what no call has.
void free_arenas();

}  // namespace program
}  // namespace sparse_ops
