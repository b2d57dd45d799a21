// The CPU's page table where accesses are caught as signals: this process's own, changed with mprotect.
//
// Exclusive is the mapping's own protection, Shared the same without writing, Invalid none at all. The
// handler (os/segv.h) serves a fault in the thread that made it, so nobody sleeps in the kernel and there is
// nobody to wake. System calls on pages without the right fail with EFAULT.
//
// Content must be written while other threads of this process cannot see half of it, so never through the
// page itself: private pages are written through /proc/self/mem, which needs no right of the mapping's;
// MAP_SHARED pages through a second mapping of the same pages, the alias, made when the range is added.
// Content is read the same way, so that a page behind the end of a truncated file is an error here and not a
// SIGBUS.
//
// Frames of Invalid private pages are kept up to a limit, for the next time; one bit a page (FrameMap) tells
// which. INVARIANT: an Invalid page that was never touched, or released, reads as zeros once it has a right.
// LOCKS: the callers' page locks; everything else is atomic.
#pragma once
#include "memory/alias_map.h"
#include "memory/frame_map.h"
#include "memory/page_table.h"
#include "memory/spare_mappings.h"
#include <sys/mman.h>

namespace hmm {

class SignalTable final : public CpuTable {
 public:
  // Throws Failure(Unsupported) with the reason where this tracker does not work.
  SignalTable(const Directory& directory, AliasMap& aliases);
  ~SignalTable() override;

  // The blocks of the pages must be in the directory. EOPNOTSUPP: private huge pages, which this kernel does
  // not let anybody write against their protection; EPERM: see memory/second_mapping.h.
  int add(Pages pages, MemoryKind kind) override;
  int reserve(Pages pages, MemoryKind kind) override;
  void remove(Pages pages) override;
  void abandon(Pages pages, MemoryKind kind) override;

  int merged_rights() const override { return PROT_READ; }
  int replaced(Block&, Pages, bool) override { return 0; }
  int hide(Block&, Pages pages) override { return restrict(pages, PROT_NONE); }
  int show(Block& block, Pages pages) override { return grant(block, pages, true, PROT_NONE); }
  uint64_t second_view(const Block& block, uint64_t page) const override {
    return reinterpret_cast<uint64_t>(alias(block, {page, page + kPage}));
  }
  std::byte* object(Block& block, Pages pages) const override;
  void forget_taken(Block& block, Pages pages) override { kept_.set(block, pages, false); }

  int protect(Block& block, Pages pages) override;
  int unprotect(Block& block, Pages pages) override;
  int zap(Block& block, Pages pages) override;
  int release(Block& block, Pages pages) override;
  const std::byte* take(Block& block, Pages pages, bool writable, Staging& staging) override;
  const std::byte* frames(Block& block, Pages pages, Staging& staging) override;
  int install(Block& block, Pages pages, const std::byte* content, bool writable) override;
  int zero(Block& block, Pages pages, Access access, bool writable) override;
  int update(Block& block, Pages pages, const std::byte* content) override {
    return write(block, pages, content);
  }
  int regrant(Block& block, Pages pages, bool writable) override;
  int wake(Pages) override { return 0; }
  int refuse(Pages) override { return 0; } // the signal goes on to whoever handles real access violations

  // The limit of mappings (vm.max_map_count) was reached: pages are better given in whole blocks.
  bool tight() const { return !spare_.held(); }

 private:
  int set(Pages pages, int protection);
  int grant(Block& block, Pages pages, bool writable, int before);
  int restrict(Pages pages, int protection);
  int drop_frames(Block& block, Pages pages);
  int write(Block& block, Pages pages, const std::byte* content);
  bool read(Pages pages, Staging& staging) const;
  bool is_ours(Pages pages) const;
  std::byte* alias(const Block& block, Pages pages) const { return aliases_.at(block, pages); }

  const Directory& directory_;
  AliasMap& aliases_;
  const int memory_; // /proc/self/mem
  Mapping zeros_{kBlock, true};
  FrameMap kept_;
  const uint64_t most_kept_; // frames
  SpareMappings spare_;
};

} // namespace hmm
