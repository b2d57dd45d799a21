#include "driver/driver.h"

#include "driver/parallel.h"
#include "os/segv.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace hmm {
namespace {

// To protect these bytes once more costs no more than another system call; mprotect passes by what is
// protected.
uint64_t gap_of(PageState state) { return state.tracker() == Tracker::Uffd ? 32 * kPage : kBlock; }

} // namespace

Driver::Driver(Policy policy, Tracker tracker)
    : policy_(policy), tracker_(tracker),
      uffd_(tracker == Tracker::Signal ? Userfaultfd() : Userfaultfd::open(tracker == Tracker::Async)),
      sync_(tracker == Tracker::Async ? Userfaultfd::open() : Userfaultfd()), aliases_(directory_) {
  if (tracker != Tracker::Signal)
    cpu_[static_cast<unsigned>(Tracker::Uffd)] =
        &host_.emplace(tracker == Tracker::Async ? sync_ : uffd_, aliases_);
  if (tracker == Tracker::Async)
    cpu_[static_cast<unsigned>(tracker)] = &async_.emplace(uffd_, aliases_, directory_);
  if (tracker == Tracker::Signal) use_signals();
  if (!cpu_[static_cast<unsigned>(tracker)])
    throw Failure(FailureKind::Unsupported, "this version does not have this tracker yet");
}

Driver::~Driver() { segv::remove(this); }

void Driver::check([[maybe_unused]] Block& block) const {
#ifdef HMMEMU_CHECK
  std::lock_guard guard(block.lock);
  for (unsigned i = 0; i < kPagesPerBlock; ++i)
    if (const char* rule = block.pages[i].locked() ? nullptr : broken_rule(block.pages[i]))
      fatal("page 0x%lx, state 0x%lx: %s", block.address + i * kPage, block.pages[i].word(), rule);
#endif
}

int Driver::access(Pages pages, Processor p, Access access, Cause cause) {
  if (crowded()) pages = {block_down(pages.begin), block_down(pages.end + kBlock - 1)};
  const auto done = [&](Pages part) { return granted(part, p, access); };
  return in_parallel(without_ends(pages, done), [&](Pages part) {
    if (done(part)) return 0;
    return until_room([&] {
      return each_block(part, [&](Block& block, Pages inner) {
        if (p != kCpu) // it asks for pages, not to look at the CPU's
          if (int error = recall_all(block, inner)) return error;
        return access_locked(block, inner, {p, access, cause});
      });
    });
  });
}

// Whether `p` has the right already; part of a block.
bool Driver::granted(Pages part, Processor p, Access access) {
  const auto has = [=](uint64_t all) {
    const Hold hold = PageState(all).hold(p); // not Remote: who asks for pages wants them there
    return hold == Hold::Exclusive || (access == Access::Read && hold == Hold::Shared);
  };
  if (const uint64_t outline = directory_.outline(part.begin)) return has(outline);
  Block* block = directory_.find(part.begin);
  if (!block) return true;
  std::lock_guard guard(block->lock);
  const auto [any, all] = block->summary();
  return has(all) && !PageState(any).remote() && !block->locked;
}

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

