#include "memory/host_table.h"

#include <cerrno>
#include <cstring>
#include <sys/mman.h>

namespace hmm {

int HostTable::zap(Block& block, Pages pages) {
  const int advice = block.page(pages.begin).shared_mapping() ? MADV_REMOVE : MADV_DONTNEED;
  return madvise(reinterpret_cast<void*>(pages.begin), pages.bytes(), advice) ? errno : 0;
}

const std::byte* HostTable::take(Block& block, Pages pages, Staging& staging) {
  std::memcpy(staging.data(), frames(block, pages), pages.bytes());
  if (int error = zap(block, pages)) fatal("zap of CPU page 0x%lx failed: errno %d", pages.begin, error);
  return staging.data();
}

} // namespace hmm
