#include "memory/host_table.h"

#include <cerrno>
#include <cstring>
#include <sys/mman.h>

namespace hmm {

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 // Linux 5.18
#endif

int HostTable::zap(Block& block, Pages pages) {
  void* const at = reinterpret_cast<void*>(pages.begin);
  if (block.page(pages.begin).shared_mapping()) return madvise(at, pages.bytes(), MADV_REMOVE) ? errno : 0;
  if (madvise(at, pages.bytes(), MADV_DONTNEED) == 0) return 0;
  if (errno != EINVAL) return errno;
  return madvise(at, pages.bytes(), MADV_DONTNEED_LOCKED) ? errno : 0; // mlock'ed memory
}

// For a read, and for more than is surely written soon, the kernel's shared zero page will do. A page about
// to be written gets a frame at once: on the zero page the write would fault a second time.
int HostTable::zero(Block&, Pages pages, Access access) {
  if (access == Access::Write && pages.bytes() <= kChunk)
    return uffd_.copy(pages, zeros_.as<std::byte>(), true);
  return uffd_.zero(pages);
}

const std::byte* HostTable::take(Block& block, Pages pages, Staging& staging) {
  std::memcpy(staging.data(), frames(block, pages), pages.bytes());
  if (int error = zap(block, pages)) fatal("zap of CPU page 0x%lx failed: errno %d", pages.begin, error);
  return staging.data();
}

} // namespace hmm
