// What CUDA writes in this process: printf of kernels to the standard output, failed assertions and its own
// complaints to the standard error. Both are files in memory here, which are never full, so that no call of
// CUDA waits for a reader; they are read when a launch has ended.
//
// Invariant: text is taken once, in order, whoever made CUDA write it (any call that waits for the GPU may).
// Worker 0 takes it when it has waited for a launch; whoever finds a launch failed takes it instead: until
// that one has ended worker 0 has none to take, and afterwards the process ends. No lock.
#pragma once
#include <string>

namespace hmmemu::cuda {

// Null, or why it cannot be had. From then on the standard output and error are not the user's.
const char* capture_output();

// What kernels printed goes to the channel, as an emulated device's does.
void deliver_printf();

// What was written to the standard error goes to the user's, and is returned.
std::string deliver_errors();

} // namespace hmmemu::cuda
