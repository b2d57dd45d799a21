// Purpose: post a page fault in the channel, ring the bell, and wait for the driver's answer.
//
// The driver answers every post: one that came too late for an answer that was on its way to others (the page
// is there already) is read, found needless, and answered too. The wait is limited all the same, to 300 s or
// HMMEMU_FAULT_SECONDS in which no launch ends (whoever has the page may wait for those); should the CPU
// process end, the main thread ends this one (main.cpp).
//
// Invariants: everything here is async-signal-safe and preserves errno. A worker has a slot of its own;
// threads that are no workers take turns in the last one.
#include "page_fault.h"
#include "device.h"
#include "failure.h"
#include "registers.h"
#include "video_memory.h"
#include <cerrno>
#include <cstdlib>
#include <unistd.h>

namespace hmmemu::device {
namespace {

constexpr uint64_t kSlice = 1'000'000'000; // ns
unsigned most_slices = 300;                // counted, not timed: the whole program may have been stopped
int bell_fd = -1;

FaultSlot& slot_of_this_thread() {
  const uint32_t index = hmmemu_worker_self ? hmmemu_worker_self->index : kMaxBlocks;
  return channel->faults[index < kMaxBlocks ? index : kMaxBlocks];
}

// Sleeps while the word's state is not one that `wanted` says true to. Returns the word.
template <class Wanted> uint32_t wait_for(FaultSlot& slot, Wanted wanted) {
  uint64_t ended = channel->queue.completed.load();
  for (unsigned slices = 0;;) {
    const uint32_t word = slot.word.load();
    if (wanted(word & kFaultStateMask)) return word;
    if (const uint64_t now = channel->queue.completed.load(); now != ended) ended = now, slices = 0;
    if (slices == most_slices) fail_device("the CPU process did not answer a page fault of the device");
    const uint64_t begin = now_ns();
    futex_wait(slot.word, word, kSlice);
    slices += now_ns() - begin >= kSlice;
  }
}

// Takes the slot; returns its word, in state kFaultFilling and with a new number.
uint32_t take(FaultSlot& slot) {
  for (;;) {
    uint32_t word = wait_for(slot, [](uint32_t state) { return state == kFaultFree; });
    const uint32_t next = ((word & ~kFaultStateMask) + kFaultNumber) | kFaultFilling;
    if (slot.word.compare_exchange_strong(word, next)) return next;
  }
}

void ring() {
  const uint64_t one = 1;
  while (write(bell_fd, &one, sizeof one) < 0 && errno == EINTR) {}
}

void post(FaultSlot& slot, uint32_t number, int error) {
  slot.error = error;
  slot.word.store(number | kFaultPosted);
  ring();
}

void free_slot(FaultSlot& slot, uint32_t number) {
  slot.word.store(number | kFaultFree);
  futex_wake(slot.word, INT_MAX); // the driver, if it waits for the grant; others who want the slot
}

// Waits for the answer. True: try again. A grant that this process cannot have is posted again, with the
// error.
bool wait_for_answer(FaultSlot& slot, uint32_t number) {
  for (;; number += kFaultNumber) {
    const uint32_t state = wait_for(slot,
                                    [](uint32_t now) {
                                      return now == kFaultRetry || now == kFaultRefused || now == kFaultGrant;
                                    }) &
                           kFaultStateMask;
    const int error =
        state == kFaultGrant ? change_table(MailboxOperation(slot.operation), slot.begin, slot.length) : 0;
    if (error) {
      post(slot, number + kFaultNumber, error);
      continue;
    }
    free_slot(slot, number);
    return state != kFaultRefused;
  }
}

} // namespace

bool ask_for_page(uint64_t address, bool writes) {
  FaultSlot& slot = slot_of_this_thread();
  const uint32_t number = take(slot) & ~kFaultStateMask;
  if (&slot == &channel->faults[kMaxBlocks]) slot.tid = int32_t(syscall(SYS_gettid)); // others never change
  slot.address = address;
  slot.write = writes;
  post(slot, number, 0);
  return wait_for_answer(slot, number);
}

bool post_faults_to(int bell) {
  bell_fd = bell;
  if (const char* seconds = getenv("HMMEMU_FAULT_SECONDS"))
    if (const int given = atoi(seconds); given > 0) most_slices = unsigned(given);
  return bell >= 0;
}

bool was_being_mapped(const siginfo_t* info, const ucontext_t* context) {
  if (info->si_code != SEGV_ACCERR || !address_known(info)) return false;
  const auto address = reinterpret_cast<uint64_t>(info->si_addr);
  if (instruction_of(context) == address || access_of(context) == kAccessExecute) return false;
  const int error = errno;
  const bool again = wait_for_mapping(address);
  errno = error;
  return again;
}

bool resolve_page_fault(const siginfo_t* info, const ucontext_t* context) {
  const auto address = reinterpret_cast<uint64_t>(info->si_addr);
  if (bell_fd < 0 || !address_known(info) || !is_watched(address)) return false;
  // Some systems (gVisor) do not say what kind of access it was: then all rights are asked for.
  uint32_t access = access_of(context);
  if (access == kAccessUnknown && instruction_of(context) == address) access = kAccessExecute;
  if (access == kAccessExecute) return false; // nobody grants that
  const int error = errno;
  const bool again = ask_for_page(address, access != kAccessRead);
  errno = error;
  return again;
}

} // namespace hmmemu::device
