#include "os/userfaultfd.h"

#include "base/failure.h"
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utility>

// Headers of older distributions lack these; the numbers are the kernel's ABI
// (include/uapi/linux/userfaultfd.h).
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

namespace hmm {
namespace {

constexpr uint64_t kPagefaultFlagWp = 1u << 0, kMissingHuge = 1u << 4, kMinorHuge = 1u << 9,
                   kMissingShmem = 1u << 5, kThreadId = 1u << 8, kMinorShmem = 1u << 10, kWpShmem = 1u << 12,
                   kWpUnpopulated = 1u << 13, kPoison = 1u << 14, kWpAsync = 1u << 15, kMove = 1u << 16;
constexpr uint64_t kNeeded = kPagefaultFlagWp | kMissingShmem | kMinorShmem | kWpShmem;
constexpr uint64_t kWanted = kNeeded | kMissingHuge | kMinorHuge | kThreadId | kPoison | kMove;
constexpr uint64_t kRegisterMinor = 1u << 2;

struct PoisonRequest {
  uffdio_range range;
  uint64_t mode;
  int64_t updated;
};
constexpr unsigned long kIoctlPoison = _IOWR(UFFDIO, 0x08, PoisonRequest);
constexpr uint64_t kContinueWp = 1u << 1;

struct MoveRequest {
  uint64_t dst, src, len, mode;
  int64_t move;
};
constexpr unsigned long kIoctlMove = _IOWR(UFFDIO, 0x05, MoveRequest);
constexpr uint64_t kMoveAllowHoles = 1u << 1;

struct Opened {
  int fd = -1;
  Userfaultfd::Way way = Userfaultfd::Way::None;
};

Opened open_any() {
  constexpr int flags = O_CLOEXEC | O_NONBLOCK;
  if (int fd = syscall(SYS_userfaultfd, flags); fd >= 0) return {fd, Userfaultfd::Way::Syscall};
  if (int device = ::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC); device >= 0) {
    int fd = ioctl(device, USERFAULTFD_IOC_NEW, flags);
    close(device);
    if (fd >= 0) return {fd, Userfaultfd::Way::Device};
  }
  if (int fd = syscall(SYS_userfaultfd, flags | UFFD_USER_MODE_ONLY); fd >= 0)
    return {fd, Userfaultfd::Way::UserModeOnly};
  return {};
}

// Whether a page of private memory has a frame.
bool is_present(uint64_t page) {
  unsigned char present = 0;
  return mincore(reinterpret_cast<void*>(page), kPage, &present) == 0 && (present & 1);
}

// The features this kernel has. UFFDIO_API may be called once a descriptor, so asking costs one.
uint64_t ask_features(int fd) {
  uffdio_api api{};
  api.api = UFFD_API;
  return ioctl(fd, UFFDIO_API, &api) == 0 ? api.features : 0;
}

std::string refusal() {
  return std::string("userfaultfd is refused here (") + std::strerror(errno) +
         "). As root: `sysctl vm.unprivileged_userfaultfd=1`, or make /dev/userfaultfd readable for your "
         "user; in a container: a seccomp profile that allows userfaultfd.";
}

uffdio_range range_of(Pages pages) { return {pages.begin, pages.bytes()}; }

template <class Request> int run(int fd, unsigned long code, Request& request) {
  return ioctl(fd, code, &request) == 0 ? 0 : errno;
}

// For requests that take rights away: a process that is gone has none.
int done_if_gone(int error) { return error == ESRCH ? 0 : error; }

// A request must lie within one mapping of the process (the kernel says ENOENT otherwise), and one array may
// span several: huge-page advice on its middle is enough. So: all at once, or else by halves, down to a page.
template <class Operation> int by_mapping(Pages pages, Operation operation) {
  const int error = operation(pages);
  if (error != ENOENT || pages.count() < 2) return error;
  const uint64_t middle = pages.begin + pages.count() / 2 * kPage;
  const int first = by_mapping({pages.begin, middle}, operation);
  return first ? first : by_mapping({middle, pages.end}, operation);
}

int copy_once(int fd, Pages pages, const std::byte* source, uint64_t mode) {
  while (!pages.empty()) {
    uffdio_copy request{};
    request.dst = pages.begin;
    request.src = reinterpret_cast<uint64_t>(source);
    request.len = pages.bytes();
    request.mode = mode;
    const int error = run(fd, UFFDIO_COPY, request);
    if (!error) return 0;
    if (request.copy > 0) { // part of it: go on behind that
      pages.begin += request.copy;
      source += request.copy;
    } else if (error != EAGAIN) {
      return error;
    }
  }
  return 0;
}

int zero_once(int fd, Pages pages) {
  while (!pages.empty()) {
    uffdio_zeropage request{};
    request.range = range_of(pages);
    const int error = run(fd, UFFDIO_ZEROPAGE, request);
    if (!error) return 0;
    if (request.zeropage > 0)
      pages.begin += request.zeropage;
    else if (error != EAGAIN)
      return error;
  }
  return 0;
}

int map_once(int fd, Pages pages, uint64_t mode) {
  while (!pages.empty()) {
    uffdio_continue request{};
    request.range = range_of(pages);
    request.mode = mode;
    const int error = run(fd, UFFDIO_CONTINUE, request);
    if (!error) return 0;
    if (request.mapped > 0)
      pages.begin += request.mapped;
    else if (error != EAGAIN)
      return error;
  }
  return 0;
}

int set_protection(int fd, Pages pages, uint64_t mode) {
  uffdio_writeprotect request{};
  request.range = range_of(pages);
  request.mode = mode;
  int error = EAGAIN;
  while (error == EAGAIN) error = run(fd, UFFDIO_WRITEPROTECT, request);
  return done_if_gone(error);
}

} // namespace

