// How the device process dies: a record of what happened in the channel, then exit.
//
// The process never outlives a failure: memory that a failed kernel was writing is in no known
// state, and the CPU process starts a new device on the same video memory. The first thread that
// fails reports; others stop.
#pragma once
#include "device.h"

namespace hmmemu::device {

// Handlers for SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, for every thread.
void install_fault_handlers();

// Signal handlers of the calling thread run on [low, low + bytes).
void use_alternate_stack(unsigned char* low, size_t bytes);

// services->fail
void fail_kernel(hmm_worker* worker, int failure, const char* message)
    __attribute__((noreturn)); // as in abi.h: clang tells it from [[noreturn]]
// A launch that cannot run: the CPU process should have refused it.
[[noreturn]] void fail_launch(uint64_t ticket, const char* message);
// A launch of which CUDA says that it failed: with which result, and in what words.
[[noreturn]] void fail_on_gpu(uint64_t ticket, const hmm_kernel& kernel, const hmm_launch& launch, int result,
                              const char* message);
// A kernel that may touch a page which nobody owns (tracker launch).
[[noreturn]] void fail_access(uint64_t ticket, const hmm_kernel& kernel, const hmm_launch& launch,
                              uint64_t address, bool writes);
// The device's own code cannot go on.
[[noreturn]] void fail_device(const char* message);

inline constexpr int kExitFailure = 70;

} // namespace hmmemu::device
