// A protector: somebody who is told before a page is written.
//
// The driver calls before_write for pages on which the protector is armed, in order of registration, while
// the pages are locked and before any processor may write them; then it disarms them: one shot a page, until
// armed again. The call runs in a driver thread or in the thread that writes, with the GIL in unknown hands:
// it takes no lock above Block::lock, allocates nothing, touches no heap.
//
// Objects live in mmap'ed memory of their own (make_protector): driver threads must not read the heap.
#pragma once
#include "base/mapping.h"
#include "base/pages.h"
#include <atomic>
#include <cstddef>
#include <utility>

namespace hmm {

class Protector {
 public:
  explicit Protector(Pages range) : range_(range), armed_(page_up(range.count() / 8 + 1), true) {}
  virtual ~Protector() = default;
  Protector(const Protector&) = delete;

  // `content`: of the pages before the write; nullptr unless wants_content, or if it was told by `keep`.
  virtual void before_write(Pages run, const std::byte* content) = 0;
  // Where stores are noticed and not caught, nobody can read what was there before: who wants that is given
  // it before the CPU may store there. Once: `kept` says which armed pages it has the content of.
  virtual void keep(Pages, const std::byte* /*content*/) {}
  virtual bool kept(uint64_t /*page*/) const { return false; }
  virtual bool wants_content() const = 0;
  Pages range() const { return range_; }

  // Guarded by the lock of the page; neighbours may change at the same time.
  bool armed(uint64_t page) const { return byte(page).load(std::memory_order_relaxed) & mask(page); }
  void set_armed(uint64_t page, bool on) {
    if (on)
      byte(page).fetch_or(mask(page), std::memory_order_relaxed);
    else
      byte(page).fetch_and(static_cast<uint8_t>(~mask(page)), std::memory_order_relaxed);
  }

 protected:
  uint64_t index(uint64_t page) const { return (page - range_.begin) / kPage; }

 private:
  std::atomic<uint8_t>& byte(uint64_t page) const {
    return armed_.as<std::atomic<uint8_t>>()[index(page) / 8];
  }
  uint8_t mask(uint64_t page) const { return static_cast<uint8_t>(1u << (index(page) % 8)); }

  const Pages range_;
  Mapping armed_; // one bit a page
};

// Owns a protector in memory of its own.
template <class T> class ProtectorMemory {
 public:
  template <class... Arguments>
  explicit ProtectorMemory(Arguments&&... arguments)
      : memory_(page_up(sizeof(T))),
        made_(new (memory_.as<void>()) T(std::forward<Arguments>(arguments)...)) {}
  ProtectorMemory(const ProtectorMemory&) = delete;
  ~ProtectorMemory() { made_->~T(); }
  T& operator*() const { return *made_; }
  T* operator->() const { return made_; }

 private:
  Mapping memory_;
  T* made_;
};

} // namespace hmm
