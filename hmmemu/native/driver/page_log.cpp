#include "driver/page_log.h"

#include <cstring>

namespace hmm {

PageLog::PageLog(Pages range, bool keep_content, Bell* bell)
    : Protector(range), flags_(page_up(range.count() + 1), true),
      order_(page_up(range.count() * 4 + 4), true), bell_(bell) {
  if (keep_content) content_ = Mapping(range.bytes() + kPage, true);
}

void PageLog::before_write(Pages run, const std::byte* content) {
  if (content_.bytes() && content)
    std::memcpy(content_.as<std::byte>() + index(run.begin) * kPage, content, run.bytes());
  const uint64_t first = tail_.fetch_add(run.count(), std::memory_order_relaxed);
  for (uint64_t a = run.begin; a < run.end; a += kPage) {
    flag(a).store(kWritten, std::memory_order_relaxed);
    slot(first + (a - run.begin) / kPage)
        .store(static_cast<uint32_t>(index(a)) + 1, std::memory_order_release);
  }
  if (bell_) bell_->ring();
}

void PageLog::keep(Pages run, const std::byte* content) {
  std::memcpy(content_.as<std::byte>() + index(run.begin) * kPage, content, run.bytes());
  for (uint64_t a = run.begin; a < run.end; a += kPage) flag(a).fetch_or(kKept, std::memory_order_release);
}

uint64_t PageLog::take(uint64_t* pages, uint64_t most) {
  uint64_t count = 0;
  while (count < most) {
    const uint32_t number = slot(head_).exchange(0, std::memory_order_acquire);
    if (!number) break; // nothing more, or its writer is about to enter it and rings then
    ++head_;
    pages[count++] = range().begin + uint64_t{number - 1} * kPage;
  }
  return count;
}

void PageLog::drop_content(uint64_t page) {
  if (content_.bytes()) madvise(content_.as<std::byte>() + index(page) * kPage, kPage, MADV_DONTNEED);
}

} // namespace hmm
