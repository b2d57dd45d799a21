// The CPU's page table where stores are not caught but found afterwards (tracker `async`).
//
// Pages that are away are missing and fault, as in HostTable. The kernel lets stores to protected pages
// through without a message and notes them in the page table; PAGEMAP_SCAN reads the notes and sets them
// back.
//
// Pages of which every store must be caught belong to a HostTable for that time (driver/retrack.cpp).
//
// What it reports is entered in `found_`, a bit a page, until somebody who has the page locked takes it from
// there. So one system call can look at many blocks at once, whose pages nobody has locked.
//
// INVARIANTS
//   - A store to a Shared page that nobody was told of yet is noted by the kernel or in `found_`; it is on
//   its way
//     from the one to the other only under `scanning_`.
//   - A bit too many does no harm: the page's content is sent once more.
//   - No store is lost between reading a page and taking it away: the page is moved, which is atomic, and
//   read then.
// LOCKS: `scanning_` is taken last of all (base/lock.h), for a scan of at most kMostScanned bytes.
#pragma once
#include "memory/host_table.h"
#include "os/pagemap.h"
#include <atomic>

namespace hmm {

class AsyncTable final : public HostTable {
 public:
  // Throws Failure(Unsupported).
  AsyncTable(const Userfaultfd& uffd, AliasMap& aliases, const Directory& directory);

  int protect(Block& block, Pages pages) override;
  // Until `told`, whoever asks `telling` knows that somebody works on what was found here, or taken after
  // `tell`.
  int written(Block& block, Pages pages, PageSet& found) override;
  void tell() { telling_.fetch_add(1, std::memory_order_release); }
  void told() { telling_.fetch_sub(1, std::memory_order_release); }
  bool telling() const { return telling_.load(std::memory_order_acquire) != 0; }

  // Looks for stores to pages that the CPU may read, in any number of blocks, locked or not. 0 or errno.
  int scan(Pages pages);
  // What scans have found and nobody has taken yet; `take` by who has the pages locked. No system calls.
  uint64_t found_pages() const { return found_pages_.load(std::memory_order_acquire); }
  bool found(const Block& block) const;
  // Has the processor load what will be read of the first page that was found, and goes on meanwhile.
  void fetch(const Block& block) const;
  PageSet peek(const Block& block, Pages pages) const;
  PageSet take_found(const Block& block, const PageSet& pages);
  // Enters pages that were written: what was taken and could not be told yet, too.
  void note(Pages run);

  // The process has forked: the child has another page table.
  void close() { pagemap_ = Pagemap(); }

 protected:
  int take_by_copy(Block& block, Pages pages, std::byte* to) override;

 private:
  static constexpr uint64_t kMostScanned = 256 * 1024 * 1024; // about 100 us; a call has costs of its own

  std::atomic<uint64_t>& word(const Block& block, unsigned index) const {
    return found_.as<std::atomic<uint64_t>>()[uint64_t{directory_.slot(block)} * PageSet::kWords + index];
  }
  int scan_locked(Pages pages);

  const Directory& directory_;
  Pagemap pagemap_;
  Lock scanning_;
  std::atomic<unsigned> telling_{0};
  std::atomic<uint64_t> found_pages_{0}; // bits in found_, or more for a moment
  Mapping found_{uint64_t{Directory::kMostBlocks} * kPagesPerBlock / 8, true};
};

} // namespace hmm
