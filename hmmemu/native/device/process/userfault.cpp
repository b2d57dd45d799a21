// Purpose: open the userfaultfd with the features that the driver needs, and register ranges with it.
// Invariant: a mapping of video memory becomes accessible only after its registration.
#include "userfault.h"
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace hmmemu::device {
namespace {

// Values of linux/userfaultfd.h, by hand: Debian 12's header is older than the kernels it runs on.
constexpr uint64_t kPagefaultFlagWp = 1u << 0, kMissingShmem = 1u << 5, kThreadId = 1u << 8,
                   kMinorShmem = 1u << 10, kWpShmem = 1u << 12, kWpUnpopulated = 1u << 13;
constexpr uint64_t kNeeded = kPagefaultFlagWp | kMissingShmem | kWpShmem; // Linux 5.19
constexpr uint64_t kWanted = kNeeded | kThreadId | kMinorShmem | kWpUnpopulated;
constexpr int kUserModeOnly = 1;
constexpr unsigned long kRegisterMissing = 1, kRegisterWp = 2, kRegisterMinor = 4;
constexpr unsigned long kIoctlNew = 0xAA00; // USERFAULTFD_IOC_NEW, _IO(0xAA, 0x00)

int open_raw(bool* user_mode_only, int* error) {
  const int flags = O_CLOEXEC | O_NONBLOCK;
  *user_mode_only = false;
  int fd = int(syscall(SYS_userfaultfd, flags));
  if (fd >= 0) return fd;
  *error = errno;
  const int node = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (node >= 0) {
    fd = ioctl(node, kIoctlNew, flags);
    close(node);
    if (fd >= 0) return fd;
  }
  *user_mode_only = true;
  return int(syscall(SYS_userfaultfd, flags | kUserModeOnly));
}

// UFFDIO_API settles a descriptor for good, so a first one asks what there is and a second one
// takes it.
bool settle(int fd, uint64_t features, uint64_t* available) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = features;
  if (ioctl(fd, UFFDIO_API, &api) != 0) return false;
  *available = api.features;
  return true;
}

} // namespace

Userfault open_userfault() {
  Userfault result;
  int error = 0;
  uint64_t available = 0;
  const int probe = open_raw(&result.user_mode_only, &error);
  if (probe < 0) {
    result.error = std::string("userfaultfd is refused (") + strerror(error) +
                   "): set vm.unprivileged_userfaultfd=1, or give this user access to /dev/userfaultfd; in a "
                   "container, allow the system call in its seccomp profile";
    return result;
  }
  const bool settled = settle(probe, 0, &available);
  close(probe);
  if (!settled || (available & kNeeded) != kNeeded) {
    result.error = "this kernel's userfaultfd cannot write-protect shared memory: Linux 5.19 or "
                   "newer is needed";
    return result;
  }
  result.fd = open_raw(&result.user_mode_only, &error);
  result.features = available & kWanted;
  if (result.fd < 0 || !settle(result.fd, result.features, &available)) {
    result.error = std::string("userfaultfd does not start: ") + strerror(errno);
    if (result.fd >= 0) close(result.fd);
    result.fd = -1;
  }
  return result;
}

int watch_with_userfault(const Userfault& userfault, uint64_t address, uint64_t length) {
  uffdio_register request{};
  request.range = {address, length};
  request.mode = kRegisterMissing | kRegisterWp;
  if (userfault.features & kMinorShmem) request.mode |= kRegisterMinor;
  const bool done = ioctl(userfault.fd, UFFDIO_REGISTER, &request) == 0 &&
                    mprotect(reinterpret_cast<void*>(address), length, PROT_READ | PROT_WRITE) == 0;
  return done ? 0 : errno;
}

} // namespace hmmemu::device
