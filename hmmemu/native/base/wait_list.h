// Who waits for a page in transition: one list a page, so that a wake-up walks past nobody who waits for
// another page.
//
// Two kinds of waiters stand in the same list. A thread (`Waiter` on its own stack) sleeps on a futex of its
// own. A fault whose thread sleeps in the kernel (`thread == false`, from a pool of the driver) costs nobody
// a wait: the page is woken when the transition ends, and the thread tries again.
//
// LOCK: a list is read and changed under the lock of its block. `take_all` under that lock, `wake` after it
// was released: a woken thread takes the lock at once. A waiter that gives up (its limit ran out) removes
// itself under the same lock; a waiter that is no longer in the list will be woken.
#pragma once
#include "base/lock.h"
#include <atomic>
#include <cstdint>

namespace hmm {

struct Waiter {
  Waiter* next = nullptr;
  bool thread = true;
  std::atomic<uint32_t> woken{0};

  // Sleeps until woken. False if the limit ran out first.
  bool sleep(const Limit& limit) {
    while (!woken.load(std::memory_order_acquire)) {
      const uint64_t left = limit.left();
      if (!left) return false;
      const timespec slice{time_t(left / 1'000'000'000), long(left % 1'000'000'000)};
      syscall(SYS_futex, &woken, FUTEX_WAIT_PRIVATE, 0, &slice, nullptr, 0);
    }
    return true;
  }
};

// Zeroed memory is an empty list.
class WaitList {
 public:
  bool empty() const { return head_ == nullptr; }
  void push(Waiter& waiter) {
    waiter.next = nullptr;
    Waiter** end = &head_;
    if (tail_) end = &tail_->next;
    *end = tail_ = &waiter;
  }
  // All waiters, first come first; the list is empty afterwards.
  Waiter* take_all() {
    Waiter* all = head_;
    head_ = tail_ = nullptr;
    return all;
  }
  // False if it is not in the list (it was taken, and will be woken).
  bool remove(Waiter& waiter) {
    Waiter* before = nullptr;
    for (Waiter* w = head_; w; before = w, w = w->next) {
      if (w != &waiter) continue;
      (before ? before->next : head_) = w->next;
      if (tail_ == w) tail_ = before;
      return true;
    }
    return false;
  }

 private:
  Waiter *head_ = nullptr, *tail_ = nullptr;
};

// Wakes a thread that was taken from its list; `waiter` is gone the moment it is woken.
inline void wake(Waiter& waiter) {
  std::atomic<uint32_t>* const word = &waiter.woken;
  word->store(1, std::memory_order_release);
  // The thread may be gone by now, and its stack reused: a futex wake on any address is harmless.
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

} // namespace hmm
