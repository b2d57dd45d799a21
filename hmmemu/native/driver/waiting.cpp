// Driver: launches, and kernels that wait for what the CPU writes while they run.
//
// Where the CPU's stores are noticed and not caught (Tracker::Async), a kernel that spins on a word of which
// its device has a copy would spin for ever, and one that saw the word change could still read older copies
// of what was written before it. So from the launch of a kernel that may wait (the compiler knows: it has
// loops that end by what others write) until its device has nothing more to do, no page whose stores are not
// caught has copies at the CPU and elsewhere: those that there are go before it starts, and reads make none
// (ProtocolPolicy::all_caught). An access to a page that somebody else has is a fault then, in order with all
// others. Pages with several owners keep their copies, whose stores are noticed at calls only.
//
// INVARIANT: between before_launch of such a kernel and its end, a page that a device may read and that
// Tracker::Async watches is Invalid at the CPU, if it has one owner. For that reason the policy is asked for
// with the page locked: either the pass of before_launch finds the copy, or it is not made.
// LOCKS: none here; `waits_` of a device is written by who launches on it, one at a time.
#include "driver/driver.h"

#include <cerrno>
#include <cstring>

namespace hmm {
namespace {

// Stores of the CPU to it would be noticed only, and devices have copies.
bool shared_unguarded(PageState state) {
  return state.managed() && !state.several() && state.tracker() == Tracker::Async &&
         state.hold(kCpu) == Hold::Shared && state.holds() >> 2 != 0;
}

bool any_shared(Block& block, uint64_t outline) {
  if (outline) return shared_unguarded(PageState(outline)); // all are alike: most blocks
  std::lock_guard guard(block.lock);
  return block.locked || std::any_of(std::begin(block.pages), std::end(block.pages), shared_unguarded);
}

} // namespace

bool Driver::kernels_wait() const {
  if (!any_waits_.load()) return false;
  for (Processor p = 1; p < processors(); ++p)
    if (waits_[p].load() && !devices_[p]->idle()) return true;
  return false;
}

// Of a page that all can use nobody hears, so the end of its time is looked for at launches.
void Driver::end_pins() {
  thrashing_.each_end_of_pin(now_ns(), [&](uint64_t page) {
    each_block({page, page + kPage}, [&](Block& block, Pages pages) { return recall_all(block, pages); });
  });
}

void Driver::before_launch(Processor p, bool waits) {
  launched_[p] = now_ns(); // the CPU has done with what it had before
  end_pins();
  if (devices_[p]->idle()) waits_[p] = false;
  devices_[p]->start();
  if (async_ && waits) {
    waits_[p] = any_waits_ = true;
    part_from_devices();
  }
  if (devices_[p]->any_left()) take_left(p);
}

// The CPU keeps its copies, which are the newest, and devices lose theirs.
void Driver::part_from_devices() {
  for (uint32_t slot = 0; slot < directory_.size(); ++slot) {
    Block& block = directory_.at(slot);
    if (!any_shared(block, directory_.outline(block.address))) continue;
    const int error = each_block(block.all(), [&](Block&, Pages all) {
      return each_run(block, all, [&](Pages run) {
        return shared_unguarded(block.page(run.begin)) ? part(block, run) : 0;
      });
    });
    if (error)
      fatal("copies of pages at 0x%lx cannot be taken from a device: %s", block.address, strerror(error));
  }
}

// The CPU has the pages alone afterwards, and may write them unless they are watched. What its page table
// still notes of stores is of no interest then, and hinders nobody.
int Driver::part(Block& block, Pages run) {
  for (Processor q = 1; q < processors(); ++q) {
    const Transition t = eviction(block.page(run.begin), q);
    if (t.step != Step::Drop) continue;
    if (int error = perform(block, run, t, {kCpu, Access::Read, Cause::Launch})) return error;
  }
  const PageState alone = block.page(run.begin);
  if (!alone.watched()) commit(block, run, transition(alone, kCpu, Access::Write, protocol()).next);
  return 0;
}

} // namespace hmm
