// Where the driver sees the frames of a file in which the frame of the page at address A lies at offset A.
//
// Neighbouring blocks have neighbouring slots, so the kernel joins their mappings. A slot is mapped when it
// is first used; fork children have none. Twice at once does no harm, so no lock.
#pragma once
#include "base/mapping.h"
#include "memory/second_mapping.h"
#include "protocol/directory.h"
#include <atomic>

namespace hmm {

class FileAlias {
 public:
  FileAlias() : slots_(uint64_t{Directory::kMostBlocks} * kBlock, true), made_(Directory::kMostBlocks, true) {
    mprotect(slots_.as<void>(), slots_.bytes(), PROT_NONE);
  }

  std::byte* at(int file, const Block& block, Pages pages) const {
    if (const int error = map(file, block))
      fatal("cannot map frames of block 0x%lx: errno %d", block.address, error);
    return slot(block) + (pages.begin - block.address);
  }
  // What `at` does at its first use. 0 or errno.
  int map(int file, const Block& block) const {
    auto& made = made_.as<std::atomic<uint8_t>>()[block.slot];
    if (made.load(std::memory_order_acquire)) return 0;
    if (const int error = map_by_address(file, block.all(), slot(block))) return error;
    made.store(1, std::memory_order_release);
    return 0;
  }

 private:
  std::byte* slot(const Block& block) const { return slots_.as<std::byte>() + block.slot * kBlock; }

  Mapping slots_; // kMostBlocks slots of kBlock
  Mapping made_;  // one byte a slot
};

} // namespace hmm