Userfaultfd Userfaultfd::open(bool async) {
  Opened probe = open_any();
  if (probe.fd < 0) throw Failure(FailureKind::Unsupported, refusal());
  uint64_t have = ask_features(probe.fd);
  close(probe.fd);
  if ((have & kNeeded) != kNeeded)
    throw Failure(
        FailureKind::Unsupported,
        "this kernel's userfaultfd cannot write-protect shared memory: Linux 5.19 or later is needed");
  if (async && !(have & kWpAsync))
    throw Failure(
        FailureKind::Unsupported,
        "this kernel's userfaultfd has no WP_ASYNC, which tracker='async' needs: Linux 6.7 or later");
  Opened opened = open_any();
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = (have & kWanted) | (async ? kWpAsync : 0);
  if (opened.fd < 0 || ioctl(opened.fd, UFFDIO_API, &api) != 0)
    throw_errno(FailureKind::Unsupported, "cannot open a userfaultfd");
  Userfaultfd result(opened.fd);
  result.way_ = opened.way;
  result.can_move_ = have & kMove;
  return result;
}

Userfaultfd& Userfaultfd::operator=(Userfaultfd&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(way_, other.way_);
  std::swap(can_move_, other.can_move_);
  return *this;
}

Userfaultfd::~Userfaultfd() {
  if (fd_ >= 0) close(fd_);
}

int Userfaultfd::add(Pages pages, bool file) const {
  uffdio_register request{};
  request.range = range_of(pages);
  request.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP | (file ? kRegisterMinor : 0);
  return run(fd_, UFFDIO_REGISTER, request);
}

int Userfaultfd::remove(Pages pages) const {
  uffdio_range range = range_of(pages);
  return done_if_gone(run(fd_, UFFDIO_UNREGISTER, range));
}

int Userfaultfd::copy(Pages pages, const std::byte* source, bool writable) const {
  return by_mapping(pages, [&](Pages part) {
    return copy_once(fd_, part, source + (part.begin - pages.begin), writable ? 0 : UFFDIO_COPY_MODE_WP);
  });
}

int Userfaultfd::zero(Pages pages) const {
  return by_mapping(pages, [&](Pages part) { return zero_once(fd_, part); });
}

int Userfaultfd::map_frames(Pages pages, bool writable) const {
  return by_mapping(pages, [&](Pages part) { return map_once(fd_, part, writable ? 0 : kContinueWp); });
}

