// The list of drivers is guarded by its own lock, which the fork handlers hold from before the fork until
// after it, so no driver comes or goes in between. In the child every driver is closed: its threads do not
// exist there.
#include "driver/fork.h"
#include "os/segv.h"

#include <mutex>
#include <pthread.h>

namespace hmm {
namespace {

constexpr unsigned kMostDrivers = 64;
Lock list_lock;
Driver* list[kMostDrivers];

template <class Act> void each_driver(Act act) {
  for (Driver* driver : list)
    if (driver) act(*driver);
}

void before() {
  list_lock.lock();
  each_driver([](Driver& d) { d.before_fork(); });
}

void in_parent() {
  each_driver([](Driver& d) { d.after_fork_in_parent(); });
  list_lock.unlock();
}

void in_child() {
  each_driver([](Driver& d) { d.after_fork_in_child(); });
  for (Driver*& driver : list) driver = nullptr;
  segv::forget_in_child();
  list_lock.reset();
}

} // namespace

void watch_forks(Driver& driver) {
  static const int registered = pthread_atfork(before, in_parent, in_child);
  if (registered) throw Failure(FailureKind::OutOfMemory, "pthread_atfork failed");
  std::lock_guard guard(list_lock);
  for (Driver*& slot : list) {
    if (slot) continue;
    slot = &driver;
    return;
  }
  throw Failure(FailureKind::OutOfMemory, "more than 64 open address spaces");
}

void forget_forks(Driver& driver) {
  std::lock_guard guard(list_lock);
  for (Driver*& slot : list)
    if (slot == &driver) slot = nullptr;
}

} // namespace hmm
