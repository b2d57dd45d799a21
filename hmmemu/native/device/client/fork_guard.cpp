// Purpose: in a fork child, close the descriptors of the parent's devices. A child that kept the
// userfaultfd or the socket would keep a dead device's kernel objects alive, and could disturb a
// living one. Lock: guard_lock, of the list and of the devices' lists of descriptors; held from before a
// fork until after it, so that the child finds them whole.
#include "fork_guard.h"
#include "base/failure.h"
#include "device_process.h"
#include <algorithm>
#include <pthread.h>
#include <vector>

namespace hmmemu::device {
namespace {

std::mutex guard_lock;
std::vector<DeviceProcess*> guarded;

void before() { guard_lock.lock(); }
void in_parent() { guard_lock.unlock(); }
void in_child() {
  for (DeviceProcess* process : guarded) process->abandon();
  guarded.clear();
  guard_lock.unlock();
}

} // namespace

void guard_fork(DeviceProcess* process) {
  static const int refused = pthread_atfork(before, in_parent, in_child);
  if (refused) throw hmm::Failure(hmm::FailureKind::OutOfMemory, "pthread_atfork failed");
  const std::lock_guard hold(guard_lock);
  guarded.push_back(process);
}

void unguard_fork(DeviceProcess* process) {
  const std::lock_guard hold(guard_lock);
  guarded.erase(std::remove(guarded.begin(), guarded.end(), process), guarded.end());
}

std::unique_lock<std::mutex> no_fork() { return std::unique_lock(guard_lock); }

} // namespace hmmemu::device
