// The parts of the device process that its files share: the channel, the worker, and who may call
// what.
//
// Threads: main watches the parent; `agent` answers the control socket; `zap-N` answer mailbox N;
// `worker-N` run kernels, and worker 0 also takes them from the queue. All state belongs to one
// thread or is atomic.
#pragma once
#include "device/futex.h"
#include "device/protocol.h"
#include "hmmemu/abi.h"
#include <sys/types.h>

namespace hmmemu::device {

extern Channel* channel; // set by main before any other thread starts

// A worker as the loader sees it. `abi` is first: the kernel's `hmm_worker*` is a `Worker*`.
struct Worker {
  hmm_worker abi;
  int cpu;
  unsigned char *stack, *alternate_stack; // lowest addresses; a guard lies at each
  uint32_t guarded;                       // stacks that have a guard page
  // What runs now: written by this worker, read by it alone in its fault handler.
  const hmm_kernel* volatile kernel;
  volatile uint64_t ticket;
  uint64_t waited;     // when this worker last waited for others (relief.h), now_ns()
  uint32_t waits;      // ... so many times in a row
  volatile bool rerun; // the fault handler runs a block once more to find the thread
};

inline constexpr size_t kPage = 4096;
inline constexpr size_t kThreadStack = 8u << 20; // of a worker, and of its signal handlers
inline constexpr size_t kThreadGuard = 1u << 20; // below each; large frames must not step over it

inline uint64_t block_count(const hmm_launch& l) { return uint64_t(l.grid.x) * l.grid.y * l.grid.z; }

hmm_dim3 block_at(const hmm_launch& launch, uint64_t number);

// Anonymous memory that is only reserved until touched; the lowest `guard` bytes are not
// accessible. Returns null if there is none.
unsigned char* reserve_memory(size_t bytes, size_t guard);

// Runs `body(argument)` on a new thread named `name`. False if it cannot.
bool start_thread(const char* name, size_t stack_bytes, void* (*body)(void*), void* argument);
void pin_to_cpu(int cpu);

} // namespace hmmemu::device
