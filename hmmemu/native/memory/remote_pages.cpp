#include "memory/remote_pages.h"

#include <cerrno>
#include <cstring>
#include <sys/mman.h>

namespace hmm {
namespace {

constexpr int kDontUnmap = 4; // MREMAP_DONTUNMAP, Linux 5.7

} // namespace

RemotePages::RemotePages() : image_(uint64_t{Directory::kMostBlocks} * kBlock) {}

int RemotePages::map(Pages pages, int file) {
  void* at = mmap(reinterpret_cast<void*>(pages.begin), pages.bytes(), PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file, static_cast<off_t>(pages.begin));
  return at == MAP_FAILED ? errno : 0;
}

int RemotePages::restore(Block& block, Pages pages) {
  auto* spot =
      reinterpret_cast<void*>(image_.address() + block.slot * kBlock + (pages.begin - block.address));
  auto* place = reinterpret_cast<void*>(pages.begin);
  std::memcpy(spot, place, pages.bytes());
  void* at = mremap(spot, pages.bytes(), pages.bytes(), MREMAP_MAYMOVE | MREMAP_FIXED | kDontUnmap, place);
  if (at != MAP_FAILED) return 0;
  const int error = errno;
  madvise(spot, pages.bytes(), MADV_DONTNEED);
  return error;
}

} // namespace hmm
