// The control socket's answering thread.
#pragma once
#include "userfault.h"

namespace hmmemu::device {

// What the agent needs; lives as long as the process.
struct Agent {
  int control, vram;
  Userfault userfault;
};

// First message: the userfaultfd, or why there is none. False if the parent is gone.
bool greet(const Agent& agent, const char* error);

// Answers requests until the socket closes. Thread body; `argument` is the Agent.
void* answer_requests(void* argument);

} // namespace hmmemu::device
