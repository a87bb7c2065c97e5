#include "second_cache.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace sparse_ops {
namespace {

// 0 where nothing is known.
int64_t bytes_of_system() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  if (const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE); bytes > 0) return bytes;
#endif
  // Where sysconf does not ask the processor (aarch64): "1024K".
  std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index2/size");
  int64_t size = 0;
  char unit = 0;
  if (!(file >> size >> unit)) return 0;
  return unit == 'M' ? size << 20 : unit == 'K' ? size << 10 : 0;
}

int64_t floats() {
  const int64_t least = 1 << 18, usual = 1 << 20, most = 1 << 21;
  if (const char* given = std::getenv("SPARSE_OPS_SECOND_CACHE"))
    if (const int64_t bytes = std::strtoll(given, nullptr, 10); bytes > 0)
      return std::clamp<int64_t>(bytes / 4, 1 << 10, most);
  const int64_t bytes = bytes_of_system();
  return (bytes ? std::clamp(bytes, least, most) : usual) / 4;
}

}  // namespace

int64_t second_cache() {
  static const int64_t size = floats();
  return size;
}

}  // namespace sparse_ops
