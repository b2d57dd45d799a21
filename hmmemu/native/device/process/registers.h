// What a signal's context says about the access that failed, on each processor. Async-signal-safe.
#pragma once
#include "device/protocol.h"
#include <csignal>
#include <ucontext.h>

namespace hmmemu::device {

// CrashAccess; unknown if the signal is not of a memory access.
uint32_t access_of(const ucontext_t* context);

// Where it ran; 0 on processors that we do not know.
uint64_t instruction_of(const ucontext_t* context);

// SI_KERNEL: the processor did not say which address (on x86, one that is not canonical).
inline bool address_known(const siginfo_t* info) { return info->si_code > 0 && info->si_code != SI_KERNEL; }

} // namespace hmmemu::device
