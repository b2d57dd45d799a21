// Driver: a device over its capacity gives pages up.
//
// Blocks are looked at in turn, in the order in which they were first registered, as NVIDIA's driver evicts
// by allocation and not by use (open-gpu-kernel-modules, uvm_pmm_gpu.c); what is free in a block goes at
// once, up to 2 MiB.
//
// LOCKS: the caller has pages locked, so nothing here waits for a page: what is in transition is passed by,
// and so is what a device view uses. EBUSY says that all the device's memory is in the hands of others, who
// may be waiting for ours: the caller lets go and tries again (`until_room`).
#include "driver/driver.h"

#include <cerrno>
#include <cstring>

namespace hmm {

int Driver::make_room(Processor p) {
  const DeviceTable& device = *devices_[p];
  const auto full = [&] { return device.frame_bytes() + reserved_[p] * kPage > capacity_[p]; };
  const uint32_t blocks = directory_.size();
  for (uint32_t looked = 0; full(); ++looked) {
    if (looked == 2 * blocks) return reserved_[p] * kPage > capacity_[p] ? ENOMEM : EBUSY;
    evict_from(directory_.at(evict_next_[p].fetch_add(1) % blocks), p);
  }
  return 0;
}

// Evicts what is not in transition. False: nothing was there.
bool Driver::evict_from(Block& block, Processor p) {
  bool found = false;
  for (uint64_t a = block.address; a < block.address + kBlock;) {
    Pages run{a, a};
    {
      std::lock_guard guard(block.lock);
      const auto takes = [&](uint64_t page) {
        const PageState state = block.page(page);
        return state.managed() && !state.locked() && !state.viewed() &&
               devices_[p]->missing(block, {page, page + kPage}) == 0;
      };
      while (run.end < block.address + kBlock && takes(run.end)) run.end += kPage;
      run = block.whole(run); // it is here as a whole
      PageLocks::mark(block, run, true);
    }
    a = run.end + kPage;
    if (run.empty()) continue;
    found = true;
    evict_locked(block, run, p);
    check(block);
    unlock(block, run);
  }
  return found;
}

void Driver::evict_locked(Block& block, Pages pages, Processor p) {
  const int error = each_run(block, pages, [&](Pages run) {
    const Transition t = eviction(block.page(run.begin), p);
    if (t.step != Step::None) {
      const int failed = perform(block, run, t, {kCpu, Access::Write, Cause::Eviction});
      if (failed && failed != EFAULT) return failed; // EFAULT: a part is gone, and the device's copy with it
      counters_.processor[p].evicted_pages.add(run.count());
    }
    return devices_[p]->release(block, run); // frames that were kept for pages which are not there
  });
  if (error) fatal("pages at 0x%lx cannot be evicted from a device: %s", pages.begin, strerror(error));
}

} // namespace hmm
