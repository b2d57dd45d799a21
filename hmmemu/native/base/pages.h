// Pages, blocks and ranges: the units in which everything below counts.
#pragma once
#include <cstddef>
#include <cstdint>

namespace hmm {

inline constexpr uint64_t kPage = 4096;             // unit of coherence
inline constexpr uint64_t kChunk = 64 * 1024;       // a fault first grows to this (NVIDIA's "big page")
inline constexpr uint64_t kBlock = 2 * 1024 * 1024; // unit of locking, and the most that a fault moves
inline constexpr unsigned kPagesPerBlock = kBlock / kPage;

// Where arenas go: far from where the kernel puts anything in this process, and between the places that
// device processes use in their first two address layouts (device/client/spawn.cpp).
inline constexpr uint64_t kArenasBegin = 0x160000000000, kArenasEnd = 0x290000000000;
inline constexpr uint64_t kAddressBits = 47; // user space of x86-64 and of aarch64 with 48-bit tables

constexpr uint64_t page_down(uint64_t a) { return a & ~(kPage - 1); }
constexpr uint64_t page_up(uint64_t a) { return page_down(a + kPage - 1); }
constexpr uint64_t block_down(uint64_t a) { return a & ~(kBlock - 1); }

// Whole pages [begin, end).
struct Pages {
  uint64_t begin = 0, end = 0;

  uint64_t bytes() const { return end - begin; }
  uint64_t count() const { return bytes() / kPage; }
  bool empty() const { return begin >= end; }
  bool operator==(const Pages&) const = default;
  // The pages that hold any byte of [address, address + length).
  static Pages covering(uint64_t address, uint64_t length) {
    return {page_down(address), length ? page_up(address + length) : page_down(address)};
  }
};

} // namespace hmm
