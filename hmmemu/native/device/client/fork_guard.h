// Keeps fork children away from their parent's devices.
#pragma once

namespace hmmemu::device {

class DeviceProcess;

// From now on, until `unguard`, a fork child lets go of this device's descriptors.
void guard_fork(DeviceProcess* process);
void unguard_fork(DeviceProcess* process);

} // namespace hmmemu::device
