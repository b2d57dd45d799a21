// Driver, fourth part: stores of the CPU that are not caught but noticed afterwards (Tracker::Async).
//
// Two ways. Pages that somebody has locked anyway are asked for each run (notice_locked). At launches and
// calls, whole ranges are looked at without locks (notice_writes), in few system calls, and then only what
// was written is locked.
//
// INVARIANT: when notice_writes returns, every store that was made before it was called to a page that the
// CPU may read and others have too has been told: to them, and to the page's protectors. It holds for these
// reasons:
//   - a page that nobody has locked and that the CPU may read is in the scan;
//   - a page that somebody has locked is waited for (notice_block), and what was written is found then;
//   - a store that another thread found, and tells of at this moment, is waited for (AsyncTable::telling).
#include "driver/driver.h"

#include "driver/parallel.h"

#include <cerrno>
#include <cstring>

namespace hmm {
namespace {

bool readable(PageState state) {
  return state.tracker() == Tracker::Async && state.hold(kCpu) == Hold::Shared;
}

[[noreturn]] void scan_failed(Pages pages, int error) {
  fatal("page 0x%lx: cannot tell what was written: %s", pages.begin, strerror(error));
}

// Pages of a block as somebody sees them who has locked nothing.
struct Glance {
  bool moving;       // some are locked
  uint64_t readable; // so many
};
Glance glance(Block& block, Pages pages) {
  const PageState* page = &block.page(pages.begin);
  uint64_t locked = 0, found = 0;
  for (uint64_t i = 0; i < pages.count(); ++i) {
    const PageState state(__atomic_load_n(reinterpret_cast<const uint64_t*>(page + i), __ATOMIC_RELAXED));
    locked += state.locked();
    found += readable(state);
  }
  return {locked != 0, found};
}
static_assert(sizeof(PageState) == sizeof(uint64_t));

constexpr uint64_t kWorthThreads = 8 * 1024 * 1024;

} // namespace

void Driver::notice_writes(Pages pages, bool update) {
  if (!async_) return;
  Pages whole{pages.begin, pages.begin}; // not scanned yet; nothing else lies in between
  const auto scan = [&] {
    if (int error = async_->scan(whole)) scan_failed(whole, error);
  };
  for (uint64_t a = pages.begin; a < pages.end; a = block_down(a) + kBlock) {
    const Pages part{a, std::min(pages.end, block_down(a) + kBlock)};
    Block* block = directory_.find(a);
    const Glance seen = block ? glance(*block, part) : Glance{false, 0};
    if (!seen.moving && seen.readable == part.count()) {
      whole.end = part.end;
      continue;
    }
    scan();
    whole = {part.end, part.end};
    if (seen.moving || seen.readable) notice_block(*block, part, update);
  }
  scan();
  tell_found(pages, update);
  // Another thread may have found some of it first.
  if (async_->telling()) each_block(pages, [](Block&, Pages) { return 0; });
}

void Driver::notice_all_writes(bool update) {
  if (!async_) return;
  for (uint32_t slot = 0; slot < directory_.size();) {
    Pages run{directory_.at(slot).address, directory_.at(slot).address + kBlock};
    while (++slot < directory_.size() && directory_.at(slot).address == run.end) run.end += kBlock;
    notice_writes(run, update);
  }
}

void Driver::notice_block(Block& block, Pages pages, bool update) {
  pages = PageLocks::lock(block, pages);
  notice_locked(block, pages, update);
  check(block);
  unlock(block, pages);
}

// Tells what scans have found in the range.
void Driver::tell_found(Pages pages, bool update) {
  const auto tell = [&](Pages part) {
    for (uint64_t a = part.begin; a < part.end; a = block_down(a) + kBlock)
      if (Block* block = directory_.find(a); block && async_->found_pages(*block))
        tell_block(*block, {a, std::min(part.end, block->address + kBlock)}, update);
    return 0;
  };
  // Threads only where there is much to copy: to start them takes as long as a hundred pages.
  uint64_t count = 0;
  for (uint64_t a = pages.begin; a < pages.end; a = block_down(a) + kBlock)
    if (const Block* block = directory_.find(a)) count += async_->found_pages(*block);
  count* kPage < kWorthThreads ? tell(pages) : in_parallel(pages, tell);
}

void Driver::tell_block(Block& block, Pages pages, bool update) {
  const PageSet found = async_->peek(block);
  for_runs(block, pages, found, [&](Pages run) {
    run = PageLocks::lock(block, run);
    const PageSet mine = async_->take_found(block, run); // another thread may have been faster
    tell_locked(block, run, mine, update);
    check(block);
    unlock(block, run);
  });
}

// With the pages locked: what was written to them, known already or not.
void Driver::notice_locked(Block& block, Pages pages, bool update) {
  if (!async_) return;
  each_run(block, pages, [&](Pages run) {
    if (!readable(block.page(run.begin))) return 0;
    PageSet written;
    if (int error = async_->written(block, run, written)) scan_failed(run, error);
    tell_locked(block, run, written, update);
    async_->told();
    return 0;
  });
}

void Driver::tell_locked(Block& block, Pages pages, const PageSet& written, bool update) {
  for_runs(block, pages, written, [&](Pages run) {
    each_run(block, run, [&](Pages part) {
      if (readable(block.page(part.begin))) cpu_wrote(block, part, update);
      return 0;
    });
  });
}

// A store to Shared pages of the CPU, after the fact: protectors hear of it, and the other copies follow.
void Driver::cpu_wrote(Block& block, Pages run, bool update) {
  if (int error = unmerge(block, run)) // what was written is a private copy
    fatal("page 0x%lx, written while it was merged: %s", run.begin, strerror(error));
  if (block.page(run.begin).watched()) notify(block, run);
  const PageState state = block.page(run.begin);
  if (update) {
    if (update_others(block, run) == 0) return;
  }
  const Transition t = transition(state, kCpu, Access::Write, policy_.protocol);
  if (t.step != Step::None && perform(block, run, t, {kCpu, Access::Write, Cause::Launch}) != 0)
    fatal("page 0x%lx: copies of what the CPU wrote cannot be taken back", run.begin);
}

// Gives all devices that have a copy the CPU's content; everybody's rights stay as they are.
int Driver::update_others(Block& block, Pages run) {
  const uint64_t begin = now_ns();
  const PageState state = block.page(run.begin);
  StagingPool::Use staging(staging_);
  const std::byte* now = table(kCpu, state).frames(block, run, *staging);
  if (!now) return ENXIO;
  for (Processor p = 1; p < processors(); ++p) {
    if (state.hold(p) == Hold::Invalid) continue;
    TransferCounters& count = counters_.transfer[kCpu][p];
    count.add(run.count(), true, Cause::Launch);
    if (int error = tables_[p]->update(block, run, now)) return error;
    count.ns.add(now_ns() - begin);
  }
  return 0;
}

} // namespace hmm
