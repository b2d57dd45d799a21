#include "memory/own_memory.h"

#include <cerrno>
#include <cstring>
#include <sys/mman.h>

namespace hmm {
namespace {

constexpr int kDontUnmap = 4; // MREMAP_DONTUNMAP, Linux 5.7

} // namespace

int OwnMemory::give(const Block& block, Pages pages, const std::byte* content) {
  void* spot =
      reinterpret_cast<void*>(image_.address() + block.slot * kBlock + (pages.begin - block.address));
  void* place = reinterpret_cast<void*>(pages.begin);
  std::memcpy(spot, content, pages.bytes());
  void* at = mremap(spot, pages.bytes(), pages.bytes(), MREMAP_MAYMOVE | MREMAP_FIXED | kDontUnmap, place);
  if (at != MAP_FAILED) return 0;
  const int error = errno;
  madvise(spot, pages.bytes(), MADV_DONTNEED);
  return error;
}

} // namespace hmm
