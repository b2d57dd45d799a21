// A copy of memory for a fork child, where the child would not have one of its own: of pages that lie in a
// file and are mapped shared.
//
// The parent writes it into a second file while nobody changes the pages, and lets go of that after the fork;
// the child maps it privately, where the pages were, and it goes with that mapping. For fork handlers:
// nothing here allocates. LOCK: the fork handlers' own (driver/fork.cpp), one fork at a time.
#pragma once
#include "base/pages.h"
#include <cstddef>

namespace hmm {

class ForkCopy {
 public:
  // Starts a copy of so many bytes. 0 or errno; ENOMEM: not that much memory is free, and to try would have
  // the kernel kill somebody.
  int begin(uint64_t bytes);
  int add(Pages pages, const std::byte* content);
  // In the child: maps the copy at the pages' addresses. Pages that were not added are zeros. If there is no
  // copy, nobody can access them.
  void give(Pages pages);
  void end();

 private:
  int file_ = -1;
};

} // namespace hmm