int Userfaultfd::protect(Pages pages) const {
  return by_mapping(pages,
                    [&](Pages part) { return set_protection(fd_, part, UFFDIO_WRITEPROTECT_MODE_WP); });
}

int Userfaultfd::unprotect(Pages pages) const {
  return by_mapping(pages, [&](Pages part) { return set_protection(fd_, part, 0); });
}

// Linux 6.18 moves runs of pages, and may forget that it did: when it had to start again meanwhile (a thread
// of the program was in a fault on one of them), it says EEXIST of a page that it has just moved. Such a page
// is at its new address, and its old one is empty.
uint64_t Userfaultfd::move(Pages pages, uint64_t to) const {
  uint64_t done = 0;
  for (bool single = false; done < pages.bytes();) {
    const uint64_t length = single ? kPage : pages.bytes() - done;
    MoveRequest request{to + done, pages.begin + done, length, kMoveAllowHoles, 0};
    const int error = run(fd_, kIoctlMove, request);
    if (request.move > 0)
      done += request.move;
    else if (error == EEXIST && single && !is_present(request.src))
      done += kPage;
    else if (error && error != EAGAIN && (error != EEXIST || single))
      break;
    single = single || error == EEXIST;
  }
  return done;
}

int Userfaultfd::wake(Pages pages) const {
  uffdio_range range = range_of(pages);
  return done_if_gone(run(fd_, UFFDIO_WAKE, range));
}

// A page that was write-protected when its frame went has left a marker behind, which counts as a page
// (EEXIST).
int Userfaultfd::poison(Pages pages) const {
  PoisonRequest request{};
  if (int error = set_protection(fd_, pages, UFFDIO_WRITEPROTECT_MODE_DONTWAKE)) return error;
  request.range = range_of(pages);
  return done_if_gone(run(fd_, kIoctlPoison, request));
}

unsigned Userfaultfd::read(Fault* faults, unsigned limit) {
  uffd_msg messages[16];
  constexpr unsigned kMost = sizeof messages / sizeof messages[0];
  ssize_t got = ::read(fd_, messages, sizeof(uffd_msg) * (limit < kMost ? limit : kMost));
  if (got <= 0) return 0;
  unsigned count = 0;
  for (unsigned i = 0; i < got / sizeof(uffd_msg); ++i) {
    if (messages[i].event != UFFD_EVENT_PAGEFAULT) continue;
    const auto& fault = messages[i].arg.pagefault;
    bool protection = fault.flags & UFFD_PAGEFAULT_FLAG_WP;
    bool write = protection || (fault.flags & UFFD_PAGEFAULT_FLAG_WRITE);
    faults[count++] = {page_down(fault.address), write, protection, static_cast<pid_t>(fault.feat.ptid)};
  }
  return count;
}

UserfaultfdProbe probe_userfaultfd() {
  UserfaultfdProbe result;
  Opened opened = open_any();
  if (opened.fd < 0) {
    result.reason = refusal();
    return result;
  }
  uint64_t have = ask_features(opened.fd);
  close(opened.fd);
  result.way = opened.way;
  constexpr std::pair<uint64_t, const char*> names[] = {{kPagefaultFlagWp, "write-protect"},
                                                        {kMissingShmem, "missing-shmem"},
                                                        {kMinorShmem, "minor-shmem"},
                                                        {kThreadId, "thread-id"},
                                                        {kWpShmem, "wp-shmem"},
                                                        {kWpUnpopulated, "wp-unpopulated"},
                                                        {kPoison, "poison"},
                                                        {kWpAsync, "wp-async"},
                                                        {kMove, "move"}};
  for (auto [bit, name] : names)
    if (have & bit) result.features.push_back(name);
  if ((have & kNeeded) != kNeeded)
    result.reason =
        "this kernel's userfaultfd cannot write-protect shared memory: Linux 5.19 or later is needed";
  else if (result.way == Userfaultfd::Way::UserModeOnly)
    result.reason =
        "user-mode faults only: system calls on shared arrays that live on a device fail with EFAULT; "
        "`sysctl vm.unprivileged_userfaultfd=1` or access to /dev/userfaultfd lifts this";
  else
    result.reason = "every access is caught, system calls included";
  return result;
}

} // namespace hmm
