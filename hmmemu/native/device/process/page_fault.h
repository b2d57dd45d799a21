// Tracker signal: page faults of this process become messages to the driver, as they do with a userfaultfd.
#pragma once
#include <csignal>
#include <cstdint>
#include <ucontext.h>

namespace hmmemu::device {

// `bell` is the eventfd to ring. Before any mapping of video memory.
bool post_faults_to(int bell);

// Called first by the SIGSEGV handler. True: the access will do now. False: it is an error of the kernel's,
// either not an access to video memory or one that the driver refused. Async-signal-safe, any thread, also
// from within a handler.
bool resolve_page_fault(const siginfo_t* info, const ucontext_t* context);

// The same under tracker uffd, for an access in the moment in which video memory takes the place of lent
// frames (video_memory.h): waits until that is over. True: try again.
bool was_being_mapped(const siginfo_t* info, const ucontext_t* context);

// Asks the driver for a page that this thread needs, and waits until it is there. False: nobody owns it.
bool ask_for_page(uint64_t address, bool writes);

} // namespace hmmemu::device
