// What the helper knows of each page of the address space: a byte.
//
// A right: what kernels may do with the page. And where its content is: the GPU and the host have the same,
// or one of them has what is newer. On the host it lies in the object that the page shows (kObject), or in
// the video memory file; "the file" below is whichever of them it is. A page without rights has no bits at
// all, once whoever takes them is done.
//
// INVARIANTS: kComing and kAhead never stand together. A page that is kAhead was writable for a launch or a
// view; kShadowed says that the block's shadow (comparison.h) holds what the file holds. No lock. Rights, and
// kObject with the first of them, change by who has the page locked in the driver. kAhead, kViewed and
// kShadowed are set, and kComing is taken away, by who sends content (content.h) and has found that the page
// has the rights for it; all else is done by who has the page locked, when nothing is being sent and no
// launch uses it.
#pragma once
#include "device/process/device.h"

namespace hmmemu::cuda {

enum PageBits : uint8_t {
  kNone = 0,
  kRead = 1,
  kWrite = 2,
  kLent = 3,   // the page is the CPU's own frame, which both may write; it has no other bits but kObject
  kRight = 3,  // these two bits
  kComing = 4, // the file has its content, and the GPU has not
  kAhead = 8,  // the GPU has newer content than the file
  kShadowed = 16,
  kZeros = 32,   // with kComing: its content is zeros
  kViewed = 64,  // a device view may write it at any time: it counts as kAhead for as long
  kObject = 128, // the host's frame is that of the object that the page shows; else: of the video memory
                 // file, or with kLent of the common frames
};

extern std::atomic<uint8_t>* page_bits; // by page number; touched where there are ranges

inline std::atomic<uint8_t>& bits(uint64_t page) { return page_bits[page / device::kPage]; }
inline uint8_t right(uint64_t page) { return bits(page).load() & kRight; }

// Returns the byte before.
inline uint8_t set_right(uint64_t page, uint8_t to) {
  uint8_t had = bits(page).load();
  while (!bits(page).compare_exchange_weak(had, uint8_t((had & ~kRight) | to))) {}
  return had;
}

// The first page that is not `value` under `mask`; `end` if there is none. Eight at a time: every launch
// looks at all of its pages.
inline uint64_t first_unlike(uint64_t begin, uint64_t end, uint8_t mask, uint8_t value) {
  using device::kPage;
  constexpr uint64_t kEach = 0x0101010101010101;
  while (begin < end) {
    if (begin / kPage % 8 == 0 && end - begin >= 8 * kPage) {
      const auto* const at = reinterpret_cast<const uint64_t*>(page_bits + begin / kPage);
      if ((__atomic_load_n(at, __ATOMIC_SEQ_CST) & kEach * mask) == kEach * value) {
        begin += 8 * kPage;
        continue;
      }
    }
    if ((bits(begin).load() & mask) != value) return begin;
    begin += kPage;
  }
  return end;
}

// Calls act(begin, end, right) for each run of pages that have the same right, until one says false; whether
// none did. Rights may change meanwhile.
template <class Act> bool each_right(uint64_t begin, uint64_t end, Act act) {
  for (uint64_t to; begin < end; begin = to) {
    const uint8_t has = right(begin);
    to = first_unlike(begin, end, kRight, has);
    if (to != begin && !act(begin, to, has)) return false;
  }
  return true;
}

// Calls act(begin, end) for each run of pages to which wanted(byte) says true.
template <class Wanted, class Act> void each_run(uint64_t begin, uint64_t end, Wanted wanted, Act act) {
  while (begin < end) {
    if (!wanted(bits(begin).load())) {
      begin += device::kPage;
      continue;
    }
    uint64_t to = begin + device::kPage;
    while (to < end && wanted(bits(to).load())) to += device::kPage;
    act(begin, to);
    begin = to;
  }
}

} // namespace hmmemu::cuda
