#include "protocol/directory.h"

namespace hmm {

// Zeroed memory is a valid Block (unlocked, no page owned) and a valid table (no blocks).
Directory::Directory()
    : table_((uint64_t{1} << kAddressBits) / kBlock * sizeof(Entry)),
      blocks_(uint64_t{kMostBlocks} * sizeof(Block)), addresses_(uint64_t{kMostBlocks} * sizeof(uint64_t)) {}

Summary Block::sum_up() const {
  Summary made{0, ~uint64_t{0}};
  for (PageState page : pages) made.any |= page.outline(), made.all &= page.outline();
  return made;
}

Block& Directory::make(uint64_t address) {
  if (Block* block = find(address)) return *block;
  uint32_t slot = used_.load(std::memory_order_relaxed);
  if (slot == kMostBlocks)
    throw Failure(FailureKind::OutOfMemory,
                  "more than 512 GiB of shared memory was in use over the life of this space");
  Block& block = blocks()[slot];
  block.slot = slot;
  block.address = addresses_.as<uint64_t>()[slot] = block_down(address);
  block.outline = &table()[address / kBlock].outline;
  used_.store(slot + 1, std::memory_order_release);
  table()[address / kBlock].block.store(&block, std::memory_order_release);
  return block;
}

} // namespace hmm
