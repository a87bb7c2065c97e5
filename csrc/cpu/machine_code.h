// Machine code for x86-64 that is made while the library runs: the instructions that conv_code.cpp
// needs, and memory that they can be run from.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace sparse_ops {

// Instructions of AVX-512, into memory; encodings are those of Intel's manual, volume 2, chapter
// 2.7 (EVEX). Vectors are 16 floats, their registers 0 to 31.
class Assembler {
 public:
  // Those of the System V calling convention in which pointers are passed, and that nobody wants
  // back.
  enum Register { kRCX = 1, kRDX = 2, kRSI = 6, kRDI = 7, kR8 = 8, kR9 = 9 };
  struct Place {
    Register base;
    int64_t bytes;  // from it, less than 2^31
  };
  // How far beyond a register a float, or a vector, on a multiple of its size, is named by one
  // byte.
  static constexpr int64_t kFloatReach = 127 * 4, kVectorReach = 127 * 64;

  void load(int to, Place from) { with_memory(kPlain, 0x10, to, 0, from, 64); }
  void store(int from, Place to) { with_memory(kPlain, 0x11, from, 0, to, 64); }
  // A float, into all lanes.
  void splat(int to, Place from) { with_memory(kLong, 0x18, to, 0, from, 4); }
  void zero(int to) { between(kWhole, 0xEF, to, to, to); }
  // sum += factor * (the float there, in all lanes).
  void multiply_add(int sum, int factor, Place from) {
    with_memory(kLong, 0xB8, sum, factor, from, 4, true);
  }
  void add(int to, Place from) { with_memory(kPlain, 0x58, to, to, from, 64); }
  // to += the float there, in all lanes.
  void add_splat(int to, Place from) { with_memory(kPlain, 0x58, to, to, from, 4, true); }
  // to = a where it is the larger (smaller), else `to`, also where either is no number.
  void largest(int to, int a) { between(kPlain, 0x5F, to, a, to); }
  void smallest(int to, int a) { between(kPlain, 0x5D, to, a, to); }

  void move(Register pointer, int64_t bytes);
  // Where a function, or a loop, begins.
  size_t begin();
  size_t label() const { return code_.size(); }
  // counter -= 1, and on at the label until it is 0.
  void repeat(Register counter, size_t label);
  void end();

  const std::vector<uint8_t>& code() const { return code_; }

 private:
  // How an opcode is told apart: {the map of opcodes, the prefix}. Zeros are of whole numbers:
  // those of floats
  // are not in the foundation of AVX-512.
  struct Page {
    int map, prefix;
  };
  static constexpr Page kPlain{1, 0}, kLong{2, 1}, kWhole{1, 1};

  // `size`: of what is in memory, in bytes; a float may stand for all lanes.
  void with_memory(Page page, int opcode, int reg, int other, Place place, int size,
                   bool splat = false);
  void between(Page page, int opcode, int reg, int other, int last);
  void opcode(Page page, int opcode, int reg, int other, int last, bool splat);
  void byte(int value) { code_.push_back(static_cast<uint8_t>(value)); }
  void bytes(int64_t value, int count);

  std::vector<uint8_t> code_;
};

// Code that can be run as long as this lives. Never writable and executable at a time.
class Executable {
 public:
  // Null where the system does not allow it, or SPARSE_OPS_MACHINE_CODE is 0.
  static std::unique_ptr<const Executable> of(const std::vector<uint8_t>& code);
  ~Executable();
  Executable(const Executable&) = delete;
  Executable& operator=(const Executable&) = delete;

  template <class Function>
  Function* at(size_t start) const {
    return reinterpret_cast<Function*>(reinterpret_cast<uintptr_t>(memory_) + start);
  }

 private:
  Executable(void* memory, size_t size) : memory_(memory), size_(size) {}

  void* memory_;
  size_t size_;
};

}  // namespace sparse_ops
