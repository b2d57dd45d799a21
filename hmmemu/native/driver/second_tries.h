// Faults that cannot be served get a second try before they are refused.
//
// A message of a fault may be read late: its thread was woken with others that waited for the same page, went
// on, and the page may have been freed since. To refuse such a message would poison a page for whoever gets
// the address next. So the first answer is only to try again: a thread that waits faults once more, at once,
// and a message that was late is forgotten.
//
// INVARIANT: between two late messages of a thread about one page, the page was managed; `forget` is called
// then. No locks: single words.
#pragma once
#include "base/pages.h"
#include <atomic>
#include <sys/types.h>

namespace hmm {

class SecondTries {
 public:
  // Whether this thread has had its second try at the page.
  bool had(pid_t thread, uint64_t address) {
    const uint64_t mine = (address / kPage) << kThreadBits | (uint64_t(thread) & ((1u << kThreadBits) - 1));
    some_.store(true, std::memory_order_relaxed);
    return last_[uint64_t(thread) % kThreads].exchange(mine) == mine;
  }
  // Memory is managed from now on.
  void forget() {
    if (!some_.exchange(false)) return;
    for (auto& last : last_) last.store(0, std::memory_order_relaxed);
  }

 private:
  static constexpr unsigned kThreads = 2048, kThreadBits = 22; // the kernel's limit of thread numbers
  std::atomic<uint64_t> last_[kThreads] = {};
  std::atomic<bool> some_{false};
};

} // namespace hmm