// Performs a transition, on a device with room made for it first.
int Driver::act(Block& block, Pages run, const Transition& t, Request request) {
  const Processor p = request.p;
  if (p == kCpu || !capacity_[p] || t.step == Step::Upgrade) return perform(block, run, t, request);
  const uint64_t need = devices_[p]->missing(block, run);
  reserved_[p].fetch_add(need);
  int error = need ? make_room(p) : 0;
  if (!error) error = perform(block, run, t, request);
  reserved_[p].fetch_sub(need);
  return error;
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

int Driver::bring_home(Block& block, Pages pages) {
  // Untouched pages stay so: zeros everywhere already, unless another owner of theirs has what they hold.
  for (uint64_t a = pages.begin; a < pages.end;) {
    Pages run{a, a + kPage};
    const auto touched = [&](uint64_t page) {
      return !block.page(page).untouched() || block.page(page).several();
    };
    while (run.end < pages.end && touched(run.end) == touched(a)) run.end += kPage;
    if (touched(a))
      if (int error = bring_home_run(block, run)) return error;
    a = run.end;
  }
  return 0;
}

// 0 or EDEADLK.
int Driver::bring_home_run(Block& block, Pages run) {
  return each_run(block, run, [&](Pages part) {
    const PageState state = block.page(part.begin);
    const bool kept = state.watched() || state.several();
    const int error = state.remote()   ? recall_all(block, part)
                      : state.merged() ? bring_home_merged(block, part)
                      : kept           ? bring_home_watched(block, part)
                                       : access_locked(block, part, {kCpu, Access::Write, Cause::Home});
    // Those are gone, or lie behind the end of an object that has become shorter.
    if (!error || error == EFAULT || error == ENXIO) return 0;
    if (error != EDEADLK) fatal("pages at 0x%lx cannot be brought home: %s", part.begin, strerror(error));
    return error;
  });
}

// Coming home is no write: the protectors stay armed, other owners keep their rights to read, and of these
// pages the CPU alone has a Shared copy.
int Driver::bring_home_watched(Block& block, Pages run) {
  if (int error = access_locked(block, run, {kCpu, Access::Read, Cause::Home})) return error;
  return each_run(block, run, [&](Pages part) {
    PageState next = block.page(part.begin);
    for (Processor q = 1; q < processors(); ++q)
      if (next.hold(q) != Hold::Invalid) {
        if (int error = zap_others(block, part, 1u << q)) return error;
        next.set(q, Hold::Invalid);
      }
    commit(block, part, next);
    return 0;
  });
}

void Driver::mark_viewed(Pages pages, bool viewed) {
  each_block(pages, [&](Block& block, Pages part) {
    change(block, part, [viewed](PageState& state) { state.set_viewed(viewed && state.managed()); });
    return 0;
  });
}

void Driver::discard(Pages pages) {
  const int error = each_block(pages, [&](Block& block, Pages part) {
    const bool inside = part.begin >= pages.begin && part.end <= pages.end; // else others use the huge page
    return inside ? release_everywhere(block, part) : 0;
  });
  if (error == ENOENT || error == ENXIO || error == EFAULT)
    throw Failure(FailureKind::Range, "cannot discard: a part of the memory is not mapped any more");
  if (error) throw Failure(FailureKind::Error, std::string("discard failed: ") + strerror(error));
}

// No copy is left anywhere, nor memory that a device keeps for these pages; they are as if never touched.
int Driver::release_everywhere(Block& block, Pages pages) {
  return each_run(block, pages, [&](Pages run) {
    if (!block.page(run.begin).managed()) return 0;
    if (block.page(run.begin).several()) {
      if (int error = step(block, run, {kCpu, Access::Write, Cause::Home})) return error;
    } else if (block.page(run.begin).watched()) { // to forget the content is to write zeros
      if (int error = notify(block, run)) return error;
    }
    if (int error = unmerge(block, run)) return error;
    if (int error = recall_all(block, run)) return error;
    // What a GPU has may come to the CPU's frames: before they go. All others last: if the frames cannot go,
    // nothing is lost.
    const unsigned n = processors();
    for (Processor q = 1; q < n; ++q)
      if (devices_[q]->uses_objects() && block.page(run.begin).in_object())
        if (int error = tables_[q]->release(block, run)) return error;
    for (Processor q = 0; q < n; ++q)
      if (int error = table(q, block.page(run.begin)).release(block, run)) return error;
    change(block, run, [](PageState& state) { state.set_holds(0); });
    return 0;
  });
}

int Driver::transfer(Processor p, uint64_t address, uint64_t bytes, void* data, Access access) {
  Mapping buffer(kStagingBytes); // `data` may be managed itself: never touched under a lock
  auto* user = static_cast<std::byte*>(data);
  uint64_t most = kStagingBytes; // less where the range has two owners of one page
  while (bytes) {
    const uint64_t room = kStagingBytes - (address & (kPage - 1));
    const uint64_t to_block_end = block_down(address) + kBlock - address;
    const uint64_t n = std::min({bytes, room, to_block_end, most});
    if (access == Access::Write) std::memcpy(buffer.as<void>(), user, n);
    const Pages pages = Pages::covering(address, n);
    int error = until_room([&] {
      return each_block(pages, [&](Block& block, Pages part) {
        for (uint64_t a = part.begin; a < part.end; a += kPage)
          if (!block.page(a).managed()) return EFAULT;
        if (int failed = recall_files(block, part)) return failed;
        if (int failed = access_locked(block, part, {p, access, Cause::Fault})) return failed;
        return copy_locked(block, part, p, access, address, n, buffer.as<std::byte>());
      });
    });
    if (!error && !directory_.find(address)) error = EFAULT;
    if (error == ERANGE && pages.count() > 1) {
      most = page_down(address) + kPage - address;
      continue;
    }
    if (error) return error;
    if (access == Access::Read) std::memcpy(user, buffer.as<void>(), n);
    address += n, user += n, bytes -= n, most = kStagingBytes;
  }
  return 0;
}

// Between `buffer` and the pages, which `p` may access that way. ERANGE: one took another's rights away.
int Driver::copy_locked(Block& block, Pages pages, Processor p, Access access, uint64_t address,
                        uint64_t bytes, std::byte* buffer) {
  StagingPool::Use staging(staging_);
  return each_run(block, pages, [&](Pages run) {
    if (block.page(run.begin).hold(p) == Hold::Invalid) return ERANGE;
    const bool remote = block.page(run.begin).hold(p) == Hold::Remote;
    const std::byte* frames =
        remote ? lent_frames(block, run, *staging) : this->frames(p, block, run, *staging);
    if (!frames) return ENXIO;
    const uint64_t begin = std::max(run.begin, address), end = std::min(run.end, address + bytes);
    auto* at = const_cast<std::byte*>(frames) + (begin - run.begin);
    if (access == Access::Write) {
      std::memcpy(at, buffer + (begin - address), end - begin);
      if (p != kCpu) devices_[p]->wrote(run);
    } else
      std::memcpy(buffer + (begin - address), at, end - begin);
    return 0;
  });
}

void Driver::snapshot(Pages pages, uint64_t* words) {
  Mapping buffer(page_up(kPagesPerBlock * sizeof(uint64_t)));
  for (uint64_t a = pages.begin; a < pages.end;) {
    const Pages part{a, std::min(pages.end, block_down(a) + kBlock)};
    std::memset(buffer.as<void>(), 0, part.count() * sizeof(uint64_t));
    // Locked first: who was served a moment ago must find it said here.
    each_block(part, [&](Block& block, Pages) {
      std::memcpy(buffer.as<void>(), &block.page(part.begin), part.count() * sizeof(uint64_t));
      return 0;
    });
    std::memcpy(words + (a - pages.begin) / kPage, buffer.as<void>(), part.count() * sizeof(uint64_t));
    a = part.end;
  }
}

uint64_t Driver::device_bytes(Processor p) const { return devices_[p] ? devices_[p]->frame_bytes() : 0; }

} // namespace hmm
