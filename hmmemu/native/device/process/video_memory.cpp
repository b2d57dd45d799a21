// Purpose: map video memory, and change rights to it, or lend the CPU's frames, when the driver asks.
// Locks: `mapping_lock` guards `ranges`, `lent`, the mappings that they list and host_frames.h: shared while
// rights change, exclusive while something is mapped or unmapped, so that no right is ever changed of memory
// that is no longer ours. `watched` is read by signal handlers: a bit for each page at which a fault may be
// right. Without userfaultfd that is every page, set after a range is mapped; with it, one that was lent and
// is being mapped anew, set before it is lent. Cleared before the range goes.
#include "video_memory.h"
#include "device.h"
#include "failure.h"
#include "host_frames.h"
#include "range_set.h"
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <shared_mutex>
#include <sys/mman.h>

namespace hmmemu::device {
namespace {

constexpr uint64_t kWatchedBytes = kVramBytes / kPage / 8; // address space; touched where there are ranges

std::shared_mutex mapping_lock;
RangeSet ranges; // what is mapped
RangeSet lent;   // ... of which are the CPU's frames
Userfault catcher;
int video_file = -1;
std::atomic<uint8_t>* watched = nullptr;

// Whole bytes are stored: an arena has eight million of them.
void watch(uint64_t begin, uint64_t end, bool on) {
  const uint64_t last = end / kPage;
  for (uint64_t page = begin / kPage, count; page < last; page += count) {
    count = std::min(8 - page % 8, last - page);
    const uint8_t bits = uint8_t(((1u << count) - 1) << page % 8);
    std::atomic<uint8_t>& byte = watched[page / 8];
    if (!on && byte.load(std::memory_order_relaxed) == 0) continue; // it may never have been touched
    if (count == 8)
      byte.store(on ? bits : 0, std::memory_order_relaxed);
    else if (on)
      byte.fetch_or(bits);
    else
      byte.fetch_and(uint8_t(~bits));
  }
}

int protect(uint64_t begin, uint64_t end, int protection) {
  return mprotect(reinterpret_cast<void*>(begin), end - begin, protection) ? errno : 0;
}

// One mapping a range is left. That needs no new mapping, so it cannot be refused for want of one.
void take_all_rights() {
  ranges.each(0, kVramBytes, [](uint64_t begin, uint64_t end) {
    if (const int error = protect(begin, end, PROT_NONE)) fail_device(strerror(error));
    return 0;
  });
}

int protect_mapped(uint64_t begin, uint64_t end, int protection) {
  return ranges.each(begin, end, [=](uint64_t a, uint64_t b) { return protect(a, b, protection); });
}

int drop_entries(uint64_t address, uint64_t length) {
  if (madvise(reinterpret_cast<void*>(address), length, MADV_DONTNEED) == 0) return 0;
  return errno == ENOMEM ? 0 : errno; // nothing is mapped in part of the range: no entries there either
}

int set_rights(uint64_t address, uint64_t length, int protection) {
  const uint64_t end = address + length;
  const std::shared_lock hold(mapping_lock);
  if (protection != PROT_NONE && !ranges.covers(address, end)) return EFAULT;
  if (protect_mapped(address, end, protection) == 0) return 0;
  take_all_rights();
  if (protection == PROT_NONE) return 0;
  const int error = protect_mapped(address, end, protection);
  if (error) take_all_rights(); // half of it may have been given
  return error;
}

// Without rights.
int map_frames(uint64_t begin, uint64_t end, int flags) {
  void* const wish = reinterpret_cast<void*>(begin);
  void* const got =
      mmap(wish, end - begin, PROT_NONE, MAP_SHARED | MAP_NORESERVE | flags, video_file, off_t(begin));
  if (got == MAP_FAILED) return errno;
  if (got != wish) { // kernels before 4.17 take the address for a hint
    munmap(got, end - begin);
    return EEXIST;
  }
  madvise(got, end - begin, MADV_NOHUGEPAGE); // pages move one by one
  return 0;
}

int catch_faults(uint64_t begin, uint64_t end) {
  return catcher.fd < 0 ? 0 : watch_with_userfault(catcher, begin, end - begin);
}

// Those of the pages that are lent are video memory again.
int map_own(uint64_t begin, uint64_t end) {
  const int error = lent.each(begin, end, [](uint64_t a, uint64_t b) {
    const int failed = map_frames(a, b, MAP_FIXED);
    return failed ? failed : catch_faults(a, b);
  });
  if (!error) lent.remove(begin, end);
  return error;
}

// Where no mapping more can be had all that is lent ends: whole mappings go, and neighbours are joined.
int end_lend(uint64_t address, uint64_t length) {
  const std::lock_guard hold(mapping_lock);
  if (map_own(address, address + length) == 0) return 0;
  if (const int error = map_own(0, kVramBytes)) fail_device(strerror(error));
  return 0;
}

int lend(MailboxOperation operation, uint64_t address, uint64_t length) {
  const std::lock_guard hold(mapping_lock);
  if (!ranges.covers(address, address + length)) return EFAULT;
  if (catcher.fd >= 0) watch(address, address + length, true);
  lent.add(address, address + length);
  const int error = map_host_frames(operation, address, length, address);
  if (error && map_own(address, address + length) != 0) fail_device(strerror(error));
  return error;
}

} // namespace

const char* open_video_memory(int vram, const Userfault& userfault) {
  video_file = vram;
  catcher = userfault;
  unsigned char* const memory = reserve_memory(kWatchedBytes, 0);
  watched = reinterpret_cast<std::atomic<uint8_t>*>(memory);
  return memory ? nullptr : "no memory to watch page faults";
}

bool is_watched(uint64_t address) {
  if (!watched || address >= kVramBytes) return false;
  const uint64_t page = address / kPage;
  return watched[page / 8].load() >> page % 8 & 1;
}

int map_video(uint64_t address, uint64_t length) {
  const std::lock_guard hold(mapping_lock);
  if (const int error = map_frames(address, address + length, MAP_FIXED_NOREPLACE)) return error;
  if (const int error = catch_faults(address, address + length)) {
    munmap(reinterpret_cast<void*>(address), length);
    return error;
  }
  ranges.add(address, address + length);
  if (catcher.fd < 0) watch(address, address + length, true);
  return 0;
}

int unmap_video(uint64_t address, uint64_t length) {
  const std::lock_guard hold(mapping_lock);
  ranges.each(address, address + length, [](uint64_t begin, uint64_t end) {
    watch(begin, end, false);
    return 0;
  });
  ranges.remove(address, address + length);
  lent.remove(address, address + length);
  forget_frames(address, length);
  return munmap(reinterpret_cast<void*>(address), length) ? errno : 0;
}

int share_frames(int fd, uint64_t address, uint64_t length, uint64_t offset) {
  const std::lock_guard hold(mapping_lock);
  if (fd < 0) return forget_frames(address, length), 0;
  return know_frames(fd, address, length, offset);
}

bool wait_for_mapping(uint64_t address) {
  if (catcher.fd < 0 || !is_watched(address)) return false;
  const std::shared_lock hold(mapping_lock);
  return true;
}

int change_table(MailboxOperation operation, uint64_t address, uint64_t length) {
  switch (operation) {
  case kDropEntries:
    return drop_entries(address, length);
  case kRightsNone:
    return set_rights(address, length, PROT_NONE);
  case kRightsRead:
    return set_rights(address, length, PROT_READ);
  case kRightsWrite:
    return set_rights(address, length, PROT_READ | PROT_WRITE);
  case kLendCommon:
  case kLendObject:
    return lend(operation, address, length);
  case kEndLend:
    return end_lend(address, length);
  default: // of a GPU
    return EINVAL;
  }
}

void forget_entries() {
  const std::lock_guard hold(mapping_lock);
  if (const int error = map_own(0, kVramBytes)) fail_device(strerror(error));
  if (catcher.fd < 0) return take_all_rights();
  ranges.each(0, kVramBytes, [](uint64_t begin, uint64_t end) {
    if (const int error = drop_entries(begin, end - begin)) fail_device(strerror(error));
    return 0;
  });
}

// The CPU's frame goes from here, so that the worker's store faults.
void own_page(hmm_worker*, const void* address) {
  const uint64_t page = reinterpret_cast<uint64_t>(address) & ~uint64_t(kPage - 1);
  end_lend(page, kPage);
}

// The memory is the file, which the CPU process has.
int hold_video(uint64_t, uint64_t, bool, uint64_t&, std::string&) { return ENOTSUP; }
int release_video(uint64_t, uint64_t) { return ENOTSUP; }
int share_video(uint64_t, std::string&) { return -ENOTSUP; }

} // namespace hmmemu::device
