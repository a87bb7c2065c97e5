#include "arena.h"

#include <algorithm>
#include <mutex>

namespace sparse_ops {
namespace program {
namespace {

constexpr size_t kMostFree = 16;

// Arenas that no call has; never destroyed, for calls may outlive what else ends with the process.
struct Free {
  std::mutex mutex;
  std::vector<std::unique_ptr<Arena>> arenas;

  Free() { arenas.reserve(kMostFree); }
};
Free& shared() {
  static Free* const all = new Free;
  return *all;
}

}  // namespace

Lease::Lease(int64_t floats) {
  Free& all = shared();
  {
    // The smallest that is large enough, else the largest, which grows.
    const std::lock_guard<std::mutex> lock(all.mutex);
    const auto better = [&](const std::unique_ptr<Arena>& a, const std::unique_ptr<Arena>& b) {
      const bool fits_a = a->floats >= floats, fits_b = b->floats >= floats;
      return fits_a != fits_b ? fits_a : fits_a ? a->floats < b->floats : a->floats > b->floats;
    };
    const auto best = std::min_element(all.arenas.begin(), all.arenas.end(), better);
    if (best != all.arenas.end()) {
      arena_ = std::move(*best);
      all.arenas.erase(best);
    }
  }
  if (!arena_) arena_ = std::make_unique<Arena>();
  if (arena_->floats >= floats && arena_->memory) return;
  arena_->floats = 0;
  arena_->memory.reset();
  arena_->memory = std::make_unique<Scratch<float>>(floats);
  arena_->floats = floats;
}

Lease::~Lease() {
  Free& all = shared();
  const std::lock_guard<std::mutex> lock(all.mutex);
  // There is room for so many: nothing is allocated.
  if (all.arenas.size() < kMostFree) all.arenas.push_back(std::move(arena_));
}

void free_arenas() {
  std::vector<std::unique_ptr<Arena>> free;
  free.reserve(kMostFree);
  Free& all = shared();
  const std::lock_guard<std::mutex> lock(all.mutex);
  free.swap(all.arenas);
}

}  // namespace program
}  // namespace sparse_ops
