// Driver: one page, many owners.
//
// Two mappings of one file, or of one piece of shared memory, show the same pages at different addresses.
// Each address has a state of its own, and the devices have frames of their own for it; for the CPU there is
// one frame, the object's. The addresses where a page is managed, its owners, form a ring (OwnerLink): the
// page's record. Before a transition of one owner the others are settled (protocol/transition.h), so that
// what is written through any of them is read through every other. Protectors watch the page: all owners are
// watched when one is armed, and a write through any is told to the protectors of all.
//
// INVARIANTS
//   - Of a ring's pages of shared mappings all or none are watched.
//   - Which of those may hold what: protocol/transition.h.
//   - Pages of private mappings, which show the object's page until they are written, are owners as long as
//   they
//     do. They have their own content and protectors: before the object's page is written they get a copy.
// LOCKS: a transition has all owners of its pages locked. The first ones (a run, of which the caller has all
// locked) come by address, the others are locked here, in ascending order, and slept for only if that order
// allows it (driver/page_locks.h); else the caller gets EDEADLK, gives back what it has and tries again
// (until_free; faults are deferred to the page that is busy). So two threads that want the same owners cannot
// wait for each other, and of those that collide the one that holds the lowest page goes on: no livelock.
// Rings are changed under the range lock, and shortened with all owners locked.
#include "driver/driver.h"

#include <algorithm>
#include <cerrno>

