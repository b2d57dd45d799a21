// Same-page merging: what it did, in numbers, and the plan of one block.
#pragma once
#include "memory/merged_pages.h"
#include <cstdint>

namespace hmm {

enum class MergeStop : uint8_t { Done, MaxMapCount, Memory };

struct MergeResult {
  uint64_t scanned = 0; // pages looked at: managed, touched, of a kind that can be merged
  uint64_t merged = 0;  // of those, merged now
  uint64_t before = 0;  // of those, merged before
  uint64_t zeros = 0;   // pages of zeros, given to the kernel's zero page
  uint64_t skipped = 0; // pages of kinds that cannot be merged
  FrameStore::Totals store;
  MergeStop stopped = MergeStop::Done;
  uint64_t mappings = 0, most_mappings = 0; // of the process, as estimated at the end; where merging stops
};

// The pages of one block that seem to have a twin. Lies in a Mapping: it is read while pages are locked.
struct MergePlan {
  MappingKey key;
  bool shared;
  uint64_t first;                  // address of page 0 of the mapping
  uint64_t hashes[kPagesPerBlock]; // 0: leave the page alone
  Frame frames[kPagesPerBlock];    // what was found, by page of the run at work
};

} // namespace hmm
