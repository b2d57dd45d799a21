// How the CPU uses a block between one time that a device asks for it and the next: how much a fault should
// begin with.
//
// To bring a page that the CPU does not use costs a copy of it, or one that the device has to get again; a
// fault costs as much as about kFaultPages of these. Who uses one page in a hundred should get one a fault,
// and who uses every other page the whole block with the first. Time goes by rounds: the CPU faults, a device
// asks for the block again (`taken`), the CPU faults again. The faults of a round are counted, and the next
// one begins with the size by which this one would have cost least.
//
// What was brought and not used nobody sees. So a larger size is doubted after some rounds: one round with
// the next smaller one counts again. Each time that this confirms it, it is trusted for twice as long, up to
// kMostTrust rounds. A block on which nobody faulted for kRecent rounds of the space is as new.
//
// INVARIANT: says only how many pages a fault brings, never what is right. Zeroed memory is a valid object.
// LOCK: that of the block; `FaultRounds` is atomic.
#pragma once
#include "base/pages.h"
#include <algorithm>
#include <atomic>
#include <bit>

namespace hmm {

// The rounds of a space: odd while the CPU has faulted since a device asked last.
class FaultRounds {
 public:
  uint32_t now() const { return now_.load(std::memory_order_relaxed); }
  void faulted() { step(0); }
  void taken() { step(1); }

 private:
  void step(uint32_t from) {
    uint32_t seen = now();
    if ((seen & 1) == from) now_.compare_exchange_strong(seen, seen + 1, std::memory_order_relaxed);
  }
  std::atomic<uint32_t> now_{0};
};

class FaultHistory {
 public:
  // With how many pages a fault begins: 1, those of 64 KiB, or all of the block.
  unsigned pages(uint32_t round) const {
    static constexpr unsigned kPages[] = {1, kChunk / kPage, kPagesPerBlock};
    return round - last_ <= 2 * kRecent ? kPages[size_] : 1;
  }
  // A fault on the block's page of this number gave the CPU `granted` of them.
  void fault(uint32_t round, unsigned page, uint64_t granted) {
    if (round - last_ > 2 * kRecent) *this = {};
    last_ = round;
    chunks_ |= 1u << page / (kChunk / kPage);
    ++faults_;
    granted_ = static_cast<uint16_t>(granted_ + granted);
  }
  // A device asks for pages of the block.
  void taken() {
    if (!faults_) return;
    const uint8_t best = best_size();
    if (best > size_)
      grow_to(best);
    else if (left_)
      --left_;
    else if (size_)
      --size_; // and sees
    else
      trust_ = 0;
    chunks_ = faults_ = granted_ = 0;
  }

 private:
  static constexpr unsigned kFaultPages = 16, kRecent = 4;
  static constexpr uint8_t kMostTrust = 8;

  // With which size this round would have cost least, as far as it tells: not whether a smaller one than it
  // began with would have done.
  uint8_t best_size() const {
    constexpr unsigned kChunkPages = kChunk / kPage;
    const unsigned chunks = std::max(static_cast<unsigned>(std::popcount(chunks_)), granted_ / kChunkPages);
    const unsigned by_pages = faults_ * kFaultPages + granted_;
    const unsigned by_chunks = chunks * (kFaultPages + kChunkPages);
    const unsigned at_once = kFaultPages + kPagesPerBlock;
    if (at_once < by_pages && at_once < by_chunks) return 2;
    return by_chunks < by_pages ? 1 : 0;
  }
  void grow_to(uint8_t size) {
    size_ = size;
    trust_ = std::clamp<uint8_t>(static_cast<uint8_t>(2 * trust_), 1, kMostTrust);
    left_ = trust_;
  }

  uint32_t last_ = 0;    // round of the last fault
  uint32_t chunks_ = 0;  // of this round: those that faulted, a bit each,
  uint16_t faults_ = 0;  // so many times,
  uint16_t granted_ = 0; // and got so many pages
  uint8_t size_ = 0;     // that faults begin with: 0, 1, 2
  uint8_t trust_ = 0;    // rounds that this is believed without a doubt
  uint8_t left_ = 0;     // of them
};

} // namespace hmm
