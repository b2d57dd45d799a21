// Where the driver sees the frames of a file in which the frame of the page at address A lies at offset A.
//
// Neighbouring blocks have neighbouring slots, so the kernel joins their mappings. A slot is mapped when it
// is first used; fork children have none. Twice at once does no harm, so no lock.
#pragma once
#include "base/mapping.h"
#include "protocol/directory.h"
#include <atomic>

namespace hmm {

class FileAlias {
 public:
  FileAlias() : slots_(uint64_t{Directory::kMostBlocks} * kBlock, true), made_(Directory::kMostBlocks, true) {
    mprotect(slots_.as<void>(), slots_.bytes(), PROT_NONE);
  }

  std::byte* at(int file, const Block& block, Pages pages) const {
    std::byte* slot = slots_.as<std::byte>() + block.slot * kBlock;
    auto& made = made_.as<std::atomic<uint8_t>>()[block.slot];
    if (!made.load(std::memory_order_acquire)) {
      void* found = mmap(slot, kBlock, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file,
                         static_cast<off_t>(block.address));
      if (found == MAP_FAILED) fatal("cannot map frames of block 0x%lx: errno %d", block.address, errno);
      madvise(found, kBlock, MADV_DONTFORK);
      made.store(1, std::memory_order_release);
    }
    return slot + (pages.begin - block.address);
  }

 private:
  Mapping slots_; // kMostBlocks slots of kBlock
  Mapping made_;  // one byte a slot
};

} // namespace hmm
