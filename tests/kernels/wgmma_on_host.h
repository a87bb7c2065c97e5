// wgmma for cuda_on_host.h, after PTX's own description of descriptors and of which lane holds what.
//
// A product is added to its sums when it is waited for, not before. Until then the registers that it
// reads must not change, and no copy may begin to where it reads; registers that were written want a
// fence first; of shared memory a product sees what bulk copies have brought, else NaN.
#pragma once

namespace host {

struct AtWork {
  float* sums;
  const unsigned* a;
  unsigned held[4];                  // what was in a
  std::vector<unsigned> b;           // where the halves are that this lane reads
  std::vector<double> more;          // what is to be added
};
struct Products {
  std::vector<AtWork> open;
  std::vector<std::vector<AtWork>> groups;
  std::vector<const void*> written;  // registers, since the last fence
  std::vector<uint64_t> said;
  bool fenced = false;
};
inline std::vector<Products> products;
// What products see of shared memory, and how many of those at work read each 16 bytes of it.
alignas(16) inline unsigned char seen[MOST];
inline std::vector<unsigned> readers;

inline void begin_products(unsigned threads) {
  products.assign(threads, Products());
  memset(seen, 0xff, memory_size);
  readers.assign(MOST / 16, 0);
}
inline void end_products(unsigned threads) {
  for (unsigned i = 0; i < threads; i++) {
    if (products[i].open.size() + products[i].groups.size())
      throw std::runtime_error("a thread ends while products are at work");
    if (products[i].said != products[i / 128 * 128].said)
      throw std::runtime_error("the warps of a warpgroup have different products");
  }
}

// A copy to shared memory begins.
inline void begins(unsigned to, unsigned size) {
  for (unsigned at = to; at < to + size; at += 16)
    if (readers[at / 16]) throw std::runtime_error("a copy is to where a product at work reads");
}

inline void before_products() {
  together(4, [](Fiber*) {
    products[thread].written.clear();
    products[thread].fenced = true;
  }, nullptr);
}
inline void commit_products() {
  together(5, [](Fiber*) {
    Products& p = products[thread];
    p.groups.push_back(std::move(p.open));
    p.open.clear();
  }, nullptr);
}
inline void finish(const AtWork& w) {
  if (memcmp(w.a, w.held, sizeof w.held))
    throw std::runtime_error("registers of a product have changed while it is at work");
  for (unsigned at : w.b) readers[at / 16]--;
  for (size_t i = 0; i < w.more.size(); i++) w.sums[i] += w.more[i];
}
inline void wait_products(unsigned left) {
  together(6, [left](Fiber*) {
    auto& groups = products[thread].groups;
    while (groups.size() > left) {
      for (const AtWork& w : groups.front()) finish(w);
      groups.erase(groups.begin());
    }
  }, nullptr);
}
// Registers are about to be written by something that is no product.
inline void about_to_write(const void* registers) {
  Products& p = products[thread];
  if (std::find(p.written.begin(), p.written.end(), registers) == p.written.end())
    p.written.push_back(registers);
  const auto reads = [&](const AtWork& w) { return w.a == registers; };
  for (auto& group : p.groups)
    if (std::any_of(group.begin(), group.end(), reads))
      throw std::runtime_error("registers are written that a product at work reads");
  if (std::any_of(p.open.begin(), p.open.end(), reads))
    throw std::runtime_error("registers are written that a product at work reads");
}

// Where half k of row n of a matrix lies, whose rows along k are blocks of 8 by 8.
inline unsigned half_at(uint64_t descriptor, unsigned n, unsigned k) {
  // Of the others some must be zero, and some are of swizzled layouts.
  if (descriptor & ~0x00003fff3fff3fffull)
    throw std::runtime_error("a descriptor that is not of a plain layout");
  const unsigned start = (descriptor & 0x3fff) << 4, along_k = (descriptor >> 16 & 0x3fff) << 4,
                 along_n = (descriptor >> 32 & 0x3fff) << 4;
  const unsigned at = start + n / 8 * along_n + k / 8 * along_k + n % 8 * 16 + k % 8 * 2;
  if (at + 2 > memory_size) throw std::runtime_error("shared memory is left by a product");
  return at;
}

template <bool BF16>
void wgmma(float* sums, int count, const unsigned (&a)[4], uint64_t b) {
  together(
      7,
      [&](Fiber* warp) {
        Products& p = products[thread];
        const bool dirty = std::find(p.written.begin(), p.written.end(), a) != p.written.end();
        if (dirty || !p.fenced)
          throw std::runtime_error("no fence between writing a product's registers and the product");
        const int lane = thread % 32;
        AtWork w{sums, a, {a[0], a[1], a[2], a[3]}, {}, std::vector<double>(count)};
        for (int i = 0; i < count; i++) {
          const int row = lane / 4 + 8 * (i / 2 % 2), n = i / 4 * 8 + lane % 4 * 2 + i % 2;
          for (int k = 0; k < 16; k++) {
            const int from = row % 8 * 4 + k % 8 / 2;
            const float x = half_of<BF16>(warp, from, 0, 2 * (2 * (k / 8) + row / 8) + k % 2);
            const unsigned at = half_at(b, n, k);
            uint16_t h;
            memcpy(&h, seen + at, 2);
            if (row < 8) w.b.push_back(at), readers[at / 16]++;
            w.more[i] += (double)x * (BF16 ? from_bf16(h) : from_fp16(h));
          }
        }
        p.open.push_back(std::move(w));
        p.said.push_back(b);
      },
      a);
}

}  // namespace host
