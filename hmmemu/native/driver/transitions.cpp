// Driver: transitions of pages, from an access to what the page tables do.
//
// `access_locked` takes pages of one block in runs that are alike, asks the protocol what the access needs
// (`step`), and does it: takes rights or content from those who have them, then gives them to whoever asked
// (`perform`, `migrate`). Pages that are merged, remote, or of several owners go their own ways first
// (merge.cpp, remote.cpp, owners.cpp), and so does what a protector watches (protect.cpp).
//
// INVARIANTS
//   - Rights are taken before others are given: nobody can write while somebody else reads an older copy.
//   - The directory is told last (`commit`). Where a step fails before, the page tables grant what the state
//     says, or less; content that was taken and could not be given finds a `give_refuge`.
// LOCKS: the caller has the pages locked.
#include "driver/driver.h"

#include <cerrno>
#include <cstring>

namespace hmm {
namespace {

// To protect these bytes once more costs no more than another system call; mprotect passes by what is
// protected.
uint64_t gap_of(PageState state) { return state.tracker() == Tracker::Uffd ? 32 * kPage : kBlock; }

} // namespace

// Where a device is to read pages that the CPU writes, scattered among others that it reads: one protection
// for those that lie near to each other. What fails here is tried again page by page, and is an error there.
void Driver::protect_ahead(Block& block, Pages pages, Request request) {
  if (request.p == kCpu || request.access != Access::Read || !policy_.protocol.read_duplication) return;
  Pages near{pages.begin, pages.begin}; // from a page that the CPU writes to another
  unsigned runs = 0;
  const auto protect = [&] {
    const PageState first = block.page(near.begin);
    if (runs > 1 && table(kCpu, first).protect(block, near) == 0)
      change(block, near, [](PageState& state) { state.set(kCpu, Hold::Shared); });
    runs = 0;
  };
  for (uint64_t a = pages.begin; a < pages.end; a += kPage) {
    const PageState state = block.page(a);
    const bool can = state.hold(kCpu) != Hold::Invalid && !state.merged() && !state.remote() &&
                     state.tracker() != Tracker::Async;
    if (runs && (!can || !state.same_memory(block.page(near.begin)) || a - near.end > gap_of(state)))
      protect();
    if (!can || state.hold(kCpu) != Hold::Exclusive) continue;
    if (!runs) near = {a, a};
    runs += !runs || near.end != a;
    near.end = a + kPage;
  }
  if (runs) protect();
}

int Driver::access_locked(Block& block, Pages pages, Request request) {
  if (request.p != kCpu) {
    std::lock_guard guard(block.lock);
    block.upgrades.taken();
    block.fetches.taken();
    rounds_.taken();
  }
  protect_ahead(block, pages, request);
  return each_run(block, pages, [&](Pages run) {
    PageState state = block.page(run.begin);
    if (!state.managed()) return 0;
    if (transition(state, request.p, request.access, protocol()).step == Step::None) return 0;
    if (state.tracker() == Tracker::Async && request.p != kCpu) {
      if (int error = notice_locked(block, run, false))
        return error; // what the CPU wrote; pages may differ now
      return each_run(block, run, [&](Pages part) { return step(block, part, request); });
    }
    return step(block, run, request);
  });
}

// One access to pages that are alike.
int Driver::step(Block& block, Pages run, Request request) {
  return as_far_as_mapped(block, run, [&](Pages part) { return step_at_once(block, part, request); });
}

int Driver::step_at_once(Block& block, Pages run, Request request) {
  if (request.access != Access::Read && request.p != kCpu && block.page(run.begin).read_only()) return EPERM;
  if (request.grown && block.page(run.begin).watched()) request.access = Access::Read;
  if (block.page(run.begin).several()) return step_with_owners(block, run, request);
  Transition t = transition(block.page(run.begin), request.p, request.access, protocol());
  if (t.step == Step::Notify) {
    if (int error = notify(block, run)) return error;
    t = transition(block.page(run.begin), request.p, request.access, protocol());
  }
  if (t.step == Step::None) return 0;
  if (is_over_the_link(t)) return over_the_link(block, run, t, request);
  if (block.page(run.begin).merged() && t.step != Step::Duplicate) return break_first(block, run, request);
  return request.p != kCpu && hides(block, run) ? ENXIO : act(block, run, t, request);
}

// Performs a transition, on a device with room made for it first.
int Driver::act(Block& block, Pages run, const Transition& t, Request request) {
  const Processor p = request.p;
  if (p == kCpu || t.step == Step::Upgrade) return perform(block, run, t, request);
  if (!capacity_[p]) return act_with_memory(block, run, t, request);
  const uint64_t need = devices_[p]->missing(block, run);
  reserved_[p].fetch_add(need);
  int error = need ? make_room(p) : 0;
  if (!error) error = act_with_memory(block, run, t, request);
  reserved_[p].fetch_sub(need);
  return error;
}

// What could not be given went to the CPU or stayed where it was: so the protocol is asked again, and the
// device keeps no frames for it.
int Driver::act_with_memory(Block& block, Pages run, Transition t, Request request) {
  return with_memory(request.p, [&] {
    const int error = perform(block, run, t, request);
    if (error != ENOMEM || !devices_[request.p]->has_own_memory()) return error;
    t = transition(block.page(run.begin), request.p, request.access, protocol());
    const int released = devices_[request.p]->release(block, run);
    return released ? released : error;
  });
}

int Driver::perform(Block& block, Pages run, const Transition& t, Request request) {
  if (request.p == kCpu)
    if (int error = keep_content(block, run)) return error;
  PageTable& mine = table(request.p, t.next);
  ProcessorCounters& count = counters_.processor[request.p];
  switch (t.step) {
  case Step::None:
  case Step::Notify:
  case Step::Admit:
  case Step::Recall:
  case Step::Home:
  case Step::Remote:
  case Step::Exclude:
    return 0;
  case Step::FirstTouch:
    count.first_touch_pages.add(run.count());
    if (int error = mine.zero(block, run, request.access, t.next.hold(request.p) == Hold::Exclusive))
      return error;
    break;
  case Step::Drop:
    if (int error = zap_others(block, run, t.zap)) return error;
    break;
  case Step::Upgrade:
    if (request.p != kCpu && t.next.kind().file) {
      StagingPool::Use staging(staging_);
      remember(block, run, request.p, mine.frames(block, run, *staging));
    }
    if (int error = zap_others(block, run, t.zap)) return error;
    count.upgraded_pages.add(run.count());
    if (int error = mine.unprotect(block, run)) return error;
    break;
  case Step::Duplicate:
  case Step::Migrate:
    return migrate(block, run, t, request);
  }
  commit(block, run, t.next);
  return 0;
}

int Driver::migrate(Block& block, Pages run, const Transition& t, Request request) {
  const uint64_t begin = now_ns();
  PageTable &mine = table(request.p, t.next), &theirs = table(t.source, t.next);
  TransferCounters& count = counters_.transfer[t.source][request.p];
  count.add(run.count(), t.step == Step::Duplicate, request.cause);
  const bool writable = t.next.hold(request.p) == Hold::Exclusive;
  StagingPool::Use staging(staging_);
  int error = 0;
  if (t.step == Step::Duplicate) {
    if (t.protect) error = theirs.protect(block, run);
    const std::byte* content = error ? nullptr : frames(t.source, block, run, *staging);
    if (!error) error = content ? mine.install(block, run, content, false) : ENXIO;
    if (error == ENOENT && request.p == kCpu) return install_mapped(block, run, content, t.next);
  } else {
    counters_.processor[t.source].invalidated_pages.add(run.count());
    const std::byte* content = theirs.take(block, run, t.protect, *staging);
    if (!content) return errno;
    remember(block, run, request.p, content);
    error = zap_others(block, run, t.zap & ~(1u << t.source));
    if (!error) error = mine.install(block, run, content, writable);
    if (error == ENOENT && request.p == kCpu) return install_mapped(block, run, content, t.next);
    if (error && !(request.p == kCpu && is_lost(t.next, error)))
      give_refuge(block, run, request.p == kCpu ? t.source : kCpu, content, writable, t.next);
  }
  if (error && request.p == kCpu && is_lost(t.next, error)) { // behind the end; the rest has been written
    lose(block, run);
    return 0;
  }
  if (error) return error;
  commit(block, run, t.next);
  count.ns.add(now_ns() - begin);
  return 0;
}

// The content of pages that were taken from one processor and could not be given to the next: somebody has
// it, so that nothing is lost.
void Driver::give_refuge(Block& block, Pages run, Processor p, const std::byte* content, bool writable,
                         PageState state) {
  if (table(p, state).install(block, run, content, writable) != 0) return;
  state.set_holds(0);
  state.set(p, writable ? Hold::Exclusive : Hold::Shared);
  commit(block, run, state);
}

int Driver::zap_others(Block& block, Pages run, uint16_t processors) {
  for (Processor q = 0; processors; ++q, processors >>= 1) {
    if (!(processors & 1)) continue;
    if (int error = table(q, block.page(run.begin)).zap(block, run)) return error;
    counters_.processor[q].invalidated_pages.add(run.count());
  }
  return 0;
}

void Driver::commit(Block& block, Pages run, PageState next) {
  change(block, run, [next](PageState& state) { state.set_holds(next.holds()); });
}

// The program has unmapped the pages without telling us (munmap; numpy 2.5 frees an array's data before it
// says that the array is gone), and their content with them: every other copy goes, too.
void Driver::forget_gone(Block& block, Pages run) {
  if (block.page(run.begin).merged()) forget_merged(block, run);
  if (int error = lose_remote(run, block.page(run.begin)))
    fatal("pages at 0x%lx cannot be taken from a device: %s", run.begin, strerror(error));
  for (Processor q = 1; q < processors(); ++q) tables_[q]->release(block, run);
  cpu_table(block.page(run.begin).tracker()).forget_taken(block, run);
  change(block, run, [](PageState& state) {
    state.set_holds(0);
    state.set_watched(false);
    state.set_gone(true);
  });
}

// Content that comes home to pages of which a part is gone.
int Driver::install_mapped(Block& block, Pages run, const std::byte* content, PageState next) {
  int result = 0;
  const uint64_t step = next.huge() ? kBlock : kPage;
  for (uint64_t a = run.begin; a < run.end; a += step, content += step) {
    const Pages page{a, a + step};
    const int error = table(kCpu, next).install(block, page, content, next.hold(kCpu) == Hold::Exclusive);
    if (error == ENOENT)
      forget_gone(block, page), result = EFAULT;
    else if (error && error != EEXIST) // EEXIST: it came home before the part that is gone was found
      return error;
    else
      commit(block, page, next);
  }
  return result;
}

} // namespace hmm
