// Second mappings of shared memory, at addresses of the driver's own, where it reads and writes frames while
// the program's own mapping has no entry for them or must not be touched.
//
// An alias is the program's mapping once more (memory/second_mapping.h), and no userfaultfd watches it. The
// alias of block number `slot` lies at a fixed place, so finding it is arithmetic: no lock, no allocation, no
// look-up.
//
// INVARIANT: there is an alias for each managed page of shared memory, from before the page is managed until
// after. LOCKS: `add` and `remove` under the range lock (base/lock.h); the rest anywhere.
#pragma once
#include "base/mapping.h"
#include "protocol/directory.h"
#include <cstddef>

namespace hmm {

class AliasMap {
 public:
  explicit AliasMap(const Directory& directory);

  // Makes aliases of mappings that are MAP_SHARED, whose blocks exist in the directory. 0 or errno.
  int add(Pages pages);
  // Makes that of a whole block, whose frames lie in the file at the offset that is their address. Only the
  // first time; 0 or errno.
  int add_block(const Block& block, int file);
  // Takes away those that there are.
  void remove(Pages pages);

  // Where the pages' alias lies; they are pages of one block.
  std::byte* at(const Block& block, Pages pages) const {
    return reinterpret_cast<std::byte*>(memory_.address() + block.slot * kBlock +
                                        (pages.begin - block.address));
  }
  // The same, with the frames there to be read (written: made where the file has none). nullptr if some
  // cannot be: the file was truncated, or is open for reading only.
  const std::byte* readable(const Block& block, Pages pages) const;
  std::byte* writable(const Block& block, Pages pages) const;

 private:
  int add_mapping(Pages pages);
  template <class Act> int each_block(Pages pages, Act act) const;

  const Directory& directory_;
  Mapping memory_; // kMostBlocks slots of kBlock
  Mapping made_;   // a byte for each slot: whether anything was ever mapped there
};

} // namespace hmm
