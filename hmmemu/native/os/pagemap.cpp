#include "os/pagemap.h"

#include "base/failure.h"
#include <fcntl.h>
#include <linux/ioctl.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utility>

namespace hmm {
namespace {

// The kernel's ABI (include/uapi/linux/fs.h); headers of older distributions lack it.
struct Region {
  uint64_t start, end, categories;
};
struct Request {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
constexpr unsigned long kIoctlScan = _IOWR('f', 16, Request);
constexpr uint64_t kProtect = 1u << 0, kCheckAsync = 1u << 1; // flags
constexpr uint64_t kWritten = 1u << 1;                        // category

} // namespace

Pagemap Pagemap::open() {
  Pagemap made;
  made.fd_ = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (made.fd_ < 0)
    throw_errno(FailureKind::Unsupported, "/proc/self/pagemap cannot be opened, which tracker='async' needs");
  return made;
}

Pagemap& Pagemap::operator=(Pagemap&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

Pagemap::~Pagemap() {
  if (fd_ >= 0) close(fd_);
}

// Nothing but "written" is asked for: for that the kernel has a way that is ten times as fast.
int Pagemap::scan(Pages& pages, Pages* runs) const {
  Region regions[kRuns];
  Request request{};
  request.size = sizeof request;
  request.flags = kProtect | kCheckAsync;
  request.start = pages.begin;
  request.end = pages.end;
  request.vec = reinterpret_cast<uint64_t>(regions);
  request.vec_len = kRuns;
  request.category_mask = request.return_mask = kWritten;
  int found;
  do found = ioctl(fd_, kIoctlScan, &request);
  while (found < 0 && errno == EINTR);
  if (found < 0) return -errno;
  for (int i = 0; i < found; ++i) runs[i] = {regions[i].start, regions[i].end};
  pages.begin = request.walk_end;
  return found;
}

} // namespace hmm
