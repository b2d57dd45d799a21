// Purpose: rights of a device that catches its own faults, by mailbox or by the thread that waits for them.
#include "port.h"
#include "base/failure.h"
#include "keeper_wait.h"
#include <algorithm>
#include <cerrno>
#include <poll.h>

namespace hmmemu::device {
namespace {

constexpr uint64_t kSlice = 10'000'000; // ns

MailboxOperation of_object(MailboxOperation operation, bool object) {
  return MailboxOperation(operation | (object ? uint32_t(kFromObject) : 0u));
}

MailboxOperation operation_of(hmm::Rights rights, bool object) {
  if (rights == hmm::Rights::None) return kRightsNone;
  return of_object(rights == hmm::Rights::Read ? kRightsRead : kRightsWrite, object);
}

} // namespace

int Port::set_rights(hmm::Pages pages, hmm::Rights rights, bool object) {
  return change(pages, operation_of(rights, object));
}

int Port::exchange(hmm::Pages pages, MailboxOperation operation) {
  return channel_->tracker == kTrackerLaunch ? change(pages, operation) : 0;
}

// Rights that threads were granted come first: they must not come back afterwards. Who is told that the
// process has ended goes on with the file of frames, so what a GPU had must be there.
int Port::change(hmm::Pages pages, MailboxOperation operation) {
  for (;;) {
    const uint32_t phase = phase_.load();
    const int error = settle(pages) ? shootdown.set_rights(pages.begin, pages.bytes(), operation) : ESRCH;
    if (error != ESRCH || channel_->tracker != kTrackerLaunch) return error;
    if (phase_.load() == phase) { // else it is not said which process has ended
      if (came_home(phase)) return error;
      hmm::fatal("the memory of a GPU did not come home within 120 s after its process had ended");
    }
  }
}

bool Port::came_home(uint32_t phase) const {
  const uint64_t deadline = now_ns() + kKeepLimit;
  for (; !(phase & 1) && phase_.load() == phase && !keeper_is_done(vram_); poll(nullptr, 0, 1))
    if (now_ns() > deadline) return false;
  return true;
}

void Port::attach(int pidfd) {
  shootdown.attach(pidfd);
  phase_.fetch_add(1);
}

int Port::give_by(hmm::Pages pages, MailboxOperation operation) {
  int error = 0;
  if (!faults.grant(pages, operation, error))
    error = settle(pages) ? shootdown.set_rights(pages.begin, pages.bytes(), operation) : ESRCH;
  if (!error) wake(pages); // the others
  return error;
}

int Port::give(hmm::Pages pages, hmm::Rights rights, bool object) {
  return give_by(pages, operation_of(rights, object));
}

int Port::give_zeros(hmm::Pages pages, hmm::Rights rights, bool object) {
  if (channel_->tracker != kTrackerLaunch) return give(pages, rights, object);
  return give_by(pages, of_object(rights == hmm::Rights::Write ? kZerosWrite : kZerosRead, object));
}

// False: the device process has ended.
bool Port::settle(hmm::Pages pages) {
  Shootdown::Patience patience(*channel_);
  while (!faults.settled(pages, kSlice)) {
    if (shootdown.process_ended()) return false;
    if (patience.over()) {
      shootdown.end_process();
      return false;
    }
  }
  return true;
}

FaultSlot* Port::slot_of(pid_t thread) const {
  const uint32_t threads = std::min(channel_->block_threads.load(std::memory_order_acquire), kMaxBlocks);
  for (uint32_t i = 0; i < threads; i++)
    if (channel_->faults[i].tid == thread) return &channel_->faults[i];
  return nullptr;
}

hmm::Access Port::atomic(pid_t thread, uint64_t address) const {
  const FaultSlot* const slot = slot_of(thread);
  switch ((slot ? slot->wanted.load(std::memory_order_acquire) : kWantedNothing) ^ hmm::page_down(address)) {
  case kWantedAtomic:
    return hmm::Access::Atomic;
  case kWantedOwn:
    return channel_->tracker != kTrackerLaunch && channel_->link.fallback == HMM_FALLBACK_EXCLUSIVE
               ? hmm::Access::Alone
               : hmm::Access::Own;
  case kWantedShare:
    return hmm::Access::Share;
  default:
    return hmm::Access::Read;
  }
}

// The launch that runs is the one behind the last that completed. Other threads of the device load modules.
int Port::forbids(pid_t thread, uint64_t page, bool write) const {
  const Queue& queue = channel_->queue;
  const uint64_t ticket = queue.completed.load() + 1;
  const Slot& slot = queue.slots[(ticket - 1) % kSlots];
  if (ticket > queue.produced.load() || slot.kind != kSlotLaunch || !slot.confined || !slot_of(thread))
    return 0;
  int error = EACCES;
  each_reach(*channel_, slot, [&](const Reach& reach) {
    if (page + 4096 <= reach.begin || page >= reach.end) return true;
    error = write && reach.use == kReachReads ? EROFS : 0;
    return error != 0;
  });
  return error;
}

void Port::count_brought(pid_t thread, bool stays) {
  if (FaultSlot* const slot = slot_of(thread)) slot->brought.fetch_add(stays ? kBroughtStays : 1);
}

void Port::mark_remote(hmm::Pages pages, bool remote) {
  std::atomic<uint8_t>* const bits = remote_bits(channel_);
  for (uint64_t page = pages.begin / 4096; page < pages.end / 4096; page++) {
    const auto bit = static_cast<uint8_t>(1u << page % 8);
    if (remote)
      bits[page / 8].fetch_or(bit);
    else
      bits[page / 8].fetch_and(static_cast<uint8_t>(~bit));
  }
}

} // namespace hmmemu::device
