// Launches in flight: the GPU has been given them, and they are not reported as completed.
//
// The GPU runs them one after another, in the order of their tickets, as they are in one stream. So the next
// is launched while others run, and a program of small kernels does not pay the way there and back for each.
// Behind each kernel the stream writes the kernel's ticket into a word of pinned memory
// (cuStreamWriteValue64, which makes all that the stream did before visible to everybody first:
// https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__MEMOP.html). Whoever finds it there reports all
// tickets up to it: worker 0 while it looks for the next ticket, else a thread that does nothing else.
//
// Failures: once a kernel has failed, all calls of the context say so and not which it was, and the stream
// does nothing more. So it was the first whose ticket is not in the word. What worker 0 itself has to say of
// a launch is said when all before it are through, so that it cannot take the blame for one of those.
//
// Some launches have nothing behind them until they have ended, and are waited for by cuStreamSynchronize:
// all, where the GPU lacks that write; those of modules that print, as text is CUDA's to deliver, and only
// when something waits; and those that share memory with the CPU, as they may wait for it, and what worker 0
// does to prepare the next may wait for them (CUDA unmaps memory when nothing runs).
//
// INVARIANTS
//   - In flight are the tickets from completed + 1 to `sent`, kDepth at most: fewer than CUDA takes before a
//   launch
//     waits inside of it, with its locks held. `sent` is raised by worker 0, when all is in the stream.
//   - Nobody waits in a circle. A launch in flight has its pages and needs nobody. The thread that reports
//   waits for no
//     page, no copy and no lock that is held during one. Worker 0 waits for pages with no ticket of its own
//     written to blocks (residency.h), and for launches in flight.
//   - A marker has a ticket and no work: its time is when the report comes to it.
// LOCK: `reporting` is held while tickets are reported: a leaf. There is no limit to how long a kernel may
// run: the CPU process has those, and ends this one.
#pragma once
#include "libcuda.h"

namespace hmmemu::cuda {

inline constexpr uint64_t kDepth = 64;

// Once, before the first launch, by worker 0, whose stream it is, and before it is pinned to its CPU: the
// other thread is not to be there. Null, or why it cannot be.
const char* open_flight(Stream* stream);
// Whether launches may follow each other; else each is waited for.
bool can_follow();

// Worker 0, ticket by ticket. In flight from now on: what the stream was given last belongs to it (throws
// CudaError); it has ended, and all before it; it is a marker.
void follow(uint64_t ticket);
void pass(uint64_t ticket);
void mark(uint64_t ticket);

// Any thread: reports what has ended. Costs two loads if nothing has.
void report_ended();
// Worker 0: waits until there is room for one more; or, all that are in flight have been reported.
void wait_for_room();
void wait_for_all();

// Worker 0: this launch has its pages, and needs nobody to end (it shares no memory with the CPU).
void needs_nobody(uint64_t ticket);
// Any thread, with no lock: waits until the launches of which that was said have been reported.
void wait_for_memory();

// This launch has failed. Ends the process. Any thread; the caller knows that nobody takes text meanwhile
// (output.h).
[[noreturn]] void fail_on_gpu(uint64_t ticket, const CudaError& error);

} // namespace hmmemu::cuda
