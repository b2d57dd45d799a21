// The control socket's answering thread.
#pragma once
#include "userfault.h"

namespace hmmemu::device {

// What the agent needs; lives as long as the process.
struct Agent {
  int control, vram;
  Userfault userfault; // without a descriptor under tracker signal
};

// First message: the userfaultfd if there is one, or why the device cannot start. False if the parent is
// gone.
bool greet(const Agent& agent, const char* error);

// Answers requests until the socket closes. Thread body; `argument` is the Agent.
void* answer_requests(void* argument);

} // namespace hmmemu::device
