#include "driver/session.h"

#include "driver/fork.h"
#include "trace/counters.h"
#include <new>
#include <unistd.h>

namespace hmm {

Session::Session(Policy policy, Tracker tracker) : pid_(getpid()), memory_(page_up(sizeof(State))) {
  State* made = new (memory_.as<void>()) State(policy, tracker);
  if (tracker != Tracker::Signal) // else each thread serves its own faults
    made->receivers[kCpu].emplace(made->driver, kCpu, made->driver.userfaultfd(), std::vector<ThreadOnCpu>{});
  if (tracker == Tracker::Async)
    made->synchronous.emplace(made->driver, kCpu, made->driver.synchronous(), std::vector<ThreadOnCpu>{});
  watch_forks(made->driver);
}

Session::~Session() {
  if (pid_ != getpid()) return; // a fork child: the threads are not here, the memory goes with the process
  close();
  state().~State();
}

Session::Use Session::use() noexcept {
  if (pid_ != getpid()) return Use(nullptr);
  uses_.fetch_add(1); // first: either closing sees it, or it sees that the session is closed
  if (!closed_) return Use(this);
  uses_.fetch_sub(1);
  return Use(nullptr);
}

Session::Use Session::last_use() {
  if (Use found = use()) return found;
  close(); // somebody else does already
  return Use(nullptr);
}

Session::Use Session::driver() {
  if (Use found = use()) return found;
  if (pid_ != getpid())
    throw Failure(FailureKind::Closed,
                  "this address space belongs to the process that this one was forked from: its "
                  "arrays are plain memory here; open an AddressSpace of your own");
  throw Failure(FailureKind::Closed, "the address space is closed");
}

void Session::receive(Processor p, const DeviceLink& link) {
  FaultSource& faults = link.userfaultfd < 0 ? *link.faults : driver()->device_userfaultfd(p);
  state().receivers[p].emplace(state().driver, p, faults, link.workers);
}

Processor Session::attach(const DeviceLink& link) {
  const Processor p = driver()->attach(link.vram, link.userfaultfd, link.port);
  receive(p, link);
  return p;
}

void Session::detach(Processor p) {
  driver()->evacuate(p);
  state().receivers[p].reset();
}

void Session::reattach(Processor p, const DeviceLink& link) {
  driver()->replace_process(p, link.userfaultfd, link.port);
  receive(p, link);
}

void Session::close() {
  if (pid_ != getpid()) return;
  std::lock_guard guard(closing_);
  if (closed_.exchange(true)) return;
  for (const Limit limit; uses_.load(); usleep(100))
    if (!limit.left()) {
      closed_ = false;
      throw Failure(FailureKind::Device,
                    "the address space cannot be closed: another thread is in a call of it");
    }
  state().driver.bring_all_home();
  for (auto& receiver : state().receivers) receiver.reset();
  state().synchronous.reset();
  // Only now: a receiver must not read a descriptor that somebody else may have been given meanwhile. A
  // thread that faulted in between wakes up here and finds plain memory.
  state().driver.release();
  forget_forks(state().driver); // last: until then a fork child gets its arrays from the driver
}

} // namespace hmm
