// Locking pages for a transition.
//
// INVARIANT: a locked page belongs to one thread, which alone changes its state and what the page tables say
// of it, and which sleeps for nobody else's page while it holds it (it may only try to lock more). So no two
// threads wait for each other. Whoever needs the page meanwhile stands in the page's own wait list.
//
// LOCK: the bit and the list are changed under the lock of the block, which is held for that moment only.
#pragma once
#include "base/failure.h"
#include "os/fault.h"
#include "protocol/directory.h"
#include <atomic>
#include <mutex>

namespace hmm {

// A fault that came while its page was in transition: its thread sleeps in the kernel (or in the device), and
// is told to try again when the transition ends.
struct DeferredFault : Waiter {
  std::atomic<bool> used{false};
  Processor processor = kCpu;
  uint64_t address = 0;
};

class PageLocks {
 public:
  static constexpr uint64_t kLimitNs = 120'000'000'000;

  // Locks all of `pages`, sleeping while one of them is locked. Returns what was locked: the whole of a huge
  // page.
  static Pages lock(Block& block, Pages pages) {
    while (uint64_t busy = try_lock(block, pages)) wait(block, busy);
    return block.whole(pages);
  }

  // 0 if all were locked; else nothing was, and the address of one that is locked.
  static uint64_t try_lock(Block& block, Pages pages) {
    std::lock_guard guard(block.lock);
    pages = block.whole(pages);
    if (uint64_t busy = first_locked(block, pages)) return busy;
    mark(block, pages, true);
    return 0;
  }

  // Caller must hold the block's lock for these three.
  static uint64_t first_locked(Block& block, Pages pages) {
    for (uint64_t a = pages.begin; a < pages.end; a += kPage)
      if (block.page(a).locked()) return a;
    return 0;
  }
  static void mark(Block& block, Pages pages, bool locked) {
    for (uint64_t a = pages.begin; a < pages.end; a += kPage) block.page(a).set_locked(locked);
  }
  static WaitList& list(Block& block, uint64_t address) {
    return block.waiting[(address - block.address) / kPage];
  }

  // Sleeps until the transition of the page that runs now has ended.
  static void wait(Block& block, uint64_t address) {
    Waiter me;
    {
      std::lock_guard guard(block.lock);
      if (!block.page(address).locked()) return;
      list(block, address).push(me);
    }
    if (me.sleep(kLimitNs)) return;
    std::lock_guard guard(block.lock);
    if (list(block, address).remove(me))
      fatal("page 0x%lx was in transition for more than 120 s: this is a bug, please report it", address);
    me.sleep(kLimitNs); // it was taken from the list at the last moment: the wake-up is on its way
  }

  // Unlocks and wakes. `retry(deferred)` makes a deferred fault's thread try again.
  template <class Retry> static void unlock(Block& block, Pages pages, Retry retry) {
    Waiter* all = nullptr;
    Waiter** end = &all;
    {
      std::lock_guard guard(block.lock);
      mark(block, pages, false);
      for (uint64_t a = pages.begin; a < pages.end; a += kPage) {
        if (list(block, a).empty()) continue;
        *end = list(block, a).take_all();
        while (*end) end = &(*end)->next;
      }
    }
    while (all) {
      Waiter* next = all->next; // first: a woken thread's waiter is gone
      if (all->thread)
        wake(*all);
      else
        retry(static_cast<DeferredFault&>(*all));
      all = next;
    }
  }
};

} // namespace hmm
