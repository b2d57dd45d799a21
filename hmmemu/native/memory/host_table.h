// The CPU's page table: this process's own, changed through userfaultfd and madvise.
//
// Private anonymous memory and shared memory (shmem) differ in one thing: zapping shared memory must free the
// frame in its file (MADV_REMOVE), because a frame that stays would be mapped again without a fault.
//
// Frames of private pages that go to a device are not freed but parked: UFFDIO_MOVE (Linux 6.8) moves the
// frame itself to an address of the driver's own, and back when the page comes home. To move a frame costs a
// tenth of freeing one and allocating another. A FrameMap tells which pages have a parked frame. Where frames
// cannot be moved (older kernels, shared memory, frames shared with a fork child, more parked than the
// limit), they are copied and freed.
#pragma once
#include "memory/frame_map.h"
#include "memory/page_table.h"
#include "os/userfaultfd.h"
#include <cerrno>
#include <sys/mman.h>

namespace hmm {

class HostTable final : public CpuTable {
 public:
  explicit HostTable(const Userfaultfd& uffd);

  int add(Pages pages, MemoryKind) override { return uffd_.add(pages); }
  void remove(Pages pages) override { uffd_.remove(pages); }
  int merged_rights() const override { return PROT_READ | PROT_WRITE; }
  int replaced(Block&, Pages pages, bool) override { return uffd_.add(pages); }
  void forget_taken(Block& block, Pages pages) override { free_parked(block, pages); }

  int protect(Block&, Pages pages) override { return uffd_.protect(pages); }
  int unprotect(Block&, Pages pages) override { return uffd_.unprotect(pages); }
  int zap(Block& block, Pages pages) override;
  const std::byte* take(Block& block, Pages pages, bool writable, Staging& staging) override;
  const std::byte* frames(Block&, Pages pages, Staging&) override {
    return reinterpret_cast<const std::byte*>(pages.begin);
  }
  int install(Block& block, Pages pages, const std::byte* content, bool writable) override;
  int zero(Block& block, Pages pages, Access access, bool writable) override;
  int update(Block&, Pages, const std::byte*) override { return EINVAL; } // the CPU's stores are the news
  int wake(Pages pages) override { return uffd_.wake(pages); }
  // Only freed arena memory can get here: it reads as zeros until it is allocated again.
  int refuse(Pages pages) override { return uffd_.zero(pages); }
  int release(Block& block, Pages pages) override;

  // Frees parked frames that are left of a time when the page came home as a copy.
  void free_parked(Block& block, Pages pages);

 private:
  // Where the frames of these pages are parked.
  Pages spots(const Block& block, Pages pages) const {
    const uint64_t begin = parking_.address() + block.slot * kBlock + (pages.begin - block.address);
    return {begin, begin + pages.bytes()};
  }
  // Moves frames into the parking; returns the bytes of those that went, from the first page on.
  uint64_t park(Block& block, Pages pages);

  const Userfaultfd& uffd_;
  Mapping zeros_{kBlock, true}; // never written: the zero page, many times
  Mapping parking_;             // kMostBlocks slots of kBlock; none if frames cannot be moved
  FrameMap parked_;
  uint64_t most_parked_; // frames
};

} // namespace hmm
