// Keeps fork children away from their parent's devices.
#pragma once
#include <mutex>

namespace hmmemu::device {

class DeviceProcess;

// From now on, until `unguard`, a fork child lets go of this device's descriptors.
void guard_fork(DeviceProcess* process);
void unguard_fork(DeviceProcess* process);

// While it is held no fork begins: for changes of what a child lets go of, which it must find whole.
[[nodiscard]] std::unique_lock<std::mutex> no_fork();

} // namespace hmmemu::device
