// PAGEMAP_SCAN (Linux 6.7): which pages of this process were written since they were write-protected.
//
// It works on ranges that a userfaultfd with WP_ASYNC watches (os/userfaultfd.h). What it reports it has
// protected again, atomically: a store is in this answer or in the next, never in none. Pages that are not
// there count as written. No call allocates or locks.
#pragma once
#include "base/pages.h"
#include <cerrno>

namespace hmm {

class Pagemap {
 public:
  Pagemap() = default;
  // For this process's memory, not for that of a fork child. Throws Failure(Unsupported).
  static Pagemap open();
  Pagemap(Pagemap&& other) noexcept { *this = static_cast<Pagemap&&>(other); }
  Pagemap& operator=(Pagemap&& other) noexcept;
  ~Pagemap();

  // Calls visit(run) for each run of pages that were written, and protects them. 0 or errno.
  template <class Visit> int take_written(Pages pages, Visit visit) const {
    Pages runs[kRuns];
    while (!pages.empty()) {
      const int found = scan(pages, runs);
      if (found < 0) return -found;
      for (int i = 0; i < found; ++i) visit(runs[i]);
    }
    return 0;
  }

 private:
  static constexpr unsigned kRuns = 128; // a call; on the stack
  // Finds up to kRuns runs, from `pages.begin` on, and moves it behind what was looked at. The number of
  // runs, or -errno.
  int scan(Pages& pages, Pages* runs) const;

  int fd_ = -1;
};

} // namespace hmm
