// Which pages have a frame in a store of frames that lies beside a page table: one bit a page, which is
// guarded by the page's lock; neighbours in the same byte may change at the same time.
#pragma once
#include "base/mapping.h"
#include "protocol/directory.h"
#include <atomic>

namespace hmm {

class FrameMap {
 public:
  FrameMap() : bits_(uint64_t{Directory::kMostBlocks} * kPagesPerBlock / 8, true) {}

  bool has(const Block& block, uint64_t address) const {
    const uint64_t page = number(block, address);
    return byte(page).load(std::memory_order_relaxed) >> (page % 8) & 1;
  }

  void set(const Block& block, Pages pages, bool present) {
    uint64_t changed = 0;
    for (uint64_t a = pages.begin; a < pages.end; a += kPage) {
      if (has(block, a) == present) continue;
      const uint64_t page = number(block, a);
      byte(page).fetch_xor(1u << (page % 8), std::memory_order_relaxed);
      ++changed;
    }
    frames_.fetch_add(present ? changed : -changed, std::memory_order_relaxed);
  }

  // Calls act(run, present) -> 0 or errno for each run of pages that all have, or all lack, a frame.
  template <class Act> int each_run(const Block& block, Pages pages, Act act) const {
    while (!pages.empty()) {
      const bool present = has(block, pages.begin);
      Pages run{pages.begin, pages.begin + kPage};
      while (run.end < pages.end && has(block, run.end) == present) run.end += kPage;
      pages.begin = run.end;
      if (int error = act(run, present)) return error;
    }
    return 0;
  }

  bool any(const Block& block) const {
    const uint64_t first = number(block, block.address);
    for (uint64_t page = first; page < first + kPagesPerBlock; page += 8)
      if (byte(page).load(std::memory_order_relaxed)) return true;
    return false;
  }

  uint64_t frames() const { return frames_.load(std::memory_order_relaxed); }

 private:
  static uint64_t number(const Block& block, uint64_t address) {
    return uint64_t{block.slot} * kPagesPerBlock + (address - block.address) / kPage;
  }

  std::atomic<uint8_t>& byte(uint64_t page) const { return bits_.as<std::atomic<uint8_t>>()[page / 8]; }

  Mapping bits_;
  std::atomic<uint64_t> frames_{0};
};

} // namespace hmm
