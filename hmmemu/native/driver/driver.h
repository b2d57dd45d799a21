// The driver: the only writer of page state.
//
// Faults, prefetches and everything else that needs pages somewhere come in as accesses of a processor to a
// range; the protocol says what to do; the page tables do it; the directory is updated; counters count.
//
// INVARIANTS
//   - Under a block's lock, the state of each of its pages is what the page tables of all processors really
//   grant, or
//     more strict in the page tables than in the state (never the other way round).
//   - protocol/transition.h's oracle holds for every page whenever its block is unlocked (checked in builds
//   with
//     HMMEMU_CHECK).
//   - Driver threads hold no GIL, allocate nothing, and touch no managed address but through frames that are
//   present.
// LOCKS: see base/lock.h. An object of this class lives in mmap'ed memory, not on the heap.
#pragma once
#include "driver/growth.h"
#include "memory/device_table.h"
#include "memory/host_table.h"
#include "protocol/directory.h"
#include "protocol/transition.h"
#include "trace/counters.h"
#include <algorithm>
#include <mutex>
#include <optional>
#include <vector>

namespace hmm {

struct Policy {
  GrowthPolicy growth;
  ProtocolPolicy protocol;
};

class Driver {
 public:
  explicit Driver(Policy policy);
  ~Driver();
  Driver(const Driver&) = delete;

  // -- from fault receivers; take block locks only --
  void fault(Processor p, const Fault& fault);

  // -- from any thread but a driver's --
  // Gives `p` the right to `access` every page of the range. Pages that nobody owns are skipped. 0 or errno.
  int access(Pages pages, Processor p, Access access, Cause cause);
  // Drops every copy; the range reads as zeros afterwards.
  void discard(Pages pages);
  // Copies between `data` and the range as `p` sees it, bringing the pages to p as its own accesses would.
  int transfer(Processor p, uint64_t address, uint64_t bytes, void* data, Access access);
  // PageState words, one a page.
  void snapshot(Pages pages, uint64_t* words) const;

  // -- ranges: Python threads --
  // Address space for arrays, known to this process's userfaultfd as a whole.
  Pages make_arena(uint64_t bytes);
  // Takes ownership of pages of the arena for one array; they start untouched.
  void allocate(Pages pages);
  void free(Pages pages);
  // Existing memory. The new pages start Exclusive at the CPU. `shared` tells MAP_SHARED memory.
  // Returns the runs of pages that were not owned before.
  std::vector<Pages> add_range(Pages pages, bool shared);
  // Brings the pages home; those nobody else owns become plain memory. Returns them.
  std::vector<Pages> drop_range(Pages pages);
  // The end, in two steps: every page comes home and no range can be added any more; then, when no receiver
  // reads faults any more, the userfaultfd goes, and with it all registrations: plain memory.
  void bring_all_home();
  void release();

  // -- devices --
  Processor attach(int vram, int uffd, DeviceTable::Shootdown shootdown, void* context);
  // Everything that `p` holds comes home. Afterwards its process may be gone.
  void evacuate(Processor p);
  void replace_process(Processor p, int uffd, void* context);
  const Userfaultfd& device_userfaultfd(Processor p) const { return devices_[p]->userfaultfd(); }

  // -- fork: called in this order by the fork handlers of fork.cpp --
  void before_fork();
  void after_fork_in_parent();
  void after_fork_in_child();

  const Userfaultfd& userfaultfd() const { return uffd_; }
  Counters& counters() { return counters_; }
  unsigned processors() const { return processors_.load(std::memory_order_acquire); }
  // The last access of `p` that could not be served: address (0: none) and errno (EFAULT: nobody owns it).
  // Cleared by reading.
  struct Refusal {
    uint64_t address;
    int error;
  };
  Refusal take_refusal(Processor p);
  uint64_t device_bytes(Processor p) const;
  Policy& policy() { return policy_; }

 private:
  struct Request {
    Processor p;
    Access access;
    Cause cause;
  };
  PageTable& table(Processor p) const { return *tables_[p]; }
  // Caller must hold the block's lock for all of these; `pages` lie in the block.
  int access_locked(Block& block, Pages pages, Request request);
  int perform(Block& block, Pages run, const Transition& transition, Request request);
  int migrate(Block& block, Pages run, const Transition& transition, Request request);
  int zap_others(Block& block, Pages run, uint16_t processors);
  void commit(Block& block, Pages run, PageState next);
  void repair(Block& block, uint64_t address, Processor p, bool present);
  int release_everywhere(Block& block, Pages pages);
  void bring_home(Block& block, Pages pages);
  void bring_home_run(Block& block, Pages run);
  void check(Block& block) const;
  void refuse(Processor p, uint64_t address, int error);

  // Calls visit(block, pages of it) under each block's lock, in ascending order, until one returns an error.
  template <class Visit> int each_block(Pages pages, Visit visit) const {
    for (uint64_t a = pages.begin; a < pages.end; a = block_down(a) + kBlock) {
      Block* block = directory_.find(a);
      if (!block) continue;
      std::lock_guard guard(block->lock);
      const int error = visit(*block, Pages{a, std::min(pages.end, block->address + kBlock)});
      check(*block);
      if (error) return error;
    }
    return 0;
  }
  // Runs of pages in the range that have exactly `owners` owners.
  std::vector<Pages> runs(Pages pages, unsigned owners) const;

  Policy policy_;
  Userfaultfd uffd_;
  Lock ranges_;
  Directory directory_;
  StagingPool staging_;
  Counters counters_;
  HostTable host_;
  std::optional<DeviceTable> devices_[kMaxProcessors]; // in place: driver threads must not read the heap
  PageTable* tables_[kMaxProcessors] = {};
  std::atomic<unsigned> processors_{1};
  std::atomic<uint64_t> refused_[kMaxProcessors] = {};
  std::atomic<int> refused_error_[kMaxProcessors] = {};
  Pages arena_;
  std::atomic<bool> closed_{false};
};

} // namespace hmm
