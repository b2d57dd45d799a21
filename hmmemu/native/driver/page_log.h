// The protector that remembers: which pages were written, in which order, and (if asked to) what they held
// before.
//
// Dirty logs, snapshots and Python's protectors are all this one. Each page has room of its own for its old
// content and for its place in the order, as it is told once until it is armed again: nothing can overflow,
// and the thread that writes never waits for a reader. Where stores are noticed afterwards, the content is
// kept before the CPU may store.
//
// INVARIANT: a page is armed again only after its last entry was taken. LOCK: `take` and `forget` by one
// thread at a time (the owner's).
#pragma once
#include "base/lock.h"
#include "driver/protector.h"
#include <climits>

namespace hmm {

// Rung when an entry was made, by the logs that share it.
class Bell {
 public:
  uint32_t count() const { return count_.load(std::memory_order_seq_cst); }
  void ring() {
    count_.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst))
      syscall(SYS_futex, &count_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
  }
  // Sleeps until it was rung since `seen` was counted, or the limit ran out.
  void wait(uint32_t seen, uint64_t limit_ns) {
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    const timespec limit{time_t(limit_ns / 1'000'000'000), long(limit_ns % 1'000'000'000)};
    if (count() == seen) syscall(SYS_futex, &count_, FUTEX_WAIT_PRIVATE, seen, &limit, nullptr, 0);
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
  }

 private:
  std::atomic<uint32_t> count_{0}, sleepers_{0};
};

class PageLog final : public Protector {
 public:
  // `bell` (may be null) must outlive the log, and not lie on the heap.
  PageLog(Pages range, bool keep_content, Bell* bell);

  void before_write(Pages run, const std::byte* content) override;
  void keep(Pages run, const std::byte* content) override;
  bool wants_content() const override { return content_.bytes() != 0; }

  // Up to `most` pages that were written and not yet taken, in the order of the writes. Returns their number.
  uint64_t take(uint64_t* pages, uint64_t most);
  // Whether the page was written since it was armed first (or forgotten).
  bool written(uint64_t page) const { return flag(page).load(std::memory_order_acquire) & kWritten; }
  // Whether `before` is known although the page may not have been written.
  bool kept(uint64_t page) const override { return flag(page).load(std::memory_order_acquire) & kKept; }
  void forget(uint64_t page) { flag(page).store(0, std::memory_order_relaxed); }
  // What a written page held before; nullptr if no content is kept.
  const std::byte* before(uint64_t page) const {
    return content_.bytes() ? content_.as<std::byte>() + index(page) * kPage : nullptr;
  }
  // Gives the room of a page's old content back.
  void drop_content(uint64_t page);
  uint64_t written_pages() const { return tail_.load(std::memory_order_relaxed); }

 private:
  static constexpr uint8_t kWritten = 1, kKept = 2;
  std::atomic<uint8_t>& flag(uint64_t page) const { return flags_.as<std::atomic<uint8_t>>()[index(page)]; }
  std::atomic<uint32_t>& slot(uint64_t ticket) const {
    return order_.as<std::atomic<uint32_t>>()[ticket % range().count()];
  }

  Mapping flags_;   // one byte a page
  Mapping order_;   // ring of page numbers + 1; 0: not written yet
  Mapping content_; // kPage a page; none if it is not wanted
  std::atomic<uint64_t> tail_{0};
  uint64_t head_ = 0;
  Bell* const bell_;
};

} // namespace hmm
