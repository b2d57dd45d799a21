// Driver: its life, from the ways to catch accesses to the end of all. What it does meanwhile has files of
// its own: faults.cpp and requests.cpp (what comes in), transitions.cpp (what is done), ranges.cpp and
// devices.cpp (with what memory, for whom).
//
// INVARIANT: `closed_` is set once, before every page comes home for the last time; ranges and devices that
// end later find nothing to do.
// LOCKS: the range lock (base/lock.h); the pages of one block at a time.
#include "driver/driver.h"

#include "os/segv.h"

#include <mutex>

namespace hmm {

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

// From now on this process's access violations come here first.
void Driver::use_signals() {
  if (signal_) return;
  signal_.emplace(directory_, aliases_);
  cpu_[static_cast<unsigned>(Tracker::Signal)] = &*signal_;
  segv::add(
      {.access = [](void* self, const Fault& fault) { return static_cast<Driver*>(self)->fault_here(fault); },
       .beyond = [](void* self, const Fault& fault) { return static_cast<Driver*>(self)->beyond_end(fault); },
       .context = this});
}

void Driver::bring_all_home() {
  std::lock_guard guard(ranges_);
  if (closed_.exchange(true)) return;
  for (uint32_t slot = 0; slot < directory_.size(); ++slot) {
    Block& block = directory_.at(slot);
    each_block({block.address, block.address + kBlock}, [&](Block& b, Pages all) {
      unwatch(b, all);
      if (int error = bring_home(b, all)) return error;
      if (int error = leave_all(b, all)) return error; // nobody takes their rights again
      return each_run(b, all, [&](Pages run) { // protections have no descriptor that would take them along
        const PageState state = b.page(run.begin);
        if (state.managed() && state.tracker() == Tracker::Signal) signal_->remove(run);
        return 0;
      });
    });
  }
}

// The kernel drops every registration with the descriptor, and wakes whoever waits.
void Driver::release() {
  std::lock_guard ranges(ranges_);
  uffd_ = Userfaultfd();
  sync_ = Userfaultfd();
  segv::remove(this);
  make_arena_private();
  std::lock_guard guard(merging_);
  merged_.reset(); // nothing is merged any more
}

// Of plain memory fork children have a copy. Nothing is copied here: the mapping changes in one step, and
// what is stored afterwards stays out of the file, as what nobody writes stays in it. If it cannot be done (a
// limit of the address space that counts private memory only), a fork child does not have the arena.
void Driver::make_arena_private() {
  if (!arena_kind_.shared) return;
  void* const at =
      mmap(reinterpret_cast<void*>(arena_.begin), arena_.bytes(), PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, common_.file(), static_cast<off_t>(arena_.begin));
  if (at != MAP_FAILED) arena_kind_ = {};
}

} // namespace hmm
