// A small lock that lives in zeroed memory.
//
// Why not std::mutex: blocks live in mmap'ed memory that is never constructed, a wait here must end with an
// error and not hang for ever, and a fork child must be able to start again from "unlocked".
//
// LOCK ORDER of the whole driver, outermost first:
//   1. Driver::ranges_   registration, protectors, device attach and detach, fork. Held by Python threads
//   only.
//   2. Page locks        driver/page_locks.h: bits in the page states, for as long as a transition takes. Who
//                        holds some sleeps only for pages that come after all of those: the fork handler,
//                        which takes all, and transitions of pages with several owners (driver/owners.cpp).
//   3. Staging::lock_    a copy buffer, held while pages are locked.
//   4. Block::lock       states and wait lists of the pages of one 2 MiB block, for a moment only.
//   5. FrameStore::lock_ frames of merged pages and their records, while pages are locked, for a moment only.
//   6. os/segv.cpp       installing signal handlers: a leaf, held for a few system calls.
//   7. Thrashing         driver/thrashing.h: one place of its table, a leaf, for a few loads and stores.
// While holding 2 to 7 a thread allocates nothing, frees nothing and touches no memory but its stack and
// the driver's own mappings: the heap may be managed memory, and a fault on a page that is locked would wait
// for itself.
#pragma once
#include "base/failure.h"
#include "base/limit.h"
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <ctime>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace hmm {

// Tells the CPU that this is a spin.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Lock {
 public:
  void lock() {
    uint32_t seen = kFree;
    if (word_.compare_exchange_strong(seen, kHeld, std::memory_order_acquire)) return;
    lock_slow();
  }
  bool try_lock() {
    uint32_t seen = kFree;
    return word_.compare_exchange_strong(seen, kHeld, std::memory_order_acquire);
  }
  void unlock() {
    if (word_.exchange(kFree, std::memory_order_release) == kContended)
      syscall(SYS_futex, &word_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  }
  // In a fork child only: whoever held it does not exist here.
  void reset() { word_.store(kFree, std::memory_order_relaxed); }

 private:
  static constexpr uint32_t kFree = 0, kHeld = 1, kContended = 2;

  void lock_slow() {
    for (int spin = 0; spin < 100; ++spin) {
      if (try_lock()) return;
      relax();
    }
    const Limit limit;
    while (word_.exchange(kContended, std::memory_order_acquire) != kFree) {
      timespec slice{1, 0};
      syscall(SYS_futex, &word_, FUTEX_WAIT_PRIVATE, kContended, &slice, nullptr, 0);
      if (!limit.left())
        fatal("a driver lock was not released within %lu s: this is a bug, please report it",
              kLongestWait / 1'000'000'000);
    }
  }

  std::atomic<uint32_t> word_{kFree};
};

} // namespace hmm
