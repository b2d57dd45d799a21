#include "os/probe.h"
#include "os/pagemap.h"

#include "base/mapping.h"
#include "base/pages.h"
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

// Headers of older distributions lack these (include/uapi/linux/userfaultfd.h, include/uapi/linux/fs.h).
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef MADV_POPULATE_WRITE // Linux 5.14
#define MADV_POPULATE_WRITE 23
#endif

namespace hmm {
namespace {

constexpr uint64_t kPagefaultFlagWp = 1u << 0, kWpUnpopulated = 1u << 13, kWpAsync = 1u << 15;

// A descriptor that is closed at the end of the block.
class Descriptor {
 public:
  explicit Descriptor(long fd) : fd_(static_cast<int>(fd)) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

std::string because(const char* what) { return std::string(what) + " (" + std::strerror(errno) + ")"; }

int open_userfaultfd() {
  const long fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  return static_cast<int>(fd);
}

// Writes to a protected page are to be noted without a message.
std::string watch(int fd, Pages page) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = kPagefaultFlagWp | kWpUnpopulated | kWpAsync;
  if (ioctl(fd, UFFDIO_API, &api) != 0)
    return because("this kernel's userfaultfd has no asynchronous write protection: Linux 6.7 or later is "
                   "needed");
  uffdio_register request{};
  request.range = {page.begin, page.bytes()};
  request.mode = UFFDIO_REGISTER_MODE_WP;
  if (ioctl(fd, UFFDIO_REGISTER, &request) != 0)
    return because("userfaultfd refuses asynchronous write protection of anonymous memory");
  uffdio_writeprotect protection{};
  protection.range = request.range;
  protection.mode = UFFDIO_WRITEPROTECT_MODE_WP;
  if (ioctl(fd, UFFDIO_WRITEPROTECT, &protection) != 0) return because("userfaultfd cannot write-protect");
  return {};
}

// How many pages of the range were written since they were protected; -1 and errno.
long count_written(Pages range) {
  try {
    long count = 0;
    const auto add = [&](Pages run) { count += static_cast<long>(run.count()); };
    errno = Pagemap::open().take_written(range, add);
    return errno ? -1 : count;
  } catch (const Failure&) {
    return -1;
  }
}

} // namespace

std::string why_no_signal_tracker() {
  Mapping page(kPage);
  if (mprotect(page.as<void>(), kPage, PROT_NONE) != 0) return because("mprotect is refused");
  Descriptor memory(open("/proc/self/mem", O_RDWR | O_CLOEXEC));
  if (memory.get() < 0) return because("/proc/self/mem cannot be opened: mount /proc");
  const char content = 42;
  const auto at = static_cast<off_t>(page.address());
  if (pwrite(memory.get(), &content, 1, at) != 1)
    return because("writes to protected pages through /proc/self/mem are refused: boot without "
                   "proc_mem.force_override=never");
  if (mprotect(page.as<void>(), kPage, PROT_READ) != 0) return because("mprotect is refused");
  return *page.as<const char>() == content ? "" : "a write through /proc/self/mem did not arrive";
}

bool can_write_huge_pages() {
  void* page = mmap(nullptr, kBlock, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);
  if (page == MAP_FAILED) return false;
  Descriptor memory(open("/proc/self/mem", O_RDWR | O_CLOEXEC));
  const char content = 42;
  const bool can = madvise(page, kBlock, MADV_POPULATE_WRITE) == 0 &&
                   mprotect(page, kBlock, PROT_NONE) == 0 &&
                   pwrite(memory.get(), &content, 1, reinterpret_cast<off_t>(page)) == 1;
  munmap(page, kBlock);
  return can;
}

std::string why_no_async_tracker() {
  Mapping page(kPage);
  const Pages range{page.address(), page.address() + kPage};
  Descriptor userfaultfd(open_userfaultfd());
  if (userfaultfd.get() < 0) return because("userfaultfd is refused");
  if (std::string why = watch(userfaultfd.get(), range); !why.empty()) return why;
  if (count_written(range) != 0) return because("PAGEMAP_SCAN does not work: Linux 6.7 or later is needed");
  *page.as<volatile char>() = 1;
  return count_written(range) == 1 ? "" : "PAGEMAP_SCAN does not report a page that was written";
}

} // namespace hmm
