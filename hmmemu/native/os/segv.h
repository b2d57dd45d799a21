// Page faults as signals: one process-wide handler for SIGSEGV and SIGBUS that turns them into a typed Fault.
//
// The handler runs in the thread that faulted, on its alternate signal stack where it has one, with all other
// signals held back. It asks each hook whether the fault is its own; the first that says yes has served it,
// and the instruction runs again. A fault that is nobody's goes to the handler that was there before ours, or
// to the default action, with the signal, the address and the mask that it would have seen without us.
//
// Others install handlers too (Python's faulthandler, signal.signal, crash reporters). One that comes after
// ours is put below it by `ensure_installed`, which whoever takes rights away calls. If it gets a fault of
// ours before that and raises the signal again (faulthandler prints its report, restores ours and does), the
// fault is served all the same (x86-64 only: the signal frame of the fault lies on the stack).
//
// LOCKS: a leaf lock guards installing; the handler takes no lock, allocates nothing and preserves errno. The
// table of hooks is fixed and read without a lock.
#pragma once
#include "base/pages.h"
#include "os/fault.h"

namespace hmm::segv {

struct Hook {
  using OnFault = bool (*)(void* context, const Fault& fault);

  OnFault access = nullptr; // SIGSEGV: an address that is not mapped, or not with this right
  OnFault beyond = nullptr; // SIGBUS: a mapping without anything behind it (a file that was truncated)
  void* context = nullptr;  // must not lie on the heap if the heap can be managed memory
};

// Installs the handler, at the first call. Throws Failure(OutOfMemory) if 64 hooks are there.
void add(const Hook& hook);
// Waits until no thread is inside the hook any more (fatal after 120 s). An unknown context does nothing.
void remove(void* context);
// In a fork child: no hook, no thread inside one. The handler stays and passes everything on.
void forget_in_child();

// Puts our handlers on top again if somebody replaced them, and moves the calling thread's alternate signal
// stack away from memory that may be managed. Async-signal-safe, one system call a signal and one for the
// stack; does nothing while there is no hook. LIMIT: a thread that never calls us keeps its alternate stack
// where it is.
void ensure_installed();

} // namespace hmm::segv
