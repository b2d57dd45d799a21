// Purpose: read the faults that device threads posted in the channel, and answer them.
// Invariant: a slot's number is compared before each change of its state, so an answer reaches the post that
// it was meant for or none.
#include "channel_faults.h"
#include <algorithm>
#include <cerrno>
#include <climits>
#include <unistd.h>
#include <utility>

namespace hmmemu::device {
namespace {

bool waits(uint32_t word) {
  const uint32_t state = word & kFaultStateMask;
  return state == kFaultPosted || state == kFaultTaken;
}

uint32_t with_state(uint32_t word, FaultState state) { return (word & ~kFaultStateMask) | state; }

void empty(int bell) {
  uint64_t count;
  while (::read(bell, &count, sizeof count) < 0 && errno == EINTR) {}
}

} // namespace

template <class Visit> void ChannelFaults::each_slot(Visit visit) const {
  const uint32_t threads = std::min(channel_->block_threads.load(std::memory_order_acquire), kMaxBlocks);
  for (uint32_t i = 0; i < threads; i++)
    if (!visit(channel_->faults[i])) return;
  visit(channel_->faults[kMaxBlocks]);
}

unsigned ChannelFaults::scan(hmm::Fault* faults, unsigned limit) const {
  unsigned count = 0;
  each_slot([&](FaultSlot& slot) {
    uint32_t word = slot.word.load();
    if ((word & kFaultStateMask) != kFaultPosted) return true;
    const hmm::Fault fault{hmm::page_down(slot.address), slot.write != 0, false, slot.tid};
    if (slot.word.compare_exchange_strong(word, with_state(word, kFaultTaken))) faults[count++] = fault;
    return count < limit;
  });
  return count;
}

// The bell is silenced only when nothing seems to be posted, and before a second look: a post rings after it
// is visible.
unsigned ChannelFaults::read(hmm::Fault* faults, unsigned limit) {
  if (limit == 0) return 0;
  if (const unsigned count = scan(faults, limit)) return count;
  empty(bell_);
  return scan(faults, limit);
}

void ChannelFaults::answer(hmm::Pages pages, FaultState state) const {
  each_slot([&](FaultSlot& slot) {
    uint32_t word = slot.word.load();
    while (waits(word) && slot.address >= pages.begin && slot.address < pages.end)
      if (slot.word.compare_exchange_weak(word, with_state(word, state))) {
        futex_wake(slot.word, INT_MAX);
        break;
      }
    return true;
  });
}

// The thread reads the request only once the state says kFaultGrant, so the slot is held in between as one
// that is being filled: nobody else answers it.
bool ChannelFaults::grant(hmm::Pages pages, MailboxOperation rights, int& error) const {
  bool found = false;
  each_slot([&](FaultSlot& slot) {
    uint32_t word = slot.word.load();
    if (!waits(word) || slot.address < pages.begin || slot.address >= pages.end) return true;
    error = std::exchange(slot.error, 0); // said once: the next grant may be one that it can have
    if (error) return false;
    if (!slot.word.compare_exchange_strong(word, with_state(word, kFaultFilling))) return true;
    slot.operation = rights;
    slot.begin = pages.begin;
    slot.length = pages.bytes();
    slot.word.store(with_state(word, kFaultGrant));
    futex_wake(slot.word, INT_MAX);
    found = true;
    return false;
  });
  return found || error;
}

bool ChannelFaults::settled(hmm::Pages pages, uint64_t limit_ns) const {
  bool settled = true;
  each_slot([&](FaultSlot& slot) {
    const uint32_t word = slot.word.load();
    const bool overlaps = slot.begin < pages.end && pages.begin < slot.begin + slot.length;
    if ((word & kFaultStateMask) != kFaultGrant || !overlaps) return true;
    futex_wait(slot.word, word, limit_ns);
    settled = slot.word.load() != word;
    return settled;
  });
  return settled;
}

void ChannelFaults::reset() const {
  for (FaultSlot& slot : channel_->faults) {
    slot.word = 0;
    slot.wanted = kWantedNothing;
    slot.tid = 0;
  }
  empty(bell_);
}

} // namespace hmmemu::device
