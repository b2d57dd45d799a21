// Purpose: look at the kernel's page table of this process. No lock: see the header.
#include "pagemap.h"

#include <algorithm>
#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

namespace hmmemu::cuda {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kPresent = uint64_t{1} << 63; // of the word of a page
constexpr uint64_t kAtOnce = 512;                // pages

} // namespace

Pagemap::Pagemap() : file_(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)) {}

bool Pagemap::has_all(const void* at, uint64_t bytes) const {
  uint64_t words[kAtOnce];
  const uint64_t first = reinterpret_cast<uint64_t>(at) / kPage, end = first + bytes / kPage;
  for (uint64_t page = first; page < end; page += kAtOnce) {
    const uint64_t count = std::min(end - page, kAtOnce);
    const auto wanted = ssize_t(count * sizeof *words);
    if (pread(file_, words, size_t(wanted), off_t(page * sizeof *words)) != wanted) return false;
    if (!std::all_of(words, words + count, [](uint64_t word) { return word & kPresent; })) return false;
  }
  return true;
}

} // namespace hmmemu::cuda
