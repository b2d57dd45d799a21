// How pages of the CPU whose mapping was replaced get private memory of their own again.
//
// A copy is made at a fixed image of the address, and moved over the pages (mremap MREMAP_FIXED, one step for
// every thread). The images of neighbours are neighbours, so the kernel joins the mappings of such pages
// again.
//
// Callers hold the locks of the pages.
#pragma once
#include "base/mapping.h"
#include "protocol/directory.h"

namespace hmm {

class OwnMemory {
 public:
  // Not kept from fork children: a flag of the image's would be one of the pages that come from there.
  OwnMemory() : image_(uint64_t{Directory::kMostBlocks} * kBlock) {}
  // The pages, which nobody writes, get private memory with this content, which may be read. 0 or errno.
  // ENOMEM: too many mappings, or no memory; they are as they were.
  int give(const Block& block, Pages pages, const std::byte* content);

 private:
  Mapping image_; // kMostBlocks slots of kBlock, empty but meanwhile
};

} // namespace hmm
