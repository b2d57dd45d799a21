// The device's userfaultfd: made here, because it watches the process that makes it; used by the
// CPU process.
#pragma once
#include <cstdint>
#include <string>

namespace hmmemu::device {

struct Userfault {
  int fd = -1;
  uint64_t features = 0; // UFFD_FEATURE_*
  bool user_mode_only = false;
  std::string error; // why fd is -1
};

Userfault open_userfault();

// Hands the faults of a mapping that nothing can access yet to the userfaultfd, then makes it accessible.
// 0 or an errno.
int watch_with_userfault(const Userfault& userfault, uint64_t address, uint64_t length);

} // namespace hmmemu::device
