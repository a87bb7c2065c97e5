#include "machine_code.h"

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) && (defined(__linux__) || defined(__APPLE__))
#define CAN_RUN 1
#include <sys/mman.h>
#endif

namespace sparse_ops {

void Assembler::bytes(int64_t value, int count) {
  for (int i = 0; i < count; ++i) byte(static_cast<int>(value >> (8 * i) & 255));
}

// What stands before an opcode. Registers are told by bits that are turned over.
void Assembler::prefix(Page page, int reg, int other, int last, bool splat) {
  const auto off = [](int value, int bit) { return ~value >> bit & 1; };
  byte(0x62);
  byte(off(reg, 3) << 7 | off(last, 4) << 6 | off(last, 3) << 5 | off(reg, 4) << 4 | page.map);
  byte((~other & 15) << 3 | 1 << 2 | page.prefix);
  byte(2 << 5 | splat << 4 | off(other, 4) << 3);
}

void Assembler::with_memory(Page page, int opcode, int reg, int other, Place place, int size, bool splat) {
  prefix(page, reg, other, place.base, splat);
  byte(opcode);
  const int operands = (reg & 7) << 3 | (place.base & 7);
  const int64_t steps = place.bytes / size;
  if (place.bytes % size == 0 && steps >= -128 && steps <= 127) {
    byte(1 << 6 | operands);
    bytes(steps, 1);
  } else {
    byte(2 << 6 | operands);
    bytes(place.bytes, 4);
  }
}

void Assembler::between(Page page, int opcode, int reg, int other, int last) {
  prefix(page, reg, other, last, false);
  byte(opcode);
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
  void* memory = mmap(nullptr, code.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
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
