// Purpose: produce tickets, wait for their end, keep the times of markers.
// Lock: LaunchQueue::lock_ (see the header). Waiting threads hold nothing: they announce themselves
// in the ticket's slot, look, and sleep on the bell with a limit; a process that died is noticed by
// its pidfd. A slot that serves a later ticket by then wakes somebody for nothing, no more.
#include "launch_queue.h"
#include "base/failure.h"
#include "base/mapping.h"
#include "device/futex.h"
#include <algorithm>
#include <csignal>
#include <cstring>
#include <optional>
#include <poll.h>
#include <sched.h>

namespace hmmemu::device {
namespace {

constexpr uint64_t kSlice = 20'000'000;         // ns between two looks whether the process lives
constexpr uint64_t kCrashSlice = 500'000;       // the same once it has reported a crash
constexpr uint64_t kCrashLimit = 6'000'000'000; // longer than the crash handler's own limit
constexpr unsigned kLooksPerClock = 8;
constexpr size_t kFewReaches = 64; // of a launch, on the stack

bool ended(int pidfd) {
  pollfd source{pidfd, POLLIN, 0};
  return poll(&source, 1, 0) == 1 && source.revents & POLLIN;
}

} // namespace

// A wild store of a kernel may have hit the counter.
uint64_t LaunchQueue::completed_ticket() const {
  return std::min(queue_.completed.load(std::memory_order_acquire), queue_.produced.load());
}

LaunchQueue::Fate LaunchQueue::fate(uint64_t ticket) {
  if (completed_ticket() < ticket) return Fate::open;
  if (last_lost_.load() < ticket) return Fate::completed;
  const std::lock_guard hold(lock_);
  for (auto [first, last] : lost_)
    if (first <= ticket && ticket <= last) return Fate::lost;
  return Fate::completed;
}

bool LaunchQueue::completed(uint64_t ticket) { return fate(ticket) == Fate::completed; }

bool LaunchQueue::has_room(size_t reaches) const {
  const uint64_t last = queue_.produced.load(), done = completed_ticket();
  const uint64_t oldest = done < last ? reach_begins_[done % kSlots] : reach_head_;
  return last - done < kSlots && reach_head_ - oldest + reaches <= kReaches;
}

Slot* LaunchQueue::wait_for_room(std::unique_lock<std::mutex>& hold, size_t reaches, uint64_t limit_ns,
                                 int pidfd) {
  const uint64_t deadline = now_ns() + limit_ns;
  for (;;) {
    if (!open_) throw hmm::Failure(hmm::FailureKind::Device, "the device process has ended");
    if (has_room(reaches)) break;
    // For more than one place: not to sleep, and be woken, for each launch.
    const uint64_t some = std::min(completed_ticket() + kSlots / 8, last_ticket());
    hold.unlock();
    const WaitResult result = sleep_until(some, deadline, pidfd);
    hold.lock();
    if (result == WaitResult::dead)
      throw hmm::Failure(hmm::FailureKind::Device, "the device process has ended");
    if (result == WaitResult::timeout && !has_room(reaches)) return nullptr;
  }
  const uint64_t ticket = queue_.produced.load() + 1;
  Slot& slot = queue_.slots[(ticket - 1) % kSlots];
  if (slot.kind == kSlotMarker && ticket > kSlots) {
    if (times_.size() >= kKeptTimes / 2) {
      older_ = std::move(times_);
      times_.clear();
    }
    times_[ticket - kSlots] = slot.time_ns;
  }
  reach_begins_[(ticket - 1) % kSlots] = reach_head_;
  return &slot;
}

void LaunchQueue::write_reaches(Slot& slot, const Reach* reaches, size_t count) {
  slot.reach_begin = reach_head_;
  slot.reach_count = uint32_t(count);
  for (size_t i = 0; i < count; i++) channel_->reaches[(reach_head_ + i) % kReaches] = reaches[i];
  reach_head_ += count;
}

// The slot is written; the dispatcher says that it sleeps before it looks a last time, so one of
// the two sees.
uint64_t LaunchQueue::submit() {
  const uint64_t ticket = queue_.produced.load() + 1;
  Slot& slot = queue_.slots[(ticket - 1) % kSlots];
  slot.submitter_cpu = sched_getcpu();
  slot.awaited.store(0, std::memory_order_relaxed);
  queue_.produced.store(ticket);
  queue_.submit_bell.store(uint32_t(ticket));
  if (queue_.dispatcher_asleep.load() != 0) futex_wake(queue_.submit_bell, 1);
  return ticket;
}

uint64_t LaunchQueue::launch(const LaunchSpec& spec, uint64_t limit_ns, int pidfd) {
  if (spec.param_bytes > kParamBytes)
    throw hmm::Failure(hmm::FailureKind::Range, "a kernel takes at most 4096 bytes of parameters");
  if (spec.extent_count > HMM_EXTENTS)
    throw hmm::Failure(hmm::FailureKind::Range, "a launch takes at most 32 extents");
  const size_t reach_count = spec.reaches.size();
  if (reach_count > kReaches)
    throw hmm::Failure(hmm::FailureKind::Range, "a launch reaches at most " + std::to_string(kReaches) +
                                                    " arrays that lie apart, not " +
                                                    std::to_string(reach_count));
  // Copied before the lock is taken: reading the caller's memory may fault.
  alignas(64) unsigned char params[kParamBytes];
  hmm_extent extents[HMM_EXTENTS];
  const size_t extent_bytes = spec.extent_count * sizeof(hmm_extent);
  memcpy(params, spec.params, spec.param_bytes);
  if (extent_bytes) memcpy(extents, spec.extents, extent_bytes);
  Reach few[kFewReaches];
  std::optional<hmm::Mapping> many;
  if (reach_count > kFewReaches) many.emplace(reach_count * sizeof(Reach));
  Reach* const reaches = many ? many->as<Reach>() : few;
  std::copy(spec.reaches.begin(), spec.reaches.end(), reaches);
  std::unique_lock hold(lock_);
  Slot* const slot = wait_for_room(hold, reach_count, limit_ns, pidfd);
  if (!slot) return 0;
  if (spec.kernel >> 32 != channel_->generation)
    throw hmm::Failure(hmm::FailureKind::Device,
                       "the kernel was loaded into a device process that has ended: load it again");
  slot->kind = kSlotLaunch;
  slot->flags = spec.flags;
  slot->kernel = spec.kernel;
  slot->grid = spec.grid;
  slot->block = spec.block;
  slot->dynamic_shared = spec.dynamic_shared;
  slot->param_bytes = uint32_t(spec.param_bytes);
  memcpy(slot->params, params, spec.param_bytes);
  slot->extent_count = uint32_t(spec.extent_count);
  if (extent_bytes) memcpy(slot->extents, extents, extent_bytes);
  write_reaches(*slot, reaches, reach_count);
  slot->confined = spec.confined;
  return submit();
}

uint64_t LaunchQueue::marker(uint64_t limit_ns, int pidfd) {
  std::unique_lock hold(lock_);
  Slot* const slot = wait_for_room(hold, 0, limit_ns, pidfd);
  if (!slot) return 0;
  slot->kind = kSlotMarker;
  return submit();
}

WaitResult LaunchQueue::wait(uint64_t ticket, uint64_t limit_ns, int pidfd) {
  if (ticket > last_ticket())
    throw hmm::Failure(hmm::FailureKind::Range,
                       "there is no launch " + std::to_string(ticket) + " on this device");
  const uint64_t begin = now_ns(), deadline = limit_ns > UINT64_MAX - begin ? UINT64_MAX : begin + limit_ns;
  const uint64_t spin_end = std::min(begin + channel_->spin_ns, deadline);
  for (;;) {
    for (unsigned i = 0; i < kLooksPerClock && queue_.completed.load() < ticket; i++) cpu_pause();
    if (queue_.completed.load(std::memory_order_acquire) >= ticket)
      if (const Fate known = fate(ticket); known != Fate::open)
        return known == Fate::completed ? WaitResult::done : WaitResult::dead;
    // On worker 0's own CPU it could not even begin while this thread looks.
    if (now_ns() >= spin_end || sched_getcpu() == channel_->workers[0].cpu)
      return sleep_until(ticket, deadline, pidfd);
  }
}

WaitResult LaunchQueue::sleep_until(uint64_t ticket, uint64_t deadline, int pidfd) {
  uint64_t crashed_at = 0;
  for (;;) {
    const bool over = ended(pidfd); // asked first: what a dead process completed is complete
    const Fate known = fate(ticket);
    if (known != Fate::open) return known == Fate::completed ? WaitResult::done : WaitResult::dead;
    const uint64_t now = now_ns();
    const bool crashed = channel_->crash_state.load() != kCrashNone;
    if (over) return WaitResult::dead;
    if (now >= deadline) return WaitResult::timeout;
    if (crashed && crashed_at == 0) crashed_at = now;
    if (crashed && now - crashed_at > kCrashLimit) syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0);
    queue_.slots[(ticket - 1) % kSlots].awaited.store(1);
    const uint32_t bell = queue_.complete_bell.load();
    if (queue_.completed.load() < ticket)
      futex_wait(queue_.complete_bell, bell, std::min(deadline - now, crashed ? kCrashSlice : kSlice));
  }
}

