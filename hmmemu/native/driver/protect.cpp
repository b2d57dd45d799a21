// Driver: protectors.
//
// LOCKS: registration and the end of protectors under the range lock. The table of protectors is read by
// whoever has a watched page locked; so when `drop` has taken an entry out and then locked every page of its
// range once, nobody uses the protector any more.
#include "driver/driver.h"

#include <cerrno>
#include <cstring>

namespace hmm {
namespace {

// Calls act(part, kept) for each run of pages on which the protector is armed, and has the content or not.
template <class Act> void for_armed(const Protector& p, Pages run, Act act) {
  const Pages mine{std::max(run.begin, p.range().begin), std::min(run.end, p.range().end)};
  for (Pages part{mine.begin, mine.begin}; part.begin < mine.end; part = {part.end, part.end}) {
    const bool armed = p.armed(part.begin), kept = p.kept(part.begin);
    do part.end += kPage;
    while (part.end < mine.end && p.armed(part.end) == armed && p.kept(part.end) == kept);
    if (armed) act(part, kept);
  }
}

} // namespace

// -------------------------------------------------------------------------------------------------
// protectors

void Driver::watch(Protector& protector) {
  std::lock_guard guard(ranges_);
  if (protectors_end_ == kMostProtectors) close_protector_holes();
  const unsigned end = protectors_end_;
  if (end == kMostProtectors)
    throw Failure(FailureKind::Error, "more than 1024 protectors in one address space: drop some");
  protectors_[end].store(&protector, std::memory_order_release);
  protectors_end_.store(end + 1, std::memory_order_release);
}

// Whoever walks over the table has pages locked: with all pages locked, nobody does.
void Driver::close_protector_holes() {
  lock_everything();
  unsigned kept = 0;
  for (auto& slot : protectors_)
    if (Protector* p = slot.exchange(nullptr)) protectors_[kept++] = p;
  protectors_end_ = kept;
  unlock_everything();
}

void Driver::arm(Protector& protector, Pages pages) {
  std::lock_guard guard(ranges_);
  if (closed_) return;
  const int error = each_block(pages, [&](Block& block, Pages part) {
    // An earlier store is none of this protector's.
    if (int failed = notice_locked(block, part, false)) return failed;
    return each_run(block, part, [&](Pages run) {
      if (!block.page(run.begin).managed()) return 0;
      const bool several = block.page(run.begin).several();
      if (int failed = several ? watch_owners(block, run) : 0) return failed;
      if (!several && protector.wants_content() && run.count() >= kWorthMapping) catch_stores(block, run);
      return each_run(block, run, [&](Pages part) {
        for (uint64_t a = std::max(part.begin, pages.begin); a < std::min(part.end, pages.end); a += kPage)
          protector.set_armed(a, true);
        const int error = watch_run(block, part);
        if (error || block.page(part.begin).hold(kCpu) == Hold::Invalid) return error;
        return keep_content(block, part); // after the protection: a store in between is told
      });
    });
  });
  if (error == ENOENT || error == ENXIO || error == EFAULT)
    throw Failure(FailureKind::Range,
                  "cannot protect: a part of the memory is not mapped any more, or lies behind the "
                  "end of its file");
  if (error) throw Failure(FailureKind::Error, std::string("cannot write-protect: ") + strerror(error));
}

// Where stores are not caught (Tracker::Async), protectors are given the content before the CPU may store: it
// has the page now, or is about to get it.
int Driver::keep_content(Block& block, Pages run) {
  const PageState state = block.page(run.begin);
  if (!state.watched() || state.tracker() != Tracker::Async) return 0;
  StagingPool::Use staging(staging_);
  const std::byte* now = nullptr;
  bool unreadable = false;
  each_protector([&](Protector& p) {
    for_armed(p, run, [&](Pages armed, bool kept) {
      if (!p.wants_content() || kept) return;
      if (!now) unreadable = !(now = content(block, run, *staging));
      if (!unreadable) p.keep(armed, now + (armed.begin - run.begin));
    });
  });
  return unreadable ? ENXIO : 0;
}

int Driver::watch_run(Block& block, Pages run) {
  if (block.page(run.begin).watched()) return 0;
  if (int error = recall_all(block, run)) return error;
  PageState next = block.page(run.begin);
  next.set_watched(true);
  for (Processor p = 0; p < processors(); ++p) {
    if (next.hold(p) != Hold::Exclusive) continue;
    if (int error = table(p, next).protect(block, run)) return error;
    next.set(p, Hold::Shared);
  }
  change(block, run, [next](PageState& state) {
    state.set_watched(true);
    state.set_holds(next.holds());
  });
  return 0;
}

void Driver::drop(Protector& protector) {
  std::lock_guard guard(ranges_);
  for (auto& slot : protectors_)
    if (slot.load() == &protector) slot = nullptr;
  // Holes in front of the others stay: a driver thread may be walking. Those at the end can go.
  while (protectors_end_ && !protectors_[protectors_end_ - 1].load()) --protectors_end_;
  if (closed_) return;
  each_block(protector.range(), [&](Block& block, Pages part) {
    if (block.page(part.begin).huge()) {
      bool armed = false;
      for (uint64_t a = part.begin; a < part.end; a += kPage) armed = armed || armed_by_any(a);
      if (!armed) unwatch(block, part);
      return 0;
    }
    const auto last = [&](uint64_t a) { return protector.armed(a) && !armed_by_any(a); };
    for (uint64_t a = part.begin; a < part.end;) {
      Pages run{a, a};
      while (run.end < part.end && last(run.end)) run.end += kPage;
      a = run.end + kPage;
      unwatch(block, run);
    }
    notice_stores(block, part);
    return 0;
  });
}

bool Driver::armed_by_any(uint64_t page) const {
  bool armed = false;
  each_protector([&](Protector& p) {
    armed = armed || (page >= p.range().begin && page < p.range().end && p.armed(page));
  });
  return armed;
}

// No protector is to hear of these pages: a lone holder may write again. Where there are other owners, which
// may be armed, pages stay watched until the next write.
void Driver::unwatch(Block& block, Pages pages) {
  each_run(block, pages, [&](Pages run) {
    PageState next = block.page(run.begin);
    if (!next.watched() || next.several()) return 0;
    next.set_watched(false);
    change(block, run, [](PageState& state) { state.set_watched(false); });
    if (next.merged()) return 0; // nobody may write those as they are
    Processor holder = kMaxProcessors;
    for (Processor p = 0; p < processors(); ++p) {
      if (next.hold(p) == Hold::Invalid) continue;
      if (holder != kMaxProcessors) return 0; // readers: a write is a fault anyway
      holder = p;
    }
    if (holder == kMaxProcessors || table(holder, next).unprotect(block, run) != 0) return 0;
    next.set(holder, Hold::Exclusive);
    commit(block, run, next);
    return 0;
  });
}

// The pages are about to be written: tells their protectors, and those of their other owners (which the
// caller has locked, if there are any), and nobody watches them any more.
int Driver::notify(Block& block, Pages run, OtherOwners* others) {
  StagingPool::Use staging(staging_);
  const std::byte* before = nullptr;
  bool unreadable = false;
  const auto tell = [&](Protector& p, Pages owner) {
    for_armed(p, owner, [&](Pages armed, bool kept) {
      const bool wanted = p.wants_content() && !kept;
      if (wanted && !before) unreadable = !(before = content(block, run, *staging));
      if (unreadable) return;
      for (uint64_t a = armed.begin; a < armed.end; a += kPage) p.set_armed(a, false);
      p.before_write(armed, wanted ? before + (armed.begin - owner.begin) : nullptr);
    });
  };
  each_protector([&](Protector& p) {
    tell(p, run);
    for (unsigned i = 0; others && i < others->count; ++i)
      if (others->runs[i].shared()) tell(p, others->runs[i].pages);
  });
  if (unreadable) return ENXIO; // behind the end of a truncated file: nobody can write there either
  const auto unwatched = [](PageState& state) { state.set_watched(false); };
  change(block, run, unwatched);
  for (unsigned i = 0; others && i < others->count; ++i)
    if (others->runs[i].shared()) change(*others->runs[i].block, others->runs[i].pages, unwatched);
  return 0;
}

// What pages hold that `p` has. nullptr also if they are the CPU's, would be read where they are, and are
// gone.
const std::byte* Driver::frames(Processor p, Block& block, Pages run, Staging& staging) {
  const MemoryKind kind = block.page(run.begin).kind();
  if (p == kCpu && !kind.shared && !kind.file && !is_mapped(run)) return nullptr;
  return table(p, block.page(run.begin)).frames(block, run, staging);
}

// What the pages hold now, wherever that is.
const std::byte* Driver::content(Block& block, Pages run, Staging& staging) {
  const PageState state = block.page(run.begin);
  if (state.remote()) return lent_frames(block, run, staging); // the CPU may lack entries
  for (Processor p = 0; p < processors(); ++p)
    if (state.hold(p) != Hold::Invalid) return frames(p, block, run, staging);
  std::memset(staging.data(), 0, run.bytes());
  return staging.data();
}

// Calls visit(page, content) for like pages; where a part of them cannot be read, the others still can.
template <class Visit> void Driver::each_content(Block& block, Pages run, Visit visit) {
  {
    StagingPool::Use staging(staging_);
    const std::byte* now = content(block, run, *staging);
    if (now || run.count() == 1 || block.page(run.begin).huge()) {
      for (uint64_t a = run.begin; a < run.end; a += kPage) visit(a, now ? now + (a - run.begin) : nullptr);
      return;
    }
  }
  const uint64_t middle = run.begin + run.count() / 2 * kPage;
  each_content(block, {run.begin, middle}, visit);
  each_content(block, {middle, run.end}, visit);
}

void Driver::read_pages(Pages pages, void (*visit)(void*, uint64_t, const std::byte*), void* context) {
  each_block(pages, [&](Block& block, Pages part) {
    if (int error = notice_locked(block, part, false)) return error;
    const int error = each_run(block, part, [&](Pages run) { // other owners may have what these pages hold
      return block.page(run.begin).several() ? step(block, run, {kCpu, Access::Read, Cause::Home}) : 0;
    });
    if (error == EDEADLK) return error;
    return each_run(block, part, [&](Pages run) {
      if (block.page(run.begin).managed())
        each_content(block, run, [&](uint64_t page, const std::byte* now) {
          if (page >= pages.begin && page < pages.end) visit(context, page, now);
        });
      return 0;
    });
  });
}

} // namespace hmm
