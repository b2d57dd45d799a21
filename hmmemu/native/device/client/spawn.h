// Starts the device program.
#pragma once
#include "owned_fd.h"
#include <cstdint>
#include <string>
#include <sys/types.h>

namespace hmmemu::device {

struct Child {
  pid_t pid = -1;
  OwnedFd pidfd; // readable once the process has ended
};

struct SpawnPlan {
  std::string program;
  int control, channel, vram, bell; // descriptors that the child keeps
  unsigned index, layout;
};

// Throws hmm::Failure(Device) if the program cannot be run. The child starts with all signals
// blocked.
Child spawn(const SpawnPlan& plan);

// This process's soft limit of RLIMIT_STACK, for the child to go back to.
uint64_t stack_limit();

} // namespace hmmemu::device
