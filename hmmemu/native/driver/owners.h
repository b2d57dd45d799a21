// Pages with several owners: what is known of the mappings that show them, and the owners of one run.
#pragma once
#include "memory/frame_store.h"
#include "protocol/directory.h"

namespace hmm {

inline constexpr unsigned kMostOwners = 64; // of one page

// Pages of an object (a file, shared memory) that are managed. Offset and object are looked up here, with the
// mapping's key; a page itself does not say them.
struct ObjectMapping {
  Pages pages;
  uint64_t offset = 0;           // of the first page in the object
  uint64_t device = 0, node = 0; // which object
  uint64_t users = 0;            // pages of it that are managed; 0: the entry is free

  // With the whole of the huge pages at its ends.
  ObjectMapping whole_blocks() const {
    const uint64_t begin = block_down(pages.begin);
    return {{begin, block_down(pages.end + kBlock - 1)}, offset - (pages.begin - begin), device, node, users};
  }
  bool shows(const ObjectMapping& other) const {
    return device == other.device && node == other.node && offset < other.offset + other.pages.bytes() &&
           other.offset < offset + pages.bytes();
  }
};

// The other owners of a run of pages: runs of the same length, each in one block, lowest page number first.
struct OtherOwners {
  struct Run {
    Block* block;
    Pages pages;
    bool mine; // this thread had locked them already

    bool shared() const { return block->page(pages.begin).shared_mapping(); }
  };
  unsigned count = 0;
  Run runs[kMostOwners];

  Run* begin() { return runs; }
  Run* end() { return runs + count; }
};

} // namespace hmm
