// Driver: merged pages that become ordinary ones again, and what is known of them until then.
//
// A page is broken out of its set before it is written or lost, when it comes home, when the program asks for
// it, and when the file behind it has changed. The order is that of merge.cpp.
//
// INVARIANT: a page leaves its set in one way (`own_memory`): memory of its own is mapped in its place and
// caught again, and the page is Exclusive at the CPU; only then is anybody woken who waits for it. Where the
// memory itself is gone the set just forgets the page (`forget_merged`).
// LOCKS: the caller has the pages locked; where mappings run out, neighbours are locked, too, as far as they
// are free (`lock_around`). Frames and their records have a lock of their own (base/lock.h).
#include "driver/driver.h"

#include <cerrno>
#include <cstring>
#include <sys/uio.h>

namespace hmm {

// A fault that writes brings no neighbours that are merged: sets break page by page.
Pages Driver::without_merged(Block& block, Pages region, uint64_t address) {
  Pages result{address, address + kPage};
  while (result.begin > region.begin && !block.page(result.begin - kPage).merged()) result.begin -= kPage;
  while (result.end < region.end && !block.page(result.end).merged()) result.end += kPage;
  return result;
}

// The merged ones of the pages become ordinary pages, Exclusive at the CPU. 0 or errno.
int Driver::unmerge(Block& block, Pages pages) {
  return each_run(block, pages, [&](Pages alike) {
    if (!block.page(alike.begin).merged()) return 0;
    for (uint64_t a = alike.begin; a < alike.end;) {
      const MappingKey key = merged_->store().mapping_of(page_number(block, a));
      Pages run{a, a + kPage};
      while (run.end < alike.end && merged_->store().mapping_of(page_number(block, run.end)) == key)
        run.end += kPage;
      a = run.end;
      if (int error = unmerge_run(block, run)) return error;
    }
    return 0;
  });
}

// ENOMEM mostly means vm.max_map_count. To break a whole run takes fewer mappings than to break a page out of
// it, and some are held in reserve.
int Driver::unmerge_run(Block& block, Pages run) {
  int error = zap_copies(block, run);
  if (!error)
    error = cpu_table(block.page(run.begin).tracker()).protect(block, run); // ENOENT: not ours any more
  if (error == ENOENT && run.count() == 1) forget_merged(block, run);
  if (error) return error;
  while ((error = own_memory(block, run)) == ENOMEM) {
    const Pages wide = lock_around(block, run);
    if (wide.bytes() > run.bytes()) {
      merged_->spare().give_back();
      error = unmerge_run(block, wide);
      unlock_around(block, run, wide);
      return error;
    }
    if (!merged_->spare().give_back()) return ENOMEM;
  }
  return error;
}

int Driver::own_memory(Block& block, Pages run) {
  const int error = in_arena_file(run.begin)
                        ? common_.put(block, run, reinterpret_cast<const std::byte*>(run.begin))
                        : merged_->restore(block, run);
  if (error) return error;
  if (int error = catch_again(block, run, false))
    fatal("pages at 0x%lx cannot be watched any more: %s", run.begin, strerror(error));
  forget_merged(block, run);
  change(block, run, [](PageState& state) { state.set(kCpu, Hold::Exclusive); });
  return cpu_table(block.page(run.begin).tracker()).wake(run);
}

void Driver::forget_merged(Block& block, Pages run) {
  for (uint64_t a = run.begin; a < run.end; a += kPage) merged_->store().leave(page_number(block, a));
  change(block, run, [](PageState& state) {
    state.set_merged(false);
    state.set_holds(0);
  });
}

// New mappings are in place of some that were caught.
int Driver::catch_again(Block& block, Pages pages, bool merged) {
  CpuTable& cpu = cpu_table(block.page(pages.begin).tracker());
  int error;
  while ((error = cpu.replaced(block, pages, merged)) == ENOMEM && merged_->spare().give_back()) {}
  return error;
}

// The CPU's copy is the same: nothing is lost.
int Driver::zap_copies(Block& block, Pages run) {
  uint16_t holders = 0;
  for (uint64_t a = run.begin; a < run.end; a += kPage)
    for (Processor q = 1; q < processors(); ++q)
      if (block.page(a).hold(q) != Hold::Invalid) holders |= 1u << q;
  if (int error = zap_others(block, run, holders)) return error;
  change(block, run, [](PageState& state) {
    state.set_holds(0);
    state.set(kCpu, Hold::Shared);
  });
  return 0;
}

// Coming home is no write. But a page of its own can be written for a moment before it is protected again: so
// its protectors are told now.
int Driver::bring_home_merged(Block& block, Pages run) {
  if (block.page(run.begin).watched())
    if (int error = notify(block, run)) return error;
  return unmerge(block, run);
}

// Somebody may have written the file: pages whose own memory is not what their frame holds are broken out.
void Driver::reload_merged(Block& block, Pages run) {
  FrameStore& store = merged_->store();
  for (uint64_t a = run.begin; a < run.end; a += kPage) {
    const PageNumber page = page_number(block, a);
    bool same;
    {
      StagingPool::Use staging(staging_);
      iovec mine{(*staging).data(), kPage},
          own{reinterpret_cast<void*>(store.owner_of(page).private_data), kPage};
      // A system call: behind the end of a truncated file it fails, where a load would be a SIGBUS.
      same = process_vm_readv(getpid(), &mine, 1, &own, 1, 0) == ssize_t(kPage) &&
             std::memcmp((*staging).data(), store.content(store.frame_of(page)), kPage) == 0;
    }
    if (same) continue;
    if (block.page(a).watched()) notify(block, {a, a + kPage}); // late: the writer was none of ours
    lose(block, {a, a + kPage});
  }
}

// A page is to be written, or to go: it becomes an ordinary one, and the protocol goes on from there.
int Driver::break_first(Block& block, Pages run, Request request) {
  if (request.p == kCpu) counters_.processor[kCpu].upgraded_pages.add(run.count());
  if (int error = unmerge(block, run)) return error;
  return step(block, run, request);
}

// Locks the merged pages around `run` that are alike and came from the same mapping, as far as they can be
// had.
Pages Driver::lock_around(Block& block, Pages run) {
  FrameStore& store = merged_->store();
  const MappingKey key = store.mapping_of(page_number(block, run.begin));
  std::lock_guard guard(block.lock);
  const auto joins = [&](uint64_t a) {
    return block.page(a).merged() && !block.page(a).locked() && !block.page(a).watched() &&
           store.mapping_of(page_number(block, a)) == key;
  };
  Pages wide = run;
  while (wide.begin > block.address && joins(wide.begin - kPage)) wide.begin -= kPage;
  while (wide.end < block.address + kBlock && joins(wide.end)) wide.end += kPage;
  PageLocks::mark(block, Pages{wide.begin, run.begin}, true);
  PageLocks::mark(block, Pages{run.end, wide.end}, true);
  return wide;
}

void Driver::unlock_around(Block& block, Pages run, Pages wide) {
  unlock(block, Pages{wide.begin, run.begin});
  unlock(block, Pages{run.end, wide.end});
}

void Driver::break_pages(Pages pages) {
  const int error = each_block(pages, [&](Block& block, Pages part) {
    const int failed = unmerge(block, part);
    return failed ? failed : notice_stores(block, part, 1);
  });
  if (error)
    throw Failure(FailureKind::OutOfMemory, std::string("cannot break merged pages: ") + strerror(error));
}

Frame Driver::record(uint64_t address, Owner* owners, unsigned limit, unsigned& count) {
  std::lock_guard guard(ranges_);
  Frame frame = 0;
  count = 0;
  each_block(Pages::covering(address, 1), [&](Block& block, Pages page) {
    if (block.page(page.begin).linked()) list_owners(block, page.begin, owners, limit, count);
    if (!block.page(page.begin).merged()) return 0;
    frame = merged_->store().frame_of(page_number(block, page.begin));
    merged_->store().each(frame, [&](const Owner& owner) {
      if (count < limit) owners[count] = owner;
      ++count;
    });
    return 0;
  });
  return frame;
}

} // namespace hmm
