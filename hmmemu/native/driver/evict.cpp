// Driver: a device over its capacity gives pages up.
//
// Blocks are looked at in turn, in the order in which they were first registered, as NVIDIA's driver evicts
// by allocation and not by use (open-gpu-kernel-modules, uvm_pmm_gpu.c); what is free in a block goes at
// once, up to 2 MiB.
//
// LOCKS: the caller has pages locked, so nothing here waits for a page: what is in transition is passed by,
// and so is what a device view uses. EBUSY says that all the device's memory is in the hands of others, who
// may be waiting for ours: the caller lets go and tries again (`until_room`).
//
// How much a GPU has it knows alone, and others may have some of it. So without a capacity, and beside one,
// it gives up a block whenever it says that it is full (`with_memory`).
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

// The pages of the next block that has any. EBUSY: what there is is in transition; ENOMEM: there is nothing.
int Driver::evict_one(Processor p) {
  int result = ENOMEM;
  for (uint32_t blocks = directory_.size(), left = blocks; left; --left) {
    const Evicted evicted = evict_from(directory_.at(evict_next_[p].fetch_add(1) % blocks), p);
    if (evicted == Evicted::Some) return 0;
    if (evicted == Evicted::Busy) result = EBUSY;
  }
  return result;
}

// Evicts what is not in transition. Some: pages that the device might use. Busy: none, but others are at work
// on such.
Driver::Evicted Driver::evict_from(Block& block, Processor p) {
  Evicted found = Evicted::None;
  for (uint64_t a = block.address; a < block.address + kBlock;) {
    Pages run{a, a};
    {
      std::lock_guard guard(block.lock);
      const auto is_there = [&](uint64_t page) {
        return devices_[p]->missing(block, {page, page + kPage}) == 0;
      };
      const auto takes = [&](uint64_t page) {
        const PageState state = block.page(page);
        return state.managed() && !state.locked() && !state.viewed() && is_there(page);
      };
      while (run.end < block.address + kBlock && takes(run.end)) run.end += kPage;
      if (found == Evicted::None && run.end < block.address + kBlock && block.page(run.end).locked() &&
          !PageLocks::mine(block, run.end) && is_there(run.end))
        found = Evicted::Busy;
      run = block.whole(run); // it is here as a whole
      PageLocks::mark(block, run, true);
    }
    a = run.end + kPage;
    if (run.empty()) continue;
    if (evict_locked(block, run, p)) found = Evicted::Some;
    check(block);
    unlock(block, run);
  }
  return found;
}

// Whether the device had any rights there.
bool Driver::evict_locked(Block& block, Pages pages, Processor p) {
  bool had = false;
  const int error = each_run(block, pages, [&](Pages run) {
    const Transition t = eviction(block.page(run.begin), p);
    if (t.step != Step::None) {
      had = true;
      const int failed = perform(block, run, t, {kCpu, Access::Write, Cause::Eviction});
      if (failed && failed != EFAULT) return failed; // EFAULT: a part is gone, and the device's copy with it
      counters_.processor[p].evicted_pages.add(run.count());
    }
    return devices_[p]->release(block, run); // frames that were kept for pages which are not there
  });
  if (error) fatal("pages at 0x%lx cannot be evicted from a device: %s", pages.begin, strerror(error));
  return had;
}

} // namespace hmm
