// Which pages of this process have an entry in the kernel's page table (/proc/self/pagemap, for which no
// privileges are needed).
//
// Registered memory stays what it was when it was registered; the kernel takes the entry away when it frees
// the page's frame in the file (a hole), or moves it. Where nobody touches the mapping, nothing makes
// another: so pages that have entries still have the frames of then. No lock: nothing changes.
#pragma once
#include <cstddef>
#include <cstdint>

namespace hmmemu::cuda {

class Pagemap {
 public:
  Pagemap();
  Pagemap(const Pagemap&) = delete;

  // False: the kernel hides it (no /proc, for example).
  bool is_readable() const { return file_ >= 0; }
  // Whether all of these pages have one. False, too, if that cannot be read.
  bool has_all(const void* at, uint64_t bytes) const;

 private:
  const int file_; // for as long as the process lives; -1: none
};

} // namespace hmmemu::cuda