uint64_t LaunchQueue::marker_time(uint64_t ticket) {
  if (ticket != 0 && ticket <= last_ticket() && fate(ticket) == Fate::completed) {
    const std::lock_guard hold(lock_);
    const Slot& slot = queue_.slots[(ticket - 1) % kSlots];
    if (queue_.produced.load() - ticket < kSlots && slot.kind == kSlotMarker) return slot.time_ns;
    for (const auto* times : {&times_, &older_})
      if (const auto found = times->find(ticket); found != times->end()) return found->second;
  }
  throw hmm::Failure(hmm::FailureKind::Range,
                     "ticket " + std::to_string(ticket) +
                         " is no marker that was reached, or too old to be remembered");
}

void LaunchQueue::close() {
  const std::lock_guard hold(lock_);
  open_ = false;
}

void LaunchQueue::lose_rest() {
  const std::lock_guard hold(lock_);
  const uint64_t done = completed_ticket(), last = last_ticket();
  open_ = false;
  if (done < last) {
    lost_.push_back({done + 1, last});
    last_lost_ = last;
    for (uint64_t t = done + 1; t <= last; t++) queue_.slots[(t - 1) % kSlots].kind = 0;
  }
  queue_.completed = last;
  queue_.complete_bell = uint32_t(last);
  queue_.dispatcher_asleep = 0;
  futex_wake(queue_.complete_bell, INT_MAX);
}

void LaunchQueue::open() {
  const std::lock_guard hold(lock_);
  open_ = true;
}

} // namespace hmmemu::device
