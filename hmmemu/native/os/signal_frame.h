// What the kernel says about a page fault in the context that it hands a signal handler, per architecture.
// Pure functions, async-signal-safe; they read the stack of the calling thread and nothing else.
#pragma once
#include "base/pages.h"
#include "os/fault.h"
#include <csignal>
#include <ucontext.h>

namespace hmm::segv {

// Whether the signal is a page fault, told by the kernel; then which.
bool fault_of(const siginfo_t& info, const ucontext_t& context, Fault& fault);

// Whether the signal was raised by a signal handler of this thread that was called for a page fault; then
// which.
bool fault_below(const siginfo_t& info, const ucontext_t& context, Fault& fault);

} // namespace hmm::segv
