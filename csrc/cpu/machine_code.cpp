#include "machine_code.h"

#include <cstdlib>
#include <cstring>
#include <iterator>

#if defined(__x86_64__) && (defined(__linux__) || defined(__APPLE__))
#define CAN_RUN 1
#include <sys/mman.h>
#endif

namespace sparse_ops {

void Assembler::bytes(int64_t value, int count) {
  uint8_t each[8];
  for (int i = 0; i < count; ++i) each[i] = static_cast<uint8_t>(value >> (8 * i));
  code_.insert(code_.end(), each, each + count);
}

// What stands before an opcode, and that. Registers are told by bits that are turned over.
void Assembler::opcode(Page page, int opcode, int reg, int other, int last, bool splat) {
  const auto off = [](int value, int bit) { return ~value >> bit & 1; };
  const uint8_t all[] = {
      0x62,
      static_cast<uint8_t>(off(reg, 3) << 7 | off(last, 4) << 6 | off(last, 3) << 5 |
                           off(reg, 4) << 4 | page.map),
      static_cast<uint8_t>((~other & 15) << 3 | 1 << 2 | page.prefix),
      static_cast<uint8_t>(2 << 5 | splat << 4 | off(other, 4) << 3),
      static_cast<uint8_t>(opcode),
  };
  code_.insert(code_.end(), std::begin(all), std::end(all));
}

void Assembler::with_memory(Page page, int opcode_, int reg, int other, Place place, int size,
                            bool splat) {
  opcode(page, opcode_, reg, other, place.base, splat);
  const int operands = (reg & 7) << 3 | (place.base & 7);
  const int64_t steps = place.bytes / size;
  if (place.bytes % size == 0 && steps >= -128 && steps <= 127) {
    bytes((1 << 6 | operands) | (steps & 255) << 8, 2);
  } else {
    bytes((2 << 6 | operands) | (place.bytes & 0xFFFFFFFF) << 8, 5);
  }
}

void Assembler::between(Page page, int opcode_, int reg, int other, int last) {
  opcode(page, opcode_, reg, other, last, false);
  byte(3 << 6 | (reg & 7) << 3 | (last & 7));
}

void Assembler::move(Register pointer, int64_t bytes_) {
  if (bytes_ == 0) return;
  byte(pointer >> 3 ? 0x49 : 0x48);
  byte(0x81);
  byte(0xC0 | (pointer & 7));
  bytes(bytes_, 4);
}

size_t Assembler::begin() {
  while (code_.size() % 64) byte(0xCC);
  const size_t start = code_.size();
  // endbr64, for systems on which a jump has to land on one.
  for (const int each : {0xF3, 0x0F, 0x1E, 0xFA}) byte(each);
  return start;
}

void Assembler::repeat(Register counter, size_t label) {
  byte(counter >> 3 ? 0x49 : 0x48);
  byte(0xFF);
  byte(0xC8 | (counter & 7));
  byte(0x0F);
  byte(0x85);
  bytes(static_cast<int64_t>(label) - static_cast<int64_t>(code_.size() + 4), 4);
}

void Assembler::end() {
  // vzeroupper; ret.
  for (const int each : {0xC5, 0xF8, 0x77, 0xC3}) byte(each);
}

std::unique_ptr<const Executable> Executable::of(const std::vector<uint8_t>& code) {
#if defined(CAN_RUN)
  static const bool refused = [] {
    const char* given = std::getenv("SPARSE_OPS_MACHINE_CODE");
    return given && std::strcmp(given, "0") == 0;
  }();
  if (refused || code.empty()) return nullptr;
  void* memory =
      mmap(nullptr, code.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  std::unique_ptr<const Executable> made(new Executable(memory, code.size()));
  std::memcpy(memory, code.data(), code.size());
  if (mprotect(memory, code.size(), PROT_READ | PROT_EXEC) != 0) return nullptr;
  return made;
#else
  return nullptr;
#endif
}

Executable::~Executable() {
#if defined(CAN_RUN)
  munmap(memory_, size_);
#endif
}

}  // namespace sparse_ops
