// Mappings held in reserve: a process may have `vm.max_map_count` of them (65530 by default), and changing
// the protection of a page in the middle of a mapping makes it three.
//
// Where that limit is reached, giving these back makes room for what must not fail: bringing a page to the
// CPU that waits for it. From then on the driver asks for whole blocks alike, which makes mappings fewer. One
// atomic flag; `give_back` may be called by any thread at any time.
#pragma once
#include "base/mapping.h"
#include <atomic>

namespace hmm {

class SpareMappings {
 public:
  SpareMappings() { hold(); }

  bool held() const { return held_.load(std::memory_order_acquire); }

  // True if this call made room.
  bool give_back() {
    if (!held_.exchange(false)) return false;
    // The first and the last page stay: their mappings may be one with a neighbour's.
    return munmap(pages_.as<std::byte>() + kPage, pages_.bytes() - 2 * kPage) == 0;
  }

  // Takes them again, if there is room for many more than these. From Python threads.
  void hold() {
    if (held()) return;
    try {
      Mapping fresh(kPages * kPage, true);
      mprotect(fresh.as<void>(), fresh.bytes(), PROT_NONE);
      for (uint64_t page = 1; page < kPages; page += 2)
        if (mprotect(fresh.as<std::byte>() + page * kPage, kPage, PROT_READ) != 0) return;
      pages_ = std::move(fresh);
      held_.store(true, std::memory_order_release);
    } catch (const Failure&) { // no room now
    }
  }

 private:
  static constexpr uint64_t kPages = 255; // about as many mappings

  Mapping pages_;
  std::atomic<bool> held_{false};
};

} // namespace hmm