namespace hmm {

// ------------------------------------------------------------------------------------------------- the ring

PageNumber Driver::next_owner(PageNumber page) const {
  const OwnerLink& link = directory_.at(page / kPagesPerBlock).links[page % kPagesPerBlock];
  const uint32_t next = __atomic_load_n(&link.next, __ATOMIC_ACQUIRE);
  return next ? next - 1 : page;
}

void Driver::set_next_owner(PageNumber page, PageNumber next) {
  OwnerLink& link = directory_.at(page / kPagesPerBlock).links[page % kPagesPerBlock];
  __atomic_store_n(&link.next, page == next ? 0 : static_cast<uint32_t>(next + 1), __ATOMIC_RELEASE);
}

// Whether the pages `k` behind the first ones are owners of one page, too, and can be treated alike.
bool Driver::owners_follow(PageNumber first, uint64_t k) const {
  const Block& block = directory_.at(first / kPagesPerBlock);
  const uint64_t index = first % kPagesPerBlock;
  if (!block.pages[index + k].like(block.pages[index])) return false;
  const auto shared = [&](PageNumber page) {
    return directory_.at(page / kPagesPerBlock).pages[page % kPagesPerBlock].shared_mapping();
  };
  PageNumber at = first;
  do {
    if (next_owner(at + k) != next_owner(at) + k || locked_here(at + k) != locked_here(at)) return false;
    if (shared(at + k) != shared(at)) return false;
    at = next_owner(at);
  } while (at != first);
  return true;
}

bool Driver::locked_here(PageNumber page) const {
  const Block& block = directory_.at(page / kPagesPerBlock);
  return PageLocks::mine(block, block.address + page % kPagesPerBlock * kPage);
}

// The longest part of `run`, from its first page on, whose other owners are runs too, apart from each other.
Pages Driver::find_owners(Block& block, Pages run, OtherOwners& others) const {
  const PageNumber own = page_number(block, run.begin);
  PageNumber all[kMostOwners];
  unsigned count = 0;
  PageNumber at = own;
  do {
    all[count++] = at;
    at = next_owner(at);
  } while (at != own && count < kMostOwners);
  std::sort(all, all + count);
  uint64_t length = run.count();
  for (unsigned i = 0; i < count; ++i) {
    length = std::min(length, kPagesPerBlock - all[i] % kPagesPerBlock);
    if (i) length = std::min(length, all[i] - all[i - 1]);
  }
  for (uint64_t k = 1; k < length; ++k)
    if (!owners_follow(own, k)) length = k;
  others.count = 0;
  for (unsigned i = 0; i < count; ++i) {
    if (all[i] == own) continue;
    Block& there = directory_.at(all[i] / kPagesPerBlock);
    const uint64_t begin = there.address + all[i] % kPagesPerBlock * kPage;
    others.runs[others.count++] = {&there, {begin, begin + length * kPage}, locked_here(all[i])};
  }
  return {run.begin, run.begin + length * kPage};
}

// Whether a page comes after all that this thread has locked: owners in ascending order, and in the block
// where `own` lies any pages, of which that is one.
bool Driver::may_wait_for(const Block& block, uint64_t page, PageNumber own) const {
  if (page_number(block, page) < own) return false;
  for (uint64_t a = page + kPage; a < block.address + kBlock; a += kPage)
    if (PageLocks::mine(block, a)) return false;
  return true;
}

// 0, or EDEADLK with none of them locked, and where to wait with nothing locked in `busy` (may be null).
int Driver::lock_owners(Block& block, Pages run, OtherOwners& others, uint64_t* busy) {
  const PageNumber own = page_number(block, run.begin);
  for (unsigned i = 0; i < others.count; ++i) {
    OtherOwners::Run& other = others.runs[i];
    while (uint64_t page = other.mine ? 0 : PageLocks::try_lock(*other.block, other.pages)) {
      if (may_wait_for(*other.block, page, own)) {
        PageLocks::wait(*other.block, page);
        continue;
      }
      if (busy) *busy = page;
      others.count = i;
      unlock_owners(others);
      return EDEADLK;
    }
  }
  return 0;
}

void Driver::unlock_owners(OtherOwners& others) {
  for (OtherOwners::Run& other : others) {
    if (other.mine) continue;
    check(*other.block);
    unlock(*other.block, other.pages);
  }
}

// --------------------------------------------------------------------------------------------- transitions

// One access to pages that are alike and have other owners.
int Driver::step_with_owners(Block& block, Pages run, Request request) {
  return with_owners(
      block, run,
      [&](Pages piece, OtherOwners& others) {
        const auto next = [&] {
          return transition(block.page(piece.begin), request.p, request.access, protocol());
        };
        if (next().step == Step::None) return 0;
        if (next().step == Step::Notify)
          if (int error = notify_owners(block, piece, others)) return error;
        if (int error = settle(others, request.access)) return error;
        if (is_over_the_link(next())) return over_the_link(block, piece, next(), request);
        if (request.p != kCpu && hides(block, piece)) return ENXIO;
        if (request.p != kCpu &&
            block.page(piece.begin).untouched()) // a device has zeros for it, the frame more
          if (int error = show(block, piece)) return error;
        const int error = act(block, piece, next(), request);
        check_owners(block, piece, others);
        return error;
      },
      request.busy);
}

void Driver::check_owners([[maybe_unused]] Block& block, [[maybe_unused]] Pages run,
                          [[maybe_unused]] OtherOwners& others) const {
#ifdef HMMEMU_CHECK
  for (uint64_t offset = 0; offset < run.bytes(); offset += kPage) {
    unsigned holders = 0, alone = 0;
    const auto look = [&](PageState state) {
      if (!state.shared_mapping() || state.untouched()) return;
      ++holders;
      bool writes = false;
      for (Processor p = 0; p < kMaxProcessors; ++p) writes |= state.hold(p) == Hold::Exclusive;
      alone += writes || state.hold(kCpu) == Hold::Invalid;
    };
    look(block.page(run.begin + offset));
    for (OtherOwners::Run& other : others) look(other.block->page(other.pages.begin + offset));
    if (alone && holders > 1)
      fatal("page 0x%lx: %u owners have it, and one of them alone should", run.begin + offset, holders);
  }
#endif
}

int Driver::settle(OtherOwners& others, Access access) {
  for (OtherOwners::Run& other : others)
    if (int error = settle_owner(*other.block, other.pages, access)) return error;
  return 0;
}

// What the program has unmapped without telling us is forgotten, and no obstacle to the other owners.
int Driver::settle_owner(Block& block, Pages pages, Access access) {
  return each_run(block, pages, [&](Pages run) {
    const int error =
        as_far_as_mapped(block, run, [&](Pages part) { return settle_run(block, part, access); });
    return error == EFAULT && any_gone(block, run) ? settle_owner(block, run, access) : error; // the others
  });
}

bool Driver::any_gone(Block& block, Pages run) {
  return each_run(block, run, [&](Pages part) { return block.page(part.begin).gone() ? 1 : 0; }) != 0;
}

int Driver::settle_run(Block& block, Pages run, Access access) {
  if (!block.page(run.begin).shared_mapping()) return access != Access::Read ? give_own_pages(block, run) : 0;
  if (int error = recall_all(block, run)) return error;
  Settling s = settling(block.page(run.begin), access);
  if (s.show) {
    if (int error = show(block, run)) return error;
    s = settling(block.page(run.begin), access);
  }
  if (s.protect)
    if (int error = table(kCpu, s.next).protect(block, run)) return error;
  if (int error = zap_others(block, run, s.zap)) return error;
  commit(block, run, s.next);
  return 0;
}

// Private pages: what they show now stays, whatever becomes of the object's page. What only devices have
// comes back to pages of their own anyway.
int Driver::give_own_pages(Block& block, Pages run) {
  const PageState state = block.page(run.begin);
  if (state.remote()) return 0; // it does show its own
  if (state.hold(kCpu) == Hold::Exclusive) {
    if (int error = table(kCpu, state).protect(block, run)) return error;
    change(block, run, [](PageState& s) { s.set(kCpu, Hold::Shared); });
  }
  for (uint64_t a = run.begin; a < run.end; a += kPage) {
    if (block.link(a).own) continue;
    const Pages page{a, a + kPage};
    StagingPool::Use staging(staging_);
    const std::byte* now =
        state.hold(kCpu) == Hold::Invalid ? nullptr : table(kCpu, state).frames(block, page, *staging);
    if (int error = now ? table(kCpu, state).update(block, page, now) : 0) return error;
    block.link(a).own = true;
  }
  return 0;
}

// The newest content of the pages is in the frame, or among these copies of theirs: goes there, and the CPU
// may read it.
int Driver::show(Block& block, Pages run) {
  if (int error = recall_all(block, run)) return error;
  const Transition t = transition(block.page(run.begin), kCpu, Access::Read, protocol());
  const int error = t.step == Step::None ? 0 : perform(block, run, t, {kCpu, Access::Read, Cause::Home});
  if (error != ENOENT) return error;
  // The program unmapped the memory without telling us; its content has gone to the frame through the alias.
  for (Processor q = 1; q < processors(); ++q) tables_[q]->release(block, run);
  change(block, run, [](PageState& state) { state.set_holds(0); });
  return 0;
}

// -------------------------------------------------------------------------------------------- protectors

// The page is about to be written: tells the protectors of all its owners.
int Driver::notify_owners(Block& block, Pages run, OtherOwners& others) {
  if (block.page(run.begin).untouched()) { // what was there before is with another owner
    if (int error = settle(others, Access::Read)) return error;
    if (int error = show(block, run)) return error;
  }
  return notify(block, run, &others);
}

// The same, for pages of which nobody has locked the other owners yet.
int Driver::notify_all(Block& block, Pages run) {
  return with_owners(block, run,
                     [&](Pages piece, OtherOwners& others) { return notify_owners(block, piece, others); });
}

// Write-protects the pages wherever they are; their content is in the frame then.
int Driver::watch_owners(Block& block, Pages run) {
  return with_owners(block, run, [&](Pages piece, OtherOwners& others) {
    if (int error = settle(others, Access::Read)) return error;
    if (int error = show(block, piece)) return error;
    if (int error = watch_others(others)) return error;
    return watch_run(block, piece);
  });
}

int Driver::watch_others(OtherOwners& others) {
  for (OtherOwners::Run& other : others)
    if (int error = each_run(*other.block, other.pages, [&](Pages run) {
          return other.block->page(run.begin).shared_mapping() ? watch_run(*other.block, run) : 0;
        }))
      return error;
  return 0;
}

// ---------------------------------------------------------------------------------------- joining, leaving

MappingKey Driver::new_mapping(const ObjectMapping& object) {
  auto free = std::find_if(objects_.begin(), objects_.end(), [](const auto& o) { return !o.users; });
  if (free == objects_.end()) free = objects_.insert(free, ObjectMapping{});
  *free = object;
  return static_cast<MappingKey>(free - objects_.begin() + 1);
}

void Driver::refuse_too_many_owners(const std::vector<ObjectMapping>& fresh) const {
  for (const ObjectMapping& object : fresh) {
    const auto shows = [&](const ObjectMapping& o) { return o.users && o.shows(object); };
    const auto inside = [&](const ObjectMapping& o) { return o.shows(object); };
    if (std::count_if(objects_.begin(), objects_.end(), shows) +
            std::count_if(fresh.begin(), fresh.end(), inside) >
        kMostOwners)
      throw Failure(FailureKind::Unsupported,
                    "more than 64 mappings of one page of a file or of shared memory; unregister some");
  }
}

// Pages that were just registered become owners, in the rings of those that show the same. Caller holds the
// range lock. 0 or errno; then some have, and all are to be dropped.
int Driver::adopt(const ObjectMapping& object) {
  const MappingKey key = new_mapping(object);
  return each_block(object.pages, [&](Block& block, Pages part) {
    for (uint64_t a = part.begin; a < part.end; a += kPage) link_page(block, a, key);
    return with_owners(block, part, [&](Pages piece, OtherOwners& others) {
      return others.count ? join(block, piece, others) : 0;
    });
  });
}

// Enters the page into the ring of one that shows the same. Who walks on the ring meanwhile has an owner
// locked, and is waited for in `join`.
void Driver::link_page(Block& block, uint64_t page, MappingKey key) {
  if (block.link(page).mapping) return;
  const ObjectMapping& mine = objects_[key - 1];
  const uint64_t offset = mine.offset + (page - mine.pages.begin);
  for (const ObjectMapping& other : objects_) {
    if (!other.users || !other.shows({{page, page + kPage}, offset, mine.device, mine.node})) continue;
    const uint64_t there = other.pages.begin + (offset - other.offset);
    Block* partner = directory_.find(there);
    if (!partner || partner->link(there).mapping != MappingKey(&other - objects_.data() + 1)) continue;
    const PageNumber own = page_number(block, page), at = page_number(*partner, there);
    set_next_owner(own, next_owner(at));
    set_next_owner(at, own);
    break;
  }
  block.link(page).mapping = key;
  ++objects_[key - 1].users;
}

// All owners are locked. The new ones, which the CPU has had to itself so far, hold nothing from here on, as
// after a write through another owner: so the others keep what they have, and no kernel that uses them is
// waited for. A private mapping is to show what is newest now, and who watches is told before a write.
int Driver::join(Block& block, Pages run, OtherOwners& others) {
  if (block.page(run.begin).linked()) return 0; // it has joined; others had to be waited for
  const auto mark = [](Block& b, Pages pages) {
    change(b, pages, [](PageState& state) { state.set_linked(true); });
  };
  bool watched = false;
  for (OtherOwners::Run& other : others) {
    if (int error = unmerge(*other.block, other.pages)) return error;
    if (int error = notice_stores(*other.block, other.pages, 1)) return error;
    mark(*other.block, other.pages);
    for (uint64_t a = other.pages.begin; a < other.pages.end; a += kPage)
      watched |= other.block->page(a).several() && other.block->page(a).watched();
  }
  if (int error = catch_like(block, run, others.runs[0])) return error;
  const int error = !block.page(run.begin).shared_mapping() ? settle(others, Access::Read)
                    : watched                               ? watch_like(block, run, others)
                                                            : give_up(block, run);
  if (!error) mark(block, run);
  return error;
}

// All of the others are watched (one write more is told than need be, to nobody), so nobody writes. Who wants
// their content is given it (keep_content).
int Driver::watch_like(Block& block, Pages run, OtherOwners& others) {
  if (int error = settle(others, Access::Read)) return error;
  for (OtherOwners::Run& other : others)
    if (int error = each_run(*other.block, other.pages, [&](Pages part) {
          return other.block->page(part.begin).several() ? show(*other.block, part) : 0;
        }))
      return error;
  if (int error = watch_others(others)) return error;
  return watch_run(block, run);
}

// Of pages that no device has.
int Driver::give_up(Block& block, Pages run) {
  const int error = table(kCpu, block.page(run.begin)).zap(block, run);
  if (!error) change(block, run, [](PageState& state) { state.set_holds(0); });
  return error;
}

// Stores through the new pages are caught where those through the others are, and noticed where those are.
int Driver::catch_like(Block& block, Pages run, const OtherOwners::Run& other) {
  return each_run(*other.block, other.pages, [&](Pages theirs) {
    const uint64_t begin = run.begin + (theirs.begin - other.pages.begin);
    const bool caught = other.block->page(theirs.begin).tracker() == Tracker::Uffd;
    return caught ? catch_stores(block, {begin, begin + theirs.bytes()}) : 0;
  });
}

// The pages, which are home, are no owners any more; their own protectors hear of it. Caller holds the range
// lock.
int Driver::leave(Block& block, Pages run) {
  return with_owners(block, run, [&](Pages piece, OtherOwners& others) {
    if (block.page(piece.begin).several() && block.page(piece.begin).watched()) notify(block, piece);
    for (uint64_t a = piece.begin; a < piece.end; a += kPage) unlink_page(block, a);
    change(block, piece, [](PageState& state) { state.set_linked(false); });
    if (others.count != 1) return 0;
    OtherOwners::Run& last = others.runs[0]; // alone from now on, and Invalid everywhere would mean zeros
    change(*last.block, last.pages, [](PageState& state) {
      state.set_linked(false);
      if (state.untouched() && state.managed() && state.shared_mapping()) state.set(kCpu, Hold::Shared);
    });
    return 0;
  });
}

int Driver::leave_all(Block& block, Pages pages) {
  return each_run(block, pages,
                  [&](Pages run) { return block.page(run.begin).managed() ? leave(block, run) : 0; });
}

void Driver::unlink_page(Block& block, uint64_t page) {
  OwnerLink& link = block.link(page);
  if (!link.mapping) return;
  --objects_[link.mapping - 1].users;
  const PageNumber own = page_number(block, page);
  PageNumber before = own;
  while (next_owner(before) != own) before = next_owner(before);
  set_next_owner(before, next_owner(own));
  link = {};
}

// The owners of a page that has several, up to `limit` of them.
void Driver::list_owners(Block& block, uint64_t page, Owner* owners, unsigned limit, unsigned& count) const {
  const PageNumber own = page_number(block, page);
  PageNumber at = own;
  do {
    const Block& there = directory_.at(at / kPagesPerBlock);
    const OwnerLink& link = there.links[at % kPagesPerBlock];
    at = next_owner(at);
    if (link.own) continue;
    const uint64_t address = there.address + (&link - there.links.data()) * kPage;
    const ObjectMapping& mapping = objects_[link.mapping - 1];
    const PageState state = there.pages[&link - there.links.data()];
    const uint64_t view = state.shared_mapping() ? cpu_table(state.tracker()).second_view(there, address) : 0;
    if (count < limit)
      owners[count] = {link.mapping, mapping.offset + (address - mapping.pages.begin), view, address};
    ++count;
  } while (at != own);
}

} // namespace hmm
