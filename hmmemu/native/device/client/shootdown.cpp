// Purpose: ask the device thread of this CPU to drop page table entries, and wait for its answer.
//
// No spinning: the answering thread is pinned to this very CPU and runs when the caller sleeps.
// Invariants: a mailbox is written by the holder of its lock alone, and only while no request of it
// is open. After a request that was not answered in time its mailbox may still be answered late, so
// nothing is asked again before `attach` has brought a new process.
#include "shootdown.h"
#include <poll.h>
#include <sched.h>

namespace hmmemu::device {
namespace {

constexpr uint64_t kLimit = 5'000'000'000, kSlice = 10'000'000; // ns

} // namespace

bool Shootdown::acquire(Lock& lock, uint64_t deadline) {
  uint32_t seen = 0;
  if (lock.word.compare_exchange_strong(seen, 1)) return true;
  while (lock.word.exchange(2) != 0) {
    if (now_ns() > deadline) return false;
    futex_wait(lock.word, 2, kSlice, Scope::process);
  }
  return true;
}

void Shootdown::release(Lock& lock) {
  if (lock.word.exchange(0) == 2) futex_wake(lock.word, 1, Scope::process);
}

bool Shootdown::process_ended() {
  pollfd source{pidfd_, POLLIN, 0};
  return gone_ || (poll(&source, 1, 0) == 1 && source.revents & POLLIN);
}

bool Shootdown::exchange(Mailbox& box, uint64_t address, uint64_t length, uint64_t deadline) {
  const uint32_t number = box.request.load() + 1;
  box.address = address;
  box.length = length;
  box.request.store(number);
  futex_wake(box.request, 1);
  for (;;) {
    const uint32_t done = box.done.load();
    if (done == number) return box.error == 0;
    if (now_ns() > deadline) return false;
    futex_wait(box.done, done, kSlice);
    if (box.done.load() != number && process_ended()) return true;
  }
}

bool Shootdown::zap(uint64_t address, uint64_t length) {
  if (gone_) return true;
  const uint32_t boxes = channel_->mailbox_count;
  if (broken_ || boxes == 0 || boxes > kMaxWorkers) return false;
  const int cpu = sched_getcpu();
  const int known = cpu >= 0 && cpu < int(kMaxCpus) ? channel_->mailbox_of_cpu[cpu] : -1;
  const uint32_t index = uint32_t(known >= 0 ? known : cpu) % boxes;
  const uint64_t deadline = now_ns() + kLimit;
  bool dropped = acquire(locks_[index], deadline);
  if (dropped) {
    dropped = gone_ || (!broken_ && exchange(channel_->mailboxes[index], address, length, deadline));
    release(locks_[index]);
  }
  if (!dropped) broken_ = 1;
  return dropped;
}

void Shootdown::attach(int pidfd) {
  // gone_ is set: whoever holds a lock is about to notice and to let it go.
  for (Lock& lock : locks_)
    if (acquire(lock, now_ns() + kLimit)) release(lock);
  pidfd_ = pidfd;
  broken_ = 0;
  gone_ = 0;
}

} // namespace hmmemu::device
