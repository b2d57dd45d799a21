#include "memory/host_table.h"

#include <cerrno>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

namespace hmm {

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 // Linux 5.18
#endif

HostTable::HostTable(const Userfaultfd& uffd) : uffd_(uffd), most_parked_(sysconf(_SC_PHYS_PAGES) / 4) {
  if (!uffd_.can_move()) return;
  try {
    Mapping parking(uint64_t{Directory::kMostBlocks} * kBlock, true);
    madvise(parking.as<void>(), parking.bytes(), MADV_NOHUGEPAGE);
    // The kernel moves frames to registered addresses only.
    if (uffd_.add({parking.address(), parking.address() + parking.bytes()}) == 0)
      parking_ = std::move(parking);
  } catch (const Failure&) { // a limit of the address space: frames are copied then
  }
}

int HostTable::zap(Block& block, Pages pages) {
  void* const at = reinterpret_cast<void*>(pages.begin);
  if (block.page(pages.begin).shared_mapping()) return madvise(at, pages.bytes(), MADV_REMOVE) ? errno : 0;
  if (madvise(at, pages.bytes(), MADV_DONTNEED) == 0) return 0;
  if (errno != EINVAL) return errno;
  return madvise(at, pages.bytes(), MADV_DONTNEED_LOCKED) ? errno : 0; // mlock'ed memory
}

// For a read the kernel's shared zero page will do. Pages about to be written get frames at once: on the zero
// page each would fault a second time.
int HostTable::zero(Block&, Pages pages, Access access, bool writable) {
  if (access == Access::Write || !writable) return uffd_.copy(pages, zeros_.as<std::byte>(), writable);
  return uffd_.zero(pages);
}

uint64_t HostTable::park(Block& block, Pages pages) {
  if (!parking_.bytes() || block.page(pages.begin).shared_mapping()) return 0;
  free_parked(block, pages);
  if (parked_.frames() + pages.count() > most_parked_) return 0;
  const uint64_t moved = uffd_.move(pages, spots(block, pages).begin);
  parked_.set(block, {pages.begin, pages.begin + moved}, true);
  return moved;
}

const std::byte* HostTable::take(Block& block, Pages pages, bool writable, Staging& staging) {
  const uint64_t parked = park(block, pages);
  auto* spot = reinterpret_cast<const std::byte*>(spots(block, pages).begin);
  if (parked == pages.bytes()) return spot;
  const Pages rest{pages.begin + parked, pages.end};
  int error = writable ? protect(block, rest) : 0;
  std::memcpy(staging.data(), spot, parked);
  std::memcpy(staging.data() + parked, reinterpret_cast<const void*>(rest.begin), rest.bytes());
  if (!error) error = zap(block, rest);
  if (error) fatal("zap of CPU page 0x%lx failed: errno %d", rest.begin, error);
  return staging.data();
}

int HostTable::install(Block& block, Pages pages, const std::byte* content, bool writable) {
  if (!writable) return uffd_.copy(pages, content, false); // a frame that is moved becomes writable
  return parked_.each_run(block, pages, [&](Pages run, bool parked) {
    const std::byte* source = content + (run.begin - pages.begin);
    if (parked) {
      const Pages spot = spots(block, run);
      if (source != reinterpret_cast<std::byte*>(spot.begin))
        std::memcpy(reinterpret_cast<std::byte*>(spot.begin), source, spot.bytes());
      const uint64_t moved = uffd_.move(spot, run.begin);
      parked_.set(block, {run.begin, run.begin + moved}, false);
      run.begin += moved, source += moved;
    }
    return run.empty() ? 0 : uffd_.copy(run, source, true);
  });
}

int HostTable::release(Block& block, Pages pages) {
  free_parked(block, pages);
  return zap(block, pages);
}

void HostTable::free_parked(Block& block, Pages pages) {
  parked_.each_run(block, pages, [&](Pages run, bool parked) {
    if (!parked) return 0;
    const Pages spot = spots(block, run);
    if (madvise(reinterpret_cast<void*>(spot.begin), spot.bytes(), MADV_DONTNEED) != 0)
      fatal("cannot free parked frames: errno %d", errno);
    parked_.set(block, run, false);
    return 0;
  });
}

} // namespace hmm
