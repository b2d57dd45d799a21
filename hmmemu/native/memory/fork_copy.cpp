#include "memory/fork_copy.h"

#include "base/failure.h"
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace hmm {
namespace {

constexpr uint64_t kUnknown = ~uint64_t{0};

// The number behind `key` in a file of the kernel's; kUnknown if there is none ("max", no such file).
uint64_t number_in(const char* path, const char* key) {
  char text[8192];
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return kUnknown;
  const ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  text[std::max<ssize_t>(n, 0)] = 0;
  const char* at = std::strstr(text, key);
  char* end = nullptr;
  const uint64_t found = at ? std::strtoull(at + std::strlen(key), &end, 10) : 0;
  return at && end != at + std::strlen(key) ? found : kUnknown;
}

// What the machine has, and what the control group may still take (a container sees its own there).
uint64_t free_memory() {
  const uint64_t available = number_in("/proc/meminfo", "MemAvailable:"),
                 swap = number_in("/proc/meminfo", "SwapFree:"),
                 most = number_in("/sys/fs/cgroup/memory.max", "");
  const uint64_t left = available == kUnknown ? kUnknown : (available + (swap == kUnknown ? 0 : swap)) * 1024;
  if (most == kUnknown) return left;
  const uint64_t used = number_in("/sys/fs/cgroup/memory.current", ""),
                 cache = number_in("/sys/fs/cgroup/memory.stat", "\ninactive_file ");
  if (used == kUnknown) return left;
  return std::min(left, most - std::min(most, used) + (cache == kUnknown ? 0 : cache));
}

} // namespace

int ForkCopy::begin(uint64_t bytes) {
  if (bytes > free_memory()) return ENOMEM;
  file_ = memfd_create("hmmemu-fork", MFD_CLOEXEC);
  if (file_ < 0) return errno;
  return ftruncate(file_, off_t{1} << kAddressBits) ? errno : 0;
}

int ForkCopy::add(Pages pages, const std::byte* content) {
  while (!pages.empty()) {
    const ssize_t n = pwrite(file_, content, pages.bytes(), static_cast<off_t>(pages.begin));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : ENOSPC;
    pages.begin += n, content += n;
  }
  return 0;
}

void ForkCopy::give(Pages pages) {
  void* const at = reinterpret_cast<void*>(pages.begin);
  constexpr int kPlace = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;
  const bool given = file_ >= 0 && mmap(at, pages.bytes(), PROT_READ | PROT_WRITE, kPlace, file_,
                                        static_cast<off_t>(pages.begin)) != MAP_FAILED;
  // Else the place is kept, so that nothing else comes there.
  if (!given) mmap(at, pages.bytes(), PROT_NONE, kPlace | MAP_ANONYMOUS, -1, 0);
  end();
}

void ForkCopy::end() {
  if (file_ >= 0) close(file_);
  file_ = -1;
}

} // namespace hmm
