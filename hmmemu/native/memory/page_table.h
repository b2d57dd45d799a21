// The page table of one processor, as the driver sees it. Every kind of processor implements these few
// operations.
//
// All calls are about whole pages of one block which the caller has locked (driver/page_locks.h) and which
// are alike (PageState::like). Other pages of the block may be worked on at the same time by other threads.
// None allocates, none touches memory through a managed address unless the page is known to be present and
// write-protected or Exclusive. Return values are 0 or an errno; ENOMEM from an operation that gives or takes
// rights means that nothing changed, or that the processor has less right than before, never more. ENOENT
// from the CPU's: the program has unmapped a part of the pages.
#pragma once
#include "base/page_set.h"
#include "memory/staging.h"
#include "protocol/directory.h"
#include <cerrno>
#include <cstddef>

namespace hmm {

class PageTable {
 public:
  virtual ~PageTable() = default;

  // Exclusive -> Shared: later stores of this processor fault.
  virtual int protect(Block& block, Pages pages) = 0;
  // Shared -> Exclusive; wakes who waits.
  virtual int unprotect(Block& block, Pages pages) = 0;
  // -> Invalid: any later access faults. The content is gone.
  virtual int zap(Block& block, Pages pages) = 0;
  // As zap, and gives the memory back: these pages are not expected to return soon.
  virtual int release(Block& block, Pages pages) { return zap(block, pages); }
  // Zaps, and returns the content as it was at that moment; valid until `staging` is used again or the pages
  // are given other content. `writable`: the processor may write them until then. nullptr, and errno says
  // why: nothing was taken.
  virtual const std::byte* take(Block& block, Pages pages, bool writable, Staging& staging) = 0;
  // The content of pages that are present, for reading, until `staging` is used again. nullptr if it cannot
  // be read (pages behind the end of a truncated file).
  virtual const std::byte* frames(Block& block, Pages pages, Staging& staging) = 0;
  // Invalid -> Shared or Exclusive, with this content; wakes who waits.
  virtual int install(Block& block, Pages pages, const std::byte* content, bool writable) = 0;
  // Invalid -> Shared or Exclusive, all zeros; wakes who waits. `access` is what they are wanted for.
  virtual int zero(Block& block, Pages pages, Access access, bool writable) = 0;
  // New content for Shared pages, whose rights stay as they are.
  virtual int update(Block& block, Pages pages, const std::byte* content) = 0;
  // The state grants these rights, and yet an access faulted: gives them again to a processor that can lose
  // them, and lets threads that wait for the pages try again.
  virtual int regrant(Block&, Pages pages, bool /*writable*/) { return wake(pages); }
  // Lets threads that wait for these pages try again.
  virtual int wake(Pages pages) = 0;
  // Nobody owns the page: makes the access of who waits for it an error of theirs.
  virtual int refuse(Pages pages) = 0;
};

// The CPU's, one for each way to catch its accesses.
class CpuTable : public PageTable {
 public:
  // Starts (ends) catching accesses to memory of one kind; the pages are present and writable at that moment.
  // From Python threads, which may allocate here. add: 0 or errno, and then nothing was changed.
  virtual int add(Pages pages, MemoryKind kind) = 0;
  // The same for memory of our own that nobody has touched yet: its pages are Invalid. What is shared has its
  // alias made elsewhere (AliasMap::add_block).
  virtual int reserve(Pages pages, MemoryKind kind) = 0;
  virtual void remove(Pages pages) = 0;
  // Same-page merging. The rights that mappings of frames are made with.
  virtual int merged_rights() const = 0;
  // Where the driver sees a page of shared memory without rights of the program's own. 0: nowhere.
  virtual uint64_t second_view(const Block&, uint64_t /*page*/) const { return 0; }
  // The same for pages that are PageState::in_object, with frames there to be read and written. nullptr, and
  // errno says why: the object has become shorter.
  virtual std::byte* object(Block&, Pages) const = 0;
  // Whether that is what `content` is: then it need not be copied there.
  bool is_object(Block& block, Pages pages, const std::byte* content) const {
    return block.page(pages.begin).in_object() &&
           second_view(block, pages.begin) == reinterpret_cast<uint64_t>(content);
  }
  // The mapping of pages that are caught was replaced: by one of frames (`merged`), or by a device's file
  // (pages that are remote), or by memory of the page's kind again. Catches them there, too. 0 or errno.
  virtual int replaced(Block&, Pages, bool merged) = 0;
  // Of pages that are remote: Exclusive -> Invalid, and back. The frames stay where they are.
  virtual int hide(Block&, Pages) = 0;
  virtual int show(Block&, Pages) = 0;
  // Pages that were taken will not come back in the frames that they had.
  virtual void forget_taken(Block&, Pages) {}
  // Makes those of the pages that are missing pages of zeros, write-protected: the program itself dropped
  // them. EEXIST: none was, or whoever touches one gets it without our help.
  virtual int restore(Block&, Pages) { return EEXIST; }
  // In a fork child, where nobody catches anything any more: makes present pages plain memory.
  virtual void abandon(Pages, MemoryKind) {}
  // Which of these Shared pages were written since they were protected, one bit a page of the block; they are
  // protected again. Only where stores are not caught (Tracker::Async).
  virtual int written(Block&, Pages, PageSet&) { return 0; }
};

} // namespace hmm
