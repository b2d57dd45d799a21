// Purpose: ask the device thread of this CPU to change the device's page table, and wait for its answer.
//
// No spinning: the answering thread is pinned to this very CPU and runs when the caller sleeps.
// Invariants: a mailbox is written by the holder of its lock alone, and only while no request of it
// is open. After a request that was not answered in time its mailbox may still be answered late, so
// nothing is asked again before `attach` has brought a new process.
#include "shootdown.h"
#include "base/failure.h"
#include "base/limit.h"
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <poll.h>
#include <sched.h>

namespace hmmemu::device {
namespace {

constexpr uint64_t kSlice = 10'000'000;    // ns
constexpr int kEndLimitMs = 60'000;        // of a process that was killed: as in device_process.cpp
constexpr uint64_t kLimit = 5'000'000'000; // ns

// Shorter than the limit of those who wait for the page.
uint64_t limit(bool gpu) { return gpu ? hmm::kLongestWait / 6 * 5 : kLimit; }

} // namespace

Shootdown::Patience::Patience(const Channel& channel, const Mailbox* mailbox)
    : channel_(channel), mailbox_(mailbox), gpu_(channel.tracker == kTrackerLaunch),
      last_(channel.queue.produced.load()), seen_(progress()), deadline_(now_ns() + limit(gpu_)) {}

uint64_t Shootdown::Patience::progress() const {
  return (mailbox_ ? mailbox_->done.load() : 0) +
         (gpu_ ? std::min(channel_.queue.completed.load(), last_) : 0);
}

bool Shootdown::Patience::over() {
  if (const uint64_t now = progress(); now != seen_) {
    seen_ = now;
    deadline_ = now_ns() + limit(gpu_);
    hmm::Limit::got_on();
  }
  return now_ns() > deadline_;
}

bool Shootdown::acquire(Lock& lock, const Mailbox* mailbox) {
  uint32_t seen = 0;
  if (lock.word.compare_exchange_strong(seen, 1)) return true;
  Patience patience(*channel_, mailbox);
  while (lock.word.exchange(2) != 0) {
    if (patience.over()) return false;
    futex_wait(lock.word, 2, kSlice, Scope::process);
  }
  return true;
}

void Shootdown::release(Lock& lock) {
  if (lock.word.exchange(0) == 2) futex_wake(lock.word, 1, Scope::process);
}

bool Shootdown::process_ended(int wait_ms) {
  pollfd source{pidfd_, POLLIN, 0};
  return gone_ || (poll(&source, 1, wait_ms) == 1 && source.revents & POLLIN);
}

int Shootdown::exchange(Mailbox& box, const Change& change) {
  const uint32_t number = box.request.load() + 1;
  box.address = change.address;
  box.length = change.length;
  box.operation = change.operation;
  box.request.store(number);
  futex_wake(box.request, 1);
  for (Patience patience(*channel_);;) {
    const uint32_t done = box.done.load();
    if (done == number) return box.error;
    if (patience.over()) return ETIMEDOUT;
    futex_wait(box.done, done, kSlice);
    if (box.done.load() != number && process_ended()) return ESRCH;
  }
}

int Shootdown::change(const Change& change) {
  if (gone_) return ESRCH;
  const uint32_t boxes = channel_->mailbox_count;
  if (broken_ || boxes == 0 || boxes > kMaxWorkers) return ETIMEDOUT;
  const int cpu = sched_getcpu();
  const int known = cpu >= 0 && cpu < int(kMaxCpus) ? channel_->mailbox_of_cpu[cpu] : -1;
  const uint32_t index = uint32_t(known >= 0 ? known : cpu) % boxes;
  int error = ETIMEDOUT;
  if (acquire(locks_[index], &channel_->mailboxes[index])) {
    error = gone_ ? ESRCH : broken_ ? ETIMEDOUT : exchange(channel_->mailboxes[index], change);
    release(locks_[index]);
  }
  if (error == ETIMEDOUT) broken_ = 1;
  return error;
}

bool Shootdown::zap(uint64_t address, uint64_t length) {
  const int error = change({kDropEntries, address, length});
  if (error && error != ESRCH) broken_ = 1;
  return error == 0 || error == ESRCH;
}

int Shootdown::set_rights(uint64_t address, uint64_t length, MailboxOperation rights) {
  const int error = change({rights, address, length});
  return error == ETIMEDOUT ? end_process() : error;
}

int Shootdown::end_process() {
  uint32_t none = kCrashNone;
  if (channel_->crash_state.compare_exchange_strong(none, kCrashPartial)) {
    channel_->crash.kind = kCrashDevice;
    constexpr char kText[] = "the device process did not answer in time, and was ended";
    static_assert(sizeof kText <= sizeof channel_->crash.message);
    memcpy(channel_->crash.message, kText, sizeof kText);
    channel_->crash_state = kCrashComplete;
  }
  syscall(SYS_pidfd_send_signal, pidfd_.load(), SIGKILL, nullptr, 0);
  if (!process_ended(kEndLimitMs))
    hmm::fatal("a device process does not end; its memory cannot be relied upon");
  return ESRCH;
}

void Shootdown::attach(int pidfd) {
  // gone_ is set: whoever holds a lock is about to notice and to let it go.
  for (Lock& lock : locks_)
    if (acquire(lock)) release(lock);
  pidfd_ = pidfd;
  broken_ = 0;
  gone_ = 0;
}

} // namespace hmmemu::device
