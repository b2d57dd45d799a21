// How a page's mapping is replaced by its frame's, and how it gets memory of its own again.
//
// To merge: a private mapping of the frame is put over the page (mmap MAP_FIXED, one step for every thread).
// To break: private memory is given as memory/own_memory.h says; of shared memory its own mapping, of which
// there is an alias, is duplicated over the page.
//
// MAPPINGS ARE SCARCE (vm.max_map_count). `room` counts before anything is merged. To break a page in the
// middle of a run makes two more mappings, and at the limit the kernel refuses that; so some mappings are
// held in reserve from the first merge on, to be given back when a break needs them.
//
// Callers hold the lock of the pages' block, or are the only one to know the object.
#pragma once
#include "memory/frame_store.h"
#include "memory/own_memory.h"
#include "memory/spare_mappings.h"
#include "protocol/directory.h"

namespace hmm {

inline PageNumber page_number(const Block& block, uint64_t address) {
  return uint64_t{block.slot} * kPagesPerBlock + (address - block.address) / kPage;
}

class MergedPages {
 public:
  FrameStore& store() { return store_; }
  // The pages become a private mapping of that frame and those that follow it. 0 or errno.
  int map(Pages pages, Frame frame, int rights);
  // The merged pages, all of one source mapping, get memory of their own: private memory with the content
  // that is seen there now; shared memory as it is now. ENOMEM: too many mappings, or no memory.
  int restore(Block& block, Pages pages);

  // -- vm.max_map_count --
  SpareMappings& spare() { return spare_; }
  struct Room {
    uint64_t used, limit;
    uint64_t free() const { return used < limit ? limit - used : 0; }
  };
  static Room room(); // counted in /proc; opens files

 private:
  FrameStore store_;
  OwnMemory own_memory_;
  SpareMappings spare_;
};

} // namespace hmm
