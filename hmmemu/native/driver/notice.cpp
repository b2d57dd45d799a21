// Driver: stores of the CPU that are not caught but noticed afterwards (Tracker::Async).
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
  bool moving = false;            // some of the block are locked, or have other owners to look at
  bool some = false, all = false; // the CPU may read them, and stores to them are not caught
};

Glance glance(Block& block, Pages pages, bool with_owners) {
  std::lock_guard guard(block.lock);
  const auto [any, all] = block.summary();
  const bool moving = block.locked != 0 || (with_owners && PageState(any).several());
  if (any == all) { // most blocks
    const bool all_readable = readable(PageState(all));
    return {moving, all_readable, all_readable};
  }
  Glance seen{moving, false, true};
  for (uint64_t a = pages.begin; a < pages.end; a += kPage)
    if (readable(block.page(a)))
      seen.some = true;
    else
      seen.all = false;
  return seen;
}

constexpr uint64_t kWorthThreads = 8 * 1024 * 1024;

} // namespace

void Driver::notice_writes(Pages pages, bool update, bool with_owners) {
  if (!async_) return;
  Pages whole{pages.begin, pages.begin}; // not scanned yet; nothing else lies in between
  const auto scan = [&] {
    const int error = async_->scan(whole);
    if (error == EPERM) { // some left the space, or got another tracker, since the glance
      for (uint64_t a = whole.begin; a < whole.end; a = block_down(a) + kBlock)
        notice_block(*directory_.find(a), {a, std::min(whole.end, block_down(a) + kBlock)}, update);
    } else if (error) {
      scan_failed(whole, error);
    }
  };
  for (uint64_t a = pages.begin; a < pages.end; a = block_down(a) + kBlock) {
    const Pages part{a, std::min(pages.end, block_down(a) + kBlock)};
    const uint64_t outline = directory_.outline(a);
    const bool others = with_owners && PageState(outline).several();
    if (outline && !others && readable(PageState(outline))) {
      whole.end = part.end;
      continue;
    }
    Block* block = directory_.find(a);
    const Glance seen = block ? glance(*block, part, with_owners) : Glance{};
    if (!seen.moving && seen.all) {
      whole.end = part.end;
      continue;
    }
    scan();
    whole = {part.end, part.end};
    if (seen.moving || seen.some) notice_block(*block, part, update);
  }
  scan();
  if (async_->found_pages()) tell_found(pages, update);
  // Another thread may have found some of it first.
  if (async_->telling()) each_block(pages, [](Block&, Pages) { return 0; });
}

void Driver::notice_all_writes(bool update) {
  if (!async_) return;
  for (uint32_t slot = 0; slot < directory_.size();) {
    Pages run{directory_.address(slot), directory_.address(slot) + kBlock};
    while (++slot < directory_.size() && directory_.address(slot) == run.end) run.end += kBlock;
    notice_writes(run, update, false); // all owners have their turn
  }
}

void Driver::notice_block(Block& block, Pages pages, bool update) {
  until_free([&] {
    const Pages locked = PageLocks::lock(block, pages);
    const int error = notice_locked(block, locked, update);
    check(block);
    unlock(block, locked);
    return error;
  });
}

// Tells what scans have found in the range.
void Driver::tell_found(Pages pages, bool update) {
  const auto tell = [&](Pages part) {
    DeviceUpdate news{.begin = now_ns()};
    Pages last; // is told when the next one is known, and on its way into the caches
    const auto tell_last = [&] {
      if (!last.empty()) tell_block(*directory_.find(last.begin), last, update ? &news : nullptr);
    };
    for (uint64_t a = part.begin; a < part.end; a = block_down(a) + kBlock)
      if (Block* block = directory_.find(a); block && async_->found(*block)) {
        async_->fetch(*block);
        tell_last();
        last = {a, std::min(part.end, block_down(a) + kBlock)};
      }
    tell_last();
    count(news);
    return 0;
  };
  // Threads only where there is much to copy: to start them takes as long as a hundred pages.
  async_->found_pages() * kPage < kWorthThreads ? tell(pages) : in_parallel(pages, tell);
}

