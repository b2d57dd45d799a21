#include "memory/host_table.h"

#include <cerrno>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

namespace hmm {

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 // Linux 5.18
#endif

HostTable::HostTable(const Userfaultfd& uffd, AliasMap& aliases)
    : uffd_(uffd), aliases_(aliases), most_parked_(sysconf(_SC_PHYS_PAGES) / 4) {
  if (!uffd_.can_move()) return;
  try {
    Mapping parking(uint64_t{Directory::kMostBlocks} * kBlock, true);
    madvise(parking.as<void>(), parking.bytes(), MADV_NOHUGEPAGE);
    // The kernel moves frames to registered addresses only.
    if (uffd_.add({parking.address(), parking.address() + parking.bytes()}, false) == 0)
      parking_ = std::move(parking);
  } catch (const Failure&) { // a limit of the address space: frames are copied then
  }
}

int HostTable::add(Pages pages, MemoryKind kind) {
  int error = kind.shared ? aliases_.add(pages) : 0;
  if (!error) error = uffd_.add(pages, kind.shared || kind.huge); // private ones may show a file's
  if (error) aliases_.remove(pages);
  return error;
}

void HostTable::remove(Pages pages) {
  uffd_.remove(pages);
  aliases_.remove(pages);
}

int HostTable::replaced(Block& block, Pages pages, bool merged) {
  return uffd_.add(pages, !merged && in_file(block, pages)); // never huge pages
}

// A thread may have got an entry for some before its accesses were caught.
int HostTable::show(Block& block, Pages pages) {
  const int error = uffd_.map_frames(pages, true);
  return error == EEXIST || error == EFAULT ? map_or_zero(block, pages, true) : error;
}

// One mapping has one descriptor: in between nobody catches anything.
int HostTable::hand_over(Block& block, Pages pages, HostTable& to) {
  free_parked(block, pages);
  int error = uffd_.remove(pages);
  if (!error) error = to.uffd_.add(pages, in_file(block, pages));
  if (error && uffd_.add(pages, in_file(block, pages)) != 0)
    fatal("CPU pages at 0x%lx cannot be watched any more: %s", pages.begin, std::strerror(error));
  return error;
}

int HostTable::zap(Block&, Pages pages) {
  void* const at = reinterpret_cast<void*>(pages.begin);
  if (madvise(at, pages.bytes(), MADV_DONTNEED) == 0) return 0;
  if (errno == ENOMEM) return 0; // unmapped by the program: nobody can access it
  if (errno != EINVAL) return errno;
  return madvise(at, pages.bytes(), MADV_DONTNEED_LOCKED) ? errno : 0; // mlock'ed memory
}

// For a read the kernel's shared zero page will do, but there is none of the size of a huge page. Pages about
// to be written get frames at once: on the zero page each would fault a second time.
int HostTable::zero(Block& block, Pages pages, Access access, bool writable) {
  const bool frames = access == Access::Write || !writable || huge(block, pages);
  const int error = frames ? uffd_.copy(pages, zeros_.as<std::byte>(), writable) : uffd_.zero(pages);
  return error == EEXIST && in_file(block, pages) ? map_or_zero(block, pages, writable) : error;
}

int HostTable::regrant(Block& block, Pages pages, bool writable) {
  return in_file(block, pages) ? map_or_zero(block, pages, writable) : wake(pages);
}

int HostTable::restore(Block& block, Pages pages) {
  if (shared(block, pages)) return EEXIST;
  int result = EEXIST;
  const uint64_t step = huge(block, pages) ? kBlock : kPage;
  for (uint64_t a = pages.begin; a < pages.end; a += step)
    if (uffd_.copy({a, a + step}, zeros_.as<std::byte>(), false) == 0) result = 0;
  return result;
}

const std::byte* HostTable::touch(const std::byte* content, uint64_t bytes) const {
  if (uffd_.way() == Userfaultfd::Way::UserModeOnly)
    for (uint64_t at = 0; at < bytes; at += kPage)
      (void)*reinterpret_cast<const volatile std::byte*>(content + at);
  return content;
}

int HostTable::map_or_zero(Block& block, Pages pages, bool writable) {
  const uint64_t step = huge(block, pages) ? kBlock : kPage;
  for (uint64_t a = pages.begin; a < pages.end; a += step) {
    const Pages page{a, a + step};
    int error = uffd_.map_frames(page, writable);
    if (error == EFAULT)
      error = uffd_.copy(page, zeros_.as<std::byte>(), writable); // the file has a hole here
    if (error && error != EEXIST) return error;
  }
  return wake(pages);
}

uint64_t HostTable::park(Block& block, Pages pages) {
  if (!parking_.bytes() || shared(block, pages) || huge(block, pages)) return 0;
  free_parked(block, pages);
  if (parked_.frames() + pages.count() > most_parked_) return 0;
  const uint64_t moved = uffd_.move(pages, spots(block, pages).begin);
  parked_.set(block, {pages.begin, pages.begin + moved}, true);
  return moved;
}

std::byte* HostTable::object(Block& block, Pages pages) const {
  const std::byte* const there = aliases_.readable(block, pages);
  if (!there) errno = ENXIO;
  return const_cast<std::byte*>(there); // managed memory that is read-only is not `open`
}

const std::byte* HostTable::take(Block& block, Pages pages, bool, Staging& staging) {
  if (shared(block,
             pages)) { // nobody writes any more once the entries are gone; the frames stay where they are
    if ((errno = zap(block, pages))) return nullptr;
    return object(block, pages);
  }
  const uint64_t parked = park(block, pages);
  auto* spot = reinterpret_cast<const std::byte*>(spots(block, pages).begin);
  if (parked == pages.bytes()) return touch(spot, parked);
  const Pages rest{pages.begin + parked, pages.end};
  std::memcpy(staging.data(), spot, parked);
  if (int error = take_by_copy(block, rest, staging.data() + parked)) {
    install_parked(block, {pages.begin, rest.begin}, spot); // as it was
    errno = error;
    return nullptr;
  }
  return staging.data();
}

int HostTable::take_by_copy(Block& block, Pages pages, std::byte* to) {
  if (int error = protect(block, pages)) return error;
  if (!is_mapped(pages)) return ENOENT; // of holes the protection says nothing
  std::memcpy(to, reinterpret_cast<const void*>(pages.begin), pages.bytes());
  return zap(block, pages);
}

int HostTable::install(Block& block, Pages pages, const std::byte* content, bool writable) {
  if (shared(block, pages)) return install_shared(block, pages, content, writable);
  // A frame that is moved becomes writable.
  return writable ? install_parked(block, pages, content) : uffd_.copy(pages, content, false);
}

int HostTable::install_shared(Block& block, Pages pages, const std::byte* content, bool writable) {
  if (!is_object(block, pages, content)) {
    std::byte* alias = aliases_.writable(block, pages);
    if (!alias) return EFAULT;
    std::memcpy(alias, content, pages.bytes());
  }
  return uffd_.map_frames(pages, writable);
}

int HostTable::install_parked(Block& block, Pages pages, const std::byte* content) {
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
  if (!shared(block, pages)) return zap(block, pages);
  const auto remove = [&](void* at) { return madvise(at, pages.bytes(), MADV_REMOVE) ? errno : 0; };
  int error = remove(reinterpret_cast<void*>(pages.begin));
  if (error == EINVAL) error = remove(aliases_.at(block, pages)); // mlock'ed memory; the alias is not
  return error == ENOMEM ? ENOENT : error;
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
