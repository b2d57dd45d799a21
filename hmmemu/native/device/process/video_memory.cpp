// Purpose: map video memory, and change rights to it when the driver asks.
// Locks: `mapping_lock` guards `ranges` and the mappings that it lists: shared while rights change, exclusive
// while a range is mapped or unmapped, so that no right is ever changed of memory that is no longer ours.
// `watched` is read by signal handlers: single bits, set after a range is mapped, cleared before it goes.
#include "video_memory.h"
#include "device.h"
#include "failure.h"
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <sys/mman.h>

namespace hmmemu::device {
namespace {

constexpr uint64_t kWatchedBytes = kVramBytes / kPage / 8; // address space; touched where there are ranges

std::shared_mutex mapping_lock;
std::map<uint64_t, uint64_t> ranges; // begin -> end, apart from each other
std::atomic<uint8_t>* watched = nullptr;

// Whole bytes are stored: an arena has eight million of them.
void watch(uint64_t begin, uint64_t end, bool on) {
  const uint64_t last = end / kPage;
  for (uint64_t page = begin / kPage, count; page < last; page += count) {
    count = std::min(8 - page % 8, last - page);
    const uint8_t bits = uint8_t(((1u << count) - 1) << page % 8);
    std::atomic<uint8_t>& byte = watched[page / 8];
    if (count == 8)
      byte.store(on ? bits : 0, std::memory_order_relaxed);
    else if (on)
      byte.fetch_or(bits);
    else
      byte.fetch_and(uint8_t(~bits));
  }
}

// Calls act(begin, end) -> 0 or an errno for the mapped parts of [begin, end), in order.
template <class Act> int each_mapped(uint64_t begin, uint64_t end, Act act) {
  auto at = ranges.upper_bound(begin);
  if (at != ranges.begin()) --at;
  for (; at != ranges.end() && at->first < end; ++at) {
    const uint64_t from = std::max(begin, at->first), to = std::min(end, at->second);
    if (from >= to) continue;
    if (const int error = act(from, to)) return error;
  }
  return 0;
}

void forget(uint64_t begin, uint64_t end) {
  auto at = ranges.upper_bound(begin);
  if (at != ranges.begin()) --at;
  while (at != ranges.end() && at->first < end) {
    const auto [from, to] = *at;
    if (to <= begin) {
      ++at;
      continue;
    }
    at = ranges.erase(at);
    if (from < begin) ranges.emplace(from, begin);
    if (to > end) at = std::next(ranges.emplace(end, to).first);
  }
}

int protect(uint64_t begin, uint64_t end, int protection) {
  return mprotect(reinterpret_cast<void*>(begin), end - begin, protection) ? errno : 0;
}

// One mapping a range is left. That needs no new mapping, so it cannot be refused for want of one.
void take_all_rights() {
  each_mapped(0, kVramBytes, [](uint64_t begin, uint64_t end) {
    if (const int error = protect(begin, end, PROT_NONE)) fail_device(strerror(error));
    return 0;
  });
}

int protect_mapped(uint64_t begin, uint64_t end, int protection) {
  return each_mapped(begin, end, [=](uint64_t a, uint64_t b) { return protect(a, b, protection); });
}

bool all_mapped(uint64_t begin, uint64_t end) {
  uint64_t bytes = 0;
  each_mapped(begin, end, [&](uint64_t a, uint64_t b) {
    bytes += b - a;
    return 0;
  });
  return bytes == end - begin;
}

int drop_entries(uint64_t address, uint64_t length) {
  if (madvise(reinterpret_cast<void*>(address), length, MADV_DONTNEED) == 0) return 0;
  return errno == ENOMEM ? 0 : errno; // nothing is mapped in part of the range: no entries there either
}

int set_rights(uint64_t address, uint64_t length, int protection) {
  const uint64_t end = address + length;
  const std::shared_lock hold(mapping_lock);
  if (protection != PROT_NONE && !all_mapped(address, end)) return EFAULT;
  if (protect_mapped(address, end, protection) == 0) return 0;
  take_all_rights();
  if (protection == PROT_NONE) return 0;
  const int error = protect_mapped(address, end, protection);
  if (error) take_all_rights(); // half of it may have been given
  return error;
}

} // namespace

const char* open_video_memory(int) {
  unsigned char* const memory = reserve_memory(kWatchedBytes, 0);
  watched = reinterpret_cast<std::atomic<uint8_t>*>(memory);
  return memory ? nullptr : "no memory to watch page faults";
}

bool is_watched(uint64_t address) {
  if (!watched || address >= kVramBytes) return false;
  const uint64_t page = address / kPage;
  return watched[page / 8].load() >> page % 8 & 1;
}

int map_video(const Userfault& userfault, int vram, uint64_t address, uint64_t length) {
  const std::lock_guard hold(mapping_lock);
  void* const wish = reinterpret_cast<void*>(address);
  void* const got =
      mmap(wish, length, PROT_NONE, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_NORESERVE, vram, off_t(address));
  if (got == MAP_FAILED) return errno;
  if (got != wish) { // kernels before 4.17 take the address for a hint
    munmap(got, length);
    return EEXIST;
  }
  madvise(got, length, MADV_NOHUGEPAGE); // pages move one by one
  if (const int error = userfault.fd < 0 ? 0 : watch_with_userfault(userfault, address, length)) {
    munmap(got, length);
    return error;
  }
  ranges.emplace(address, address + length);
  if (userfault.fd < 0) watch(address, address + length, true);
  return 0;
}

int unmap_video(uint64_t address, uint64_t length) {
  const std::lock_guard hold(mapping_lock);
  if (watched)
    each_mapped(address, address + length, [](uint64_t begin, uint64_t end) {
      watch(begin, end, false);
      return 0;
    });
  forget(address, address + length);
  return munmap(reinterpret_cast<void*>(address), length) ? errno : 0;
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
  default: // of a GPU
    return EINVAL;
  }
}

void forget_entries() {
  const std::shared_lock hold(mapping_lock);
  if (watched) return take_all_rights();
  each_mapped(0, kVramBytes, [](uint64_t begin, uint64_t end) {
    if (const int error = drop_entries(begin, end - begin)) fail_device(strerror(error));
    return 0;
  });
}

void own_page(hmm_worker*, const void* address) {
  const uint64_t page = reinterpret_cast<uint64_t>(address) & ~uint64_t(kPage - 1);
  change_table(watched ? kRightsNone : kDropEntries, page, kPage);
}

// The memory is the file, which the CPU process has.
int hold_video(uint64_t, uint64_t, bool, uint64_t&, std::string&) { return ENOTSUP; }
int release_video(uint64_t, uint64_t) { return ENOTSUP; }
int share_video(uint64_t, std::string&) { return -ENOTSUP; }

} // namespace hmmemu::device
