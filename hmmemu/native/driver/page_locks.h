// Locking pages for a transition.
//
// INVARIANT: a locked page belongs to one thread, which alone changes its state and what the page tables say
// of it. While it holds some, it sleeps for another page only if that page's number (slot of the block, then
// place in it) is higher than those of all that it holds; else it may only try to lock it. So no two threads
// wait for each other. Whoever needs the page meanwhile stands in the page's own wait list.
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
  // Locks all of `pages` (Pages or a PageSet), sleeping while one of them is locked. Returns what was locked:
  // the whole of a huge page.
  template <class Some> static Some lock(Block& block, const Some& pages) {
    while (uint64_t busy = try_lock(block, pages)) wait(block, busy);
    return whole(block, pages);
  }

  // 0 if all were locked; else nothing was, and the address of one that is locked.
  template <class Some> static uint64_t try_lock(Block& block, const Some& some) {
    std::lock_guard guard(block.lock);
    const Some pages = whole(block, some);
    if (uint64_t busy = first_locked(block, pages)) return busy;
    mark(block, pages, true);
    return 0;
  }

  // Caller must hold the block's lock for these three.
  template <class Some> static uint64_t first_locked(Block& block, const Some& pages) {
    uint64_t found = 0;
    if (!block.locked) return 0;
    each_page(block, pages, [&](uint64_t a) {
      if (block.page(a).locked()) found = a;
    });
    return found;
  }
  template <class Some> static void mark(Block& block, const Some& pages, bool locked) {
    const pid_t owner = locked ? this_thread() : 0;
    each_page(block, pages, [&](uint64_t a) {
      PageState& state = block.page(a);
      block.locked += uint32_t{locked} - uint32_t{state.locked()};
      __atomic_store_n(&block.owner[(a - block.address) / kPage], owner, __ATOMIC_RELAXED);
      state.set_locked(locked);
    });
    block.publish();
  }
  static void enter(Block& block, uint64_t address, Waiter& waiter) {
    list(block, address).push(waiter);
    ++block.waiters;
  }

  // Whether this thread has the page locked.
  static bool owned_by(Block& block, uint64_t address, pid_t thread) {
    std::lock_guard guard(block.lock);
    return thread && block.owner[(address - block.address) / kPage] == thread;
  }
  // The same of the thread that calls. Needs no lock: nobody else makes it so, or not so.
  static bool mine(const Block& block, uint64_t address) {
    return __atomic_load_n(&block.owner[(address - block.address) / kPage], __ATOMIC_RELAXED) ==
           this_thread();
  }
  // In a fork child the thread has another number.
  static void forget_thread() { known_thread() = 0; }

  // Sleeps until the transition of the page that runs now has ended.
  static void wait(Block& block, uint64_t address) {
    Waiter me;
    {
      std::lock_guard guard(block.lock);
      if (!block.page(address).locked()) return;
      enter(block, address, me);
    }
    if (me.sleep(Limit())) return;
    std::lock_guard guard(block.lock);
    if (list(block, address).remove(me)) // and never more
      fatal("page 0x%lx was in transition for more than %lu s: this is a bug, please report it", address,
            kLongestWait / 1'000'000'000);
    me.sleep(Limit()); // it was taken from the list at the last moment: the wake-up is on its way
  }

  // Unlocks and wakes. `retry(deferred)` makes a deferred fault's thread try again.
  template <class Some, class Retry> static void unlock(Block& block, const Some& pages, Retry retry) {
    Waiter* all = nullptr;
    Waiter** end = &all;
    {
      std::lock_guard guard(block.lock);
      mark(block, pages, false);
      if (block.waiters)
        each_page(block, pages, [&](uint64_t a) {
          *end = list(block, a).take_all();
          for (; *end; end = &(*end)->next) --block.waiters;
        });
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

 private:
  static Pages whole(Block& block, Pages pages) { return block.whole(pages); }
  static const PageSet& whole(Block&, const PageSet& pages) {
    return pages;
  } // under Tracker::Async none is huge
  static WaitList& list(Block& block, uint64_t address) {
    return block.waiting[(address - block.address) / kPage];
  }
  template <class Act> static void each_page(const Block&, Pages pages, Act act) {
    for (uint64_t a = pages.begin; a < pages.end; a += kPage) act(a);
  }
  template <class Act> static void each_page(const Block& block, const PageSet& pages, Act act) {
    pages.each_run([&](unsigned begin, unsigned end) { each_page(block, block.range(begin, end), act); });
  }
  // initial-exec: the first use of any other thread-local variable in a thread may call malloc.
  static pid_t& known_thread() {
    static thread_local __attribute__((tls_model("initial-exec"))) pid_t known = 0;
    return known;
  }
  static pid_t this_thread() {
    pid_t& known = known_thread();
    if (!known) known = static_cast<pid_t>(syscall(SYS_gettid));
    return known;
  }
};

} // namespace hmm
