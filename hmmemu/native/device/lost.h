// What is said of GPU memory that nobody could save (device/cuda/keeper.h). No lock: said by whoever is last
// to write to the crash record, the keeper, or the CPU process when device and keeper are gone.
#pragma once
#include "device/protocol.h"
#include <cstdio>
#include <cstring>

namespace hmmemu::device {

// At the end of the crash record, which is one of the device itself if there was none.
inline void tell_lost(Channel& channel, const char* why) {
  Crash& crash = channel.crash;
  if (channel.crash_state.load() != kCrashComplete) crash.kind = kCrashDevice;
  const size_t used = strnlen(crash.message, sizeof crash.message - 1);
  snprintf(crash.message + used, sizeof crash.message - used, "%sWhat the GPU alone had is lost: %s.",
           used ? ". " : "", why);
  channel.crash_state = kCrashComplete;
}

} // namespace hmmemu::device
