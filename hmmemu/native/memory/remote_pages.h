// How the CPU's private pages are put where a device reaches them too, and become private memory again.
//
// Lent: a shared mapping of the device's memory file is put over the pages (mmap MAP_FIXED, one step for
// every thread); the CPU and the device then use the same frames. Back: a copy is made at a fixed image of
// the address and moved over the pages (mremap MREMAP_FIXED, one step as well), as for merged pages. The
// images of neighbours are neighbours, and so are their places in the file, so the kernel joins their
// mappings.
//
// Callers hold the locks of the pages.
#pragma once
#include "base/mapping.h"
#include "protocol/directory.h"

namespace hmm {

class RemotePages {
 public:
  RemotePages();
  // The pages become those of the file at the offset that is their address. 0 or errno.
  static int map(Pages pages, int file);
  // The pages, which may be read and nobody writes, get private memory of their own with that content.
  int restore(Block& block, Pages pages);

 private:
  Mapping image_; // kMostBlocks slots of kBlock, empty but during a restore
};

} // namespace hmm
