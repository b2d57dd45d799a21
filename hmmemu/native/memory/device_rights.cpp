// Purpose: the two ways of changing rights in a device's page table. No locks of its own.
#include "memory/device_rights.h"

#include <cerrno>
#include <fcntl.h>

namespace hmm {

// From this many pages on, asking the device process (one round trip, about 6 us) is cheaper than freeing
// frames that the next move allocates again (about 2 us a page).
static constexpr uint64_t kShootdownPages = 8;

UserfaultRights::UserfaultRights(int uffd, DevicePort* port)
    : uffd_(fcntl(uffd, F_DUPFD_CLOEXEC, 0)), port_(port) {}

int UserfaultRights::take(Pages pages) {
  return pages.count() >= kShootdownPages && port_ && port_->drop(pages) ? 0 : EAGAIN;
}

// Only a page without an entry can be poisoned.
int UserfaultRights::refuse(Pages pages) {
  const int error = uffd_.poison(pages);
  return error == EEXIST && port_ && port_->drop(pages) ? uffd_.poison(pages) : error;
}

int SignalRights::less(Pages pages, Rights rights, bool object) {
  const int error = port_->set_rights(pages, rights, object);
  return error == ESRCH ? 0 : error;
}

int SignalRights::give(Pages pages, bool writable, bool object) {
  return port_->give(pages, writable ? Rights::Write : Rights::Read, object);
}

int SignalRights::give_zeros(Pages pages, bool writable, bool object) {
  return port_->give_zeros(pages, writable ? Rights::Write : Rights::Read, object);
}

int SignalRights::unprotect(Pages pages, bool object) {
  const int error = give(pages, true, object);
  return error == ESRCH ? 0 : error;
}

int SignalRights::copy(Pages, const std::byte*, bool) { return EOPNOTSUPP; } // frames_are_rights() is false
int SignalRights::zero(Pages) { return EOPNOTSUPP; }

int SignalRights::wake(Pages pages) {
  port_->wake(pages);
  return 0;
}

int SignalRights::refuse(Pages pages) {
  port_->refuse(pages);
  return 0;
}

} // namespace hmm
