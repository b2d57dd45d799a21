// The CPU's page table: this process's own, changed through userfaultfd and madvise.
//
// Shared memory (shmem) has its frames in a file, where they stay: to zap a page drops this process's entry
// for it (MADV_DONTNEED), and the next access is a message because the range is registered for minor faults
// too. Content is read and written through an alias (memory/alias_map.h), so other processes that map the
// file see the last content that was here at every moment. Only `release` frees frames in the file
// (MADV_REMOVE).
//
// Frames of private pages that go to a device are not freed but parked: UFFDIO_MOVE (Linux 6.8) moves the
// frame itself to an address of the driver's own, and back when the page comes home. To move a frame costs a
// tenth of freeing one and allocating another. A FrameMap tells which pages have a parked frame. Where frames
// cannot be moved (older kernels, shared memory, huge pages, frames shared with a fork child, more
// parked than the limit), they are copied and freed.
#pragma once
#include "memory/alias_map.h"
#include "memory/frame_map.h"
#include "memory/page_table.h"
#include "os/userfaultfd.h"
#include <sys/mman.h>

namespace hmm {

class HostTable : public CpuTable {
 public:
  HostTable(const Userfaultfd& uffd, AliasMap& aliases);

  int add(Pages pages, MemoryKind kind) override;
  int reserve(Pages pages, MemoryKind kind) override { return uffd_.add(pages, kind.shared); }
  void remove(Pages pages) override;
  int merged_rights() const override { return PROT_READ | PROT_WRITE; }
  int replaced(Block&, Pages pages, bool merged) override;
  int hide(Block& block, Pages pages) override { return zap(block, pages); }
  int show(Block& block, Pages pages) override;
  uint64_t second_view(const Block& block, uint64_t page) const override {
    return reinterpret_cast<uint64_t>(aliases_.at(block, {page, page + kPage}));
  }
  std::byte* object(Block& block, Pages pages) const override;
  void forget_taken(Block& block, Pages pages) override { free_parked(block, pages); }
  // From now on `to` catches accesses to pages that the CPU has. What is stored before `to.protect` is no
  // message, whatever the pages' state; threads that waited for them here try again. 0, or errno and all is
  // as before but for that protection.
  int hand_over(Block& block, Pages pages, HostTable& to);

  int protect(Block&, Pages pages) override { return uffd_.protect(pages); }
  int unprotect(Block&, Pages pages) override { return uffd_.unprotect(pages); }
  int zap(Block& block, Pages pages) override;
  const std::byte* take(Block& block, Pages pages, bool writable, Staging& staging) override;
  const std::byte* frames(Block& block, Pages pages, Staging&) override {
    if (shared(block, pages) && !block.page(pages.begin).merged()) return aliases_.readable(block, pages);
    return touch(reinterpret_cast<const std::byte*>(pages.begin), pages.bytes());
  }
  int install(Block& block, Pages pages, const std::byte* content, bool writable) override;
  // Shared memory: what another process has put into the file since stays, zeros where there is nothing.
  int zero(Block& block, Pages pages, Access access, bool writable) override;
  int update(Block&, Pages, const std::byte*) override { return EINVAL; } // the CPU's stores are the news
  // A page of shared memory may have lost its entry, to reclaim for example: its frame is in the file.
  int regrant(Block& block, Pages pages, bool writable) override;
  int restore(Block& block, Pages pages) override;
  int wake(Pages pages) override { return uffd_.wake(pages); }
  // Only freed arena memory can get here: it reads as zeros until it is allocated again.
  int refuse(Pages pages) override { return uffd_.zero(pages); }
  int release(Block& block, Pages pages) override;

  // Frees parked frames that are left of a time when the page came home as a copy.
  void free_parked(Block& block, Pages pages);

 protected:
  // Takes away private pages whose frames cannot be moved, and copies them to `to`.
  virtual int take_by_copy(Block& block, Pages pages, std::byte* to);
  static bool shared(Block& block, Pages pages) { return block.page(pages.begin).shared_mapping(); }
  // Whether the mapping's frames are in a file: the memory's own, or that of the device that has it remote.
  static bool in_file(Block& block, Pages pages) {
    return shared(block, pages) || block.page(pages.begin).remote();
  }
  static bool huge(Block& block, Pages pages) { return block.page(pages.begin).huge(); }

 private:
  // Content that is about to be read. Where the kernel must not wait for a page (Way::UserModeOnly), but a
  // thread may: it waits here for those that the program has dropped.
  const std::byte* touch(const std::byte* content, uint64_t bytes) const;
  // Where the frames of these pages are parked.
  Pages spots(const Block& block, Pages pages) const {
    const uint64_t begin = parking_.address() + block.slot * kBlock + (pages.begin - block.address);
    return {begin, begin + pages.bytes()};
  }
  // Moves frames into the parking; returns the bytes of those that went, from the first page on.
  uint64_t park(Block& block, Pages pages);
  int install_shared(Block& block, Pages pages, const std::byte* content, bool writable);
  int install_parked(Block& block, Pages pages, const std::byte* content);
  int map_or_zero(Block& block, Pages pages, bool writable);

  const Userfaultfd& uffd_;
  AliasMap& aliases_;
  Mapping zeros_{kBlock, true}; // never written: the zero page, many times
  Mapping parking_;             // kMostBlocks slots of kBlock; none if frames cannot be moved
  FrameMap parked_;
  uint64_t most_parked_; // frames
};

} // namespace hmm
