// Driver: which memory is managed: the arena's, array by array, and what exists already.
//
// Everything here runs on Python threads.
// LOCKS: the range lock (base/lock.h); the pages of one block at a time.
#include "driver/driver.h"

#include <cerrno>
#include <cstring>
#include <mutex>

namespace hmm {
namespace {

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

// A page that nobody touched yet is missing, and the driver's own read of it would wait for the driver.
void populate(Pages pages) {
  if (madvise(reinterpret_cast<void*>(pages.begin), pages.bytes(), MADV_POPULATE_READ) == 0) return;
  if (errno != EINVAL)
    throw_errno(FailureKind::Range,
                "the memory cannot be read (it lies behind the end of its file, or its file system, such as "
                "/dev/shm, is full)");
  for (uint64_t a = pages.begin; a < pages.end; a += kPage) (void)*reinterpret_cast<volatile char*>(a);
}

// Nobody owns the page any more; it stays locked.
void forget(PageState& state) {
  const bool locked = state.locked();
  state = PageState();
  state.set_locked(locked);
}

} // namespace

std::vector<Pages> Driver::runs(Pages pages, unsigned owners) const {
  std::vector<Pages> found;
  for (uint64_t a = pages.begin; a < pages.end; a += kPage) {
    Block* block = directory_.find(a);
    if ((block ? block->page(a).owners() : 0) != owners) continue;
    if (!found.empty() && found.back().end == a)
      found.back().end += kPage;
    else
      found.push_back({a, a + kPage});
  }
  return found;
}

Pages Driver::make_arena(uint64_t bytes, bool in_file) {
  std::lock_guard guard(ranges_);
  for (bytes = block_down(bytes); bytes >= kBlock; bytes = block_down(bytes / 2)) {
    for (uint64_t hint = kArenasBegin; hint + bytes <= kArenasEnd; hint += bytes) {
      void* at = mmap(reinterpret_cast<void*>(hint), bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
      if (at == MAP_FAILED) continue;
      arena_ = {hint, hint + bytes};
      arena_kind_ = {.shared = in_file, .open = in_file};
      int error = in_file ? map_by_address(common_.file(), arena_, at) : 0;
      if (!error) error = cpu_table(tracker_).reserve(arena_, arena_kind_);
      if (error)
        throw Failure(FailureKind::Unsupported,
                      std::string("the arena cannot be watched: ") + strerror(error));
      return arena_;
    }
  }
  throw Failure(FailureKind::OutOfMemory, "no room for an arena in the address space (see `ulimit -v`)");
}

// userfaultfd cannot watch pages of regular files.
Tracker Driver::tracker_for(MemoryKind kind) {
  // What a device reads while the CPU may write (async) is taken by moving it, and huge pages do not move.
  if (!kind.file && !(kind.huge && tracker_ == Tracker::Async)) return tracker_;
  use_signals();
  return Tracker::Signal;
}

void Driver::allocate(Pages pages) {
  std::lock_guard guard(ranges_);
  second_tries_.forget();
  for (uint64_t a = pages.begin; a < pages.end; a = block_down(a) + kBlock) {
    const Block& block = directory_.make(a);
    if (!arena_kind_.shared) continue;
    if ((errno = aliases_.add_block(block, common_.file())) || (errno = common_.add_block(block)))
      throw_errno(FailureKind::OutOfMemory, "memory for arrays cannot be mapped (see vm.max_map_count)");
  }
  each_block(pages, [&](Block& block, Pages part) {
    change(block, part, [&](PageState& state) {
      state.set_kind(arena_kind_);
      state.set_tracker(tracker_);
      state.add_owner();
    });
    if (part.begin == pages.begin) set_start(block, part.begin);
    return 0;
  });
}

void Driver::free(Pages pages) {
  std::lock_guard guard(ranges_);
  if (closed_) return;
  each_block(pages, [&](Block& block, Pages part) {
    release_everywhere(block, part);
    change(block, part,
           [](PageState& state) { state.set(kCpu, Hold::Exclusive); }); // plain memory, of nobody
    if (int error = notice_stores(block, part, 1))
      fatal("freed pages at 0x%lx cannot be watched: %s", part.begin, strerror(error));
    change(block, part, forget);
    return 0;
  });
}

Pages Driver::whole(Pages pages) const {
  if (pages.empty()) return pages;
  const auto huge = [&](uint64_t a) {
    Block* block = directory_.find(a);
    return block && block->page(a).huge();
  };
  if (huge(pages.begin)) pages.begin = block_down(pages.begin);
  if (huge(pages.end - kPage)) pages.end = block_down(pages.end - kPage) + kBlock;
  return pages;
}

std::optional<std::vector<Pages>> Driver::add_range(Pages pages, MemoryKind kind,
                                                    const std::vector<Pages>& looked_at,
                                                    const std::vector<ObjectMapping>& objects) {
  int error = 0;
  std::vector<Pages> fresh;
  {
    std::lock_guard guard(ranges_);
    if (runs(pages, 0) != looked_at) return std::nullopt;
    fresh = own_range(pages, kind, objects);
    for (const ObjectMapping& object : objects)
      if (!error) error = adopt(kind.huge ? object.whole_blocks() : object);
  }
  if (!error) return fresh;
  drop_range(pages);
  throw Failure(FailureKind::OutOfMemory,
                std::string("pages that have other mappings, too, cannot be watched: ") + strerror(error));
}

std::vector<Pages> Driver::own_range(Pages& pages, MemoryKind kind,
                                     const std::vector<ObjectMapping>& objects) {
  refuse_too_many_owners(objects);
  second_tries_.forget();
  const Tracker tracker = tracker_for(kind);
  pages = kind.huge ? Pages{block_down(pages.begin), block_down(pages.end + kBlock - 1)} : whole(pages);
  for (uint64_t a = pages.begin; a < pages.end; a = block_down(a) + kBlock) directory_.make(a);
  CpuTable& cpu = cpu_table(tracker);
  std::vector<Pages> fresh = runs(pages, 0);
  for (Pages run : fresh) populate(run);
  for (size_t i = 0; i < fresh.size(); ++i) {
    int error = cpu.add(fresh[i], kind);
    if (!error) continue;
    while (i-- > 0) cpu.remove(fresh[i]); // as if nothing had happened
    const char* why = kind.huge && error == EPERM
                          ? "shared huge pages must be mapped a second time, and neither is a descriptor of "
                            "their file open nor may /proc/self/map_files be followed"
                          : strerror(error);
    throw Failure(FailureKind::Unsupported, std::string("this memory cannot be watched: ") + why +
                                                "; use hmm.asarray(x), which copies it");
  }
  each_block(pages, [&](Block& block, Pages part) {
    change(block, part, [&](PageState& state) {
      if (!state.owners()) {
        forget(state);
        state.set(kCpu, Hold::Exclusive);
        state.set_kind(kind);
        state.set_tracker(tracker);
      }
      state.add_owner();
    });
    if (part.begin == pages.begin) set_start(block, part.begin);
    return 0;
  });
  return fresh;
}

std::vector<Pages> Driver::drop_range(Pages pages) {
  std::lock_guard guard(ranges_);
  if (closed_) return {};
  pages = whole(pages);
  std::vector<Pages> last = runs(pages, 1);
  for (Pages run : last) // what a snapshot shares with the range would be lost to it
    each_block(run, [&](Block& block, Pages part) {
      return each_run(block, part, [&](Pages like) {
        const PageState state = block.page(like.begin);
        if (state.watched() && !state.several()) notify(block, like); // what cannot be read is lost to it
        return 0;
      });
    });
  each_block(pages, [&](Block& block, Pages part) {
    if (int error = bring_home(block, part)) return error;
    for (Pages gone : last)
      if (int error = leave_all(block, {std::max(gone.begin, part.begin), std::min(gone.end, part.end)}))
        return error;
    hidden_.set(block, part, false);
    for (Processor q = 1; q < processors(); ++q) tables_[q]->release(block, part);
    return each_run(block, part, [&](Pages run) {
      CpuTable& cpu = cpu_table(block.page(run.begin).tracker());
      cpu.forget_taken(block, run);
      for (Pages gone : last)
        if (const Pages end{std::max(gone.begin, run.begin), std::min(gone.end, run.end)}; !end.empty())
          cpu.remove(end);
      change(block, run, [](PageState& state) {
        state.drop_owner();
        if (!state.owners()) forget(state);
      });
      return 0;
    });
  });
  return last;
}

} // namespace hmm
