// Driver: what a fork does to the pages (driver/fork.cpp calls these, in this order).
//
// The child gets the pages as they are in this process, without its userfaultfd: a page that is away, or
// write-protected, would be wrong there. So everything comes home first, writable, and nothing can leave
// until the child exists, because every page stays locked.
//
// Private memory the kernel copies on write. An arena that lies in a file (make_arena) it would share, so the
// child does not get that mapping at all (MADV_DONTFORK; a fork that calls no handlers leaves it without),
// but a copy that is made here (memory/fork_copy.h). Stores of other threads wait meanwhile, so that it is of
// one moment, as the kernel's would be.
#include "driver/driver.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace hmm {

void Driver::before_fork() {
  ranges_.lock();
  lock_everything();
  if (!closed_)
    for (uint32_t slot = 0; slot < directory_.size(); ++slot) {
      Block& block = directory_.at(slot);
      bring_home(block, {block.address, block.address + kBlock});
    }
  if (arena_kind_.shared) copy_arena();
}

void Driver::after_fork_in_parent() {
  if (arena_kind_.shared) {
    fork_copy_.end();
    each_touched([&](Block& block, Pages run) { return thaw(block, run), 0; });
  }
  unlock_everything();
  ranges_.unlock();
}

// The caller holds the range lock, so no block is added meanwhile.
void Driver::lock_everything() {
  for (uint32_t slot = 0; slot < directory_.size(); ++slot) {
    Block& block = directory_.at(slot);
    PageLocks::lock(block, block.all());
  }
}

void Driver::unlock_everything() {
  for (uint32_t slot = directory_.size(); slot-- > 0;) {
    Block& block = directory_.at(slot);
    unlock(block, block.all());
  }
}

void Driver::after_fork_in_child() {
  // The descriptors speak for the parent's memory: closing them here leaves the parent's registrations alone.
  closed_ = true;
  PageLocks::forget_thread();
  uffd_ = Userfaultfd();
  sync_ = Userfaultfd();
  common_.close();
  if (async_) async_->close();
  if (arena_kind_.shared) fork_copy_.give(arena_);
  for (uint32_t slot = directory_.size(); slot-- > 0;) {
    Block& block = directory_.at(slot);
    block.lock.reset();
    each_run(block, {block.address, block.address + kBlock}, [&](Pages run) {
      const PageState state = block.page(run.begin);
      if (state.managed() && !in_arena_file(run.begin)) cpu_table(state.tracker()).abandon(run, state.kind());
      return 0;
    });
    PageLocks::mark(block, block.all(), false);
    block.waiting.fill({});
    block.waiters = 0;
  }
  ranges_.reset();
}

// Calls act(block, run) for pages of an arena in a file that were touched: all others are zeros.
template <class Act> int Driver::each_touched(Act act) {
  for (uint32_t slot = 0; slot < directory_.size(); ++slot) {
    Block& block = directory_.at(slot);
    if (!in_arena_file(block.address)) continue;
    const int error = each_run(block, block.all(), [&](Pages run) {
      const PageState state = block.page(run.begin);
      return state.managed() && !state.untouched() ? act(block, run) : 0;
    });
    if (error) return error;
  }
  return 0;
}

// Nobody else can be told: fork itself cannot be made to fail here.
void Driver::copy_arena() {
  uint64_t bytes = 0;
  each_touched([&](Block& block, Pages run) {
    freeze(block, run);
    bytes += run.bytes();
    return 0;
  });
  int error = fork_copy_.begin(bytes);
  if (!error)
    error = each_touched(
        [&](Block& block, Pages run) { return fork_copy_.add(run, common_.frames(block, run)); });
  if (!error) return;
  fork_copy_.end();
  char text[256];
  const int length =
      snprintf(text, sizeof text,
               "hmmemu: a fork child gets no copy of %llu MiB of shared arrays (%s); it will end "
               "with SIGSEGV where it touches them. Fork before they are allocated, or spawn.\n",
               static_cast<unsigned long long>(bytes >> 20), strerror(error));
  if (write(STDERR_FILENO, text, static_cast<size_t>(length)) < 0) return; // nowhere to say it
}

// Stores of the CPU wait until `thaw`. Where a protection fails (too many mappings) they go on.
void Driver::freeze(Block& block, Pages run) {
  if (closed_ || catch_stores(block, run) != 0) return;
  each_run(block, run, [&](Pages part) {
    const PageState state = block.page(part.begin);
    if (state.hold(kCpu) == Hold::Exclusive && cpu_table(state.tracker()).protect(block, part) == 0)
      change(block, part, [](PageState& s) { s.set(kCpu, Hold::Shared); });
    return 0;
  });
}

// Everything is home: who else could read these pages?
void Driver::thaw(Block& block, Pages run) {
  const PageState state = block.page(run.begin);
  if (closed_ || state.hold(kCpu) != Hold::Shared || state.watched()) return;
  if (cpu_table(state.tracker()).unprotect(block, run) != 0) return; // the next store asks for it
  change(block, run, [](PageState& s) { s.set(kCpu, Hold::Exclusive); });
  notice_stores(block, run, 1);
}

} // namespace hmm
