// The directory: state of every page, found by address.
//
// Most blocks are uniform: all pages alike, none locked. The table then has that one state as well, so that
// whole arrays can be looked at without going to their blocks; it is a glance, and may be over when it is
// read.
//
// A flat table over the whole user address space has one entry for each 2 MiB block (1 GiB of address
// space, of which only touched pages cost memory), so that a look-up from a fault handler is one load. Blocks
// are created when a range is first registered and never freed; entries are written once, under the driver's
// range lock, and read without a lock. Page states are read and written under the block's lock; who has
// locked a page (driver/page_locks.h) may read its state without, as nobody else changes it.
#pragma once
#include "base/lock.h"
#include "base/mapping.h"
#include "base/pages.h"
#include "base/page_set.h"
#include "base/wait_list.h"
#include "protocol/fault_history.h"
#include "protocol/state.h"
#include <array>
#include <atomic>
#include <sys/types.h>

namespace hmm {

// All pages of a block in two words: the bits of their states that some have, and those that all have.
// Owners count as one bit, whether there is one; locks are left out.
struct Summary {
  uint64_t any = 0, all = 0;
};

// A page of a file or of shared memory may be managed at several addresses: its owners. They form a ring
// (driver/owners.cpp), which is the page's record: one (mapping, offset, private) entry an owner, where the
// offset and all else is looked up with the mapping as the key. Read by who has the page locked; changed by
// who has all owners locked.
struct OwnerLink {
  uint32_t next = 0;    // number of the next owner in the ring, plus one; 0: there is no other
  uint32_t mapping = 0; // key; 0: memory that no other address can show
  bool own = false;     // of a private mapping: it shows a page of its own, and the object's no more
};

struct Block {
  Lock lock;
  uint32_t locked = 0;   // so many pages are
  uint32_t waiters = 0;  // in all wait lists
  uint32_t slot = 0;     // dense number: where devices' aliases of this block lie
  uint64_t address = 0;  // 2 MiB aligned
  FaultHistory upgrades; // of the CPU: it had a copy, as devices had, and writes
  FaultHistory fetches;  // of the CPU: it had none
  std::array<PageState, kPagesPerBlock> pages;
  std::array<WaitList, kPagesPerBlock> waiting;
  std::array<pid_t, kPagesPerBlock> owner;     // the thread that has the page locked; 0: nobody
  std::array<OwnerLink, kPagesPerBlock> links; // mostly never touched

  PageState& page(uint64_t a) { return pages[(a - address) / kPage]; }
  OwnerLink& link(uint64_t a) { return links[(a - address) / kPage]; }
  Pages all() const { return {address, address + kBlock}; }
  // What must be treated as one: these pages, or the huge page that they are a part of. Caller must hold the
  // lock, or some of the pages.
  Pages whole(Pages some) { return some.empty() || !page(some.begin).huge() ? some : all(); }
  // Pages [begin, end) by number.
  Pages range(unsigned begin, unsigned end) const { return {address + begin * kPage, address + end * kPage}; }
  PageSet set_of(Pages some) const {
    PageSet set;
    PageSet::each_word(static_cast<unsigned>((some.begin - address) / kPage),
                       static_cast<unsigned>((some.end - address) / kPage),
                       [&](unsigned index, uint64_t mask) { set.word(index) |= mask; });
    return set;
  }

  // Caller must hold the lock, for these three.
  const Summary& summary() {
    if (!summed) sum = sum_up();
    summed = true;
    publish();
    return sum;
  }
  // States have changed, or are about to.
  void changed() {
    summed = false;
    publish();
  }
  // Locks have changed.
  void publish() {
    if (outline)
      outline->store(!locked && summed && sum.any == sum.all ? sum.all : 0, std::memory_order_release);
  }

  std::atomic<uint64_t>* outline = nullptr; // in the directory's table

 private:
  Summary sum_up() const;
  bool summed = false; // `sum` is what the states are
  Summary sum;
};

class Directory {
 public:
  Directory();

  Block* find(uint64_t address) const {
    if (address >> kAddressBits) return nullptr;
    return table()[address / kBlock].block.load(std::memory_order_acquire);
  }
  // PageState::outline of all pages of the block, which nobody has locked; 0: that is not known.
  uint64_t outline(uint64_t address) const {
    return table()[address / kBlock].outline.load(std::memory_order_acquire);
  }
  // The block of `address`, made if need be. Caller must hold the range lock.
  Block& make(uint64_t address);

  uint32_t size() const { return used_.load(std::memory_order_acquire); }
  Block& at(uint32_t slot) const { return blocks()[slot]; }
  // Both without a look into the block, which is far away from the next one's.
  uint64_t address(uint32_t slot) const { return addresses_.as<uint64_t>()[slot]; }
  uint32_t slot(const Block& block) const { return static_cast<uint32_t>(&block - blocks()); }

  static constexpr uint32_t kMostBlocks = 1u << 18; // 512 GiB of managed memory

 private:
  struct Entry {
    std::atomic<Block*> block;
    std::atomic<uint64_t> outline;
  };
  Entry* table() const { return table_.as<Entry>(); }
  Block* blocks() const { return blocks_.as<Block>(); }

  Mapping table_, blocks_, addresses_;
  std::atomic<uint32_t> used_{0};
};

} // namespace hmm