void Driver::tell_block(Block& block, Pages pages, DeviceUpdate* news) {
  until_free([&] {
    const PageSet found = async_->peek(block, pages);
    if (found.empty()) return 0;
    PageLocks::lock(block, found);
    async_->tell();
    const PageSet mine = async_->take_found(block, found); // another thread may have been faster
    const int error = tell_locked(block, mine, news);
    check(block);
    unlock(block, found);
    async_->told();
    return error;
  });
}

// With the pages locked: what was written to them, through any owner, known already or not. 0 or EDEADLK.
int Driver::notice_locked(Block& block, Pages pages, bool update) {
  if (!async_) return 0;
  DeviceUpdate made{.begin = now_ns()};
  DeviceUpdate* news = update ? &made : nullptr;
  const int error = each_run(block, pages, [&](Pages run) {
    if (!block.page(run.begin).several()) return notice_own(block, run, news);
    return with_owners(block, run, [&](Pages piece, OtherOwners& others) {
      int failed = notice_own(block, piece, news);
      for (OtherOwners::Run& other : others)
        if (!failed) failed = notice_own(*other.block, other.pages, news);
      return failed;
    });
  });
  count(made);
  return error;
}

int Driver::notice_own(Block& block, Pages pages, DeviceUpdate* news) {
  return each_run(block, pages, [&](Pages run) {
    if (!readable(block.page(run.begin))) return 0;
    PageSet written;
    if (int error = async_->written(block, run, written)) scan_failed(run, error);
    const int error = tell_locked(block, written, news);
    async_->told();
    return error;
  });
}

// `news`: devices get the new content and keep their copies, else they lose them. 0 or EDEADLK.
int Driver::tell_locked(Block& block, const PageSet& written, DeviceUpdate* news) {
  PageSet told;
  written.each_run([&](unsigned begin, unsigned end) {
    for (unsigned i = begin; i < end; ++i)
      if (readable(block.pages[i])) told.set(i);
  });
  int error = 0;
  told.each_run([&](unsigned begin, unsigned end) {
    const Pages pages = block.range(begin, end);
    const int failed = each_run(block, pages, [&](Pages run) { return tell_run(block, run, news); });
    if (!failed) return;
    async_->note(pages); // found again the next time; a page too many does no harm
    error = failed;
  });
  return error;
}

// Where pages have other owners, all other copies go.
int Driver::tell_run(Block& block, Pages run, DeviceUpdate* news) {
  if (block.page(run.begin).several()) {
    const int error = step(block, run, {kCpu, Access::Write, Cause::Launch});
    if (error && error != EDEADLK)
      fatal("page 0x%lx: cannot tell its other owners what was written: %s", run.begin, strerror(error));
    return error;
  }
  if (block.page(run.begin).watched()) notify(block, run);
  if (!news || !update_devices(block, run, *news)) cpu_wrote(block, run);
  return 0;
}

// A store to Shared pages of the CPU, after the fact: the other copies go.
void Driver::cpu_wrote(Block& block, Pages run) {
  const Transition t = transition(block.page(run.begin), kCpu, Access::Write, protocol());
  if (t.step != Step::None && perform(block, run, t, {kCpu, Access::Write, Cause::Launch}) != 0)
    fatal("page 0x%lx: copies of what the CPU wrote cannot be taken back", run.begin);
}

// Gives all devices that have a copy the CPU's content; everybody's rights stay as they are. False: it cannot
// be had.
bool Driver::update_devices(Block& block, Pages run, DeviceUpdate& news) {
  const PageState state = block.page(run.begin);
  StagingPool::Use staging(staging_);
  const std::byte* now = table(kCpu, state).frames(block, run, *staging);
  if (!now) return false;
  for (Processor p = 1; p < processors(); ++p) {
    if (state.hold(p) == Hold::Invalid) continue;
    news.moved[p].add(run.count());
    if (tables_[p]->update(block, run, now) != 0) return false;
  }
  return true;
}

void Driver::count(const DeviceUpdate& news) {
  const uint64_t spent = now_ns() - news.begin;
  for (Processor p = 1; p < processors(); ++p) {
    if (!news.moved[p].moves) continue;
    counters_.transfer[kCpu][p].add(news.moved[p], true, Cause::Launch);
    counters_.transfer[kCpu][p].ns.add(spent);
  }
}

} // namespace hmm
