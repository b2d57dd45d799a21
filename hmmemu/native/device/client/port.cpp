// Purpose: rights of a device that catches its own faults, by mailbox or by the thread that waits for them.
#include "port.h"
#include <cerrno>

namespace hmmemu::device {
namespace {

constexpr uint64_t kLimit = 5'000'000'000, kSlice = 10'000'000; // ns

MailboxOperation operation_of(hmm::Rights rights) {
  return rights == hmm::Rights::None ? kRightsNone : rights == hmm::Rights::Read ? kRightsRead : kRightsWrite;
}

} // namespace

int Port::set_rights(hmm::Pages pages, hmm::Rights rights) {
  return shootdown.set_rights(pages.begin, pages.bytes(), operation_of(rights));
}

int Port::give(hmm::Pages pages, hmm::Rights rights) {
  uint32_t number = 0;
  FaultSlot* const slot = faults.grant(pages, operation_of(rights), number);
  const int error = slot ? wait_for_grant(*slot, number) : set_rights(pages, rights);
  if (!error) wake(pages); // the others
  return error;
}

int Port::wait_for_grant(FaultSlot& slot, uint32_t number) {
  const uint64_t deadline = now_ns() + kLimit;
  int error = 0;
  while (!faults.granted(slot, number, kSlice, error)) {
    if (shootdown.process_ended()) return ESRCH;
    if (now_ns() > deadline) return shootdown.end_process();
  }
  return error;
}

} // namespace hmmemu::device
