// The CPU's page table: this process's own, changed through userfaultfd and madvise.
//
// Private anonymous memory and shared memory (shmem) differ in one thing: zapping shared memory must free the
// frame in its file (MADV_REMOVE), because a frame that stays would be mapped again without a fault.
#pragma once
#include "base/mapping.h"
#include "memory/page_table.h"
#include "os/userfaultfd.h"

namespace hmm {

class HostTable final : public PageTable {
 public:
  explicit HostTable(const Userfaultfd& uffd) : uffd_(uffd) {}

  int protect(Block&, Pages pages) override { return uffd_.protect(pages); }
  int unprotect(Block&, Pages pages) override { return uffd_.unprotect(pages); }
  int zap(Block& block, Pages pages) override;
  const std::byte* take(Block& block, Pages pages, Staging& staging) override;
  const std::byte* frames(Block&, Pages pages) override {
    return reinterpret_cast<const std::byte*>(pages.begin);
  }
  int install(Block&, Pages pages, const std::byte* content, bool writable) override {
    return uffd_.copy(pages, content, writable);
  }
  int zero(Block& block, Pages pages, Access access) override;
  int wake(Pages pages) override { return uffd_.wake(pages); }
  // Only freed arena memory can get here: it reads as zeros until it is allocated again.
  int refuse(Pages pages) override { return uffd_.zero(pages); }

 private:
  const Userfaultfd& uffd_;
  Mapping zeros_{kChunk, true}; // never written
};

} // namespace hmm
