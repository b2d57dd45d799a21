// Purpose: wait for a lock that another process holds. No state.
#include "keeper_wait.h"

#include "device/futex.h"

#include <fcntl.h>
#include <poll.h>

namespace hmmemu::device {

bool keeper_is_done(int vram) {
  flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_len = 1;
  return fcntl(vram, F_OFD_GETLK, &lock) != 0 || lock.l_type == F_UNLCK;
}

bool wait_for_keeper(int vram, uint64_t limit_ns) {
  const uint64_t deadline = now_ns() + limit_ns;
  for (; !keeper_is_done(vram); poll(nullptr, 0, 1))
    if (now_ns() > deadline) return false;
  return true;
}

} // namespace hmmemu::device
