// Purpose: look for tickets, check launches, report completions. Invariants: see the header.
#include "tickets.h"
#include <cstdio>

namespace hmmemu::device {
namespace {

constexpr uint64_t kSleep = 1'000'000'000; // ns
constexpr unsigned kLooksPerClock = 32;

bool look_for(const Queue& queue, uint64_t ticket, bool spin, void (*meanwhile)()) {
  if (queue.produced.load(std::memory_order_acquire) >= ticket) return true;
  if (!spin) return false;
  const uint64_t limit = now_ns() + channel->spin_ns;
  do {
    for (unsigned i = 0; i < kLooksPerClock; i++) {
      if (queue.produced.load(std::memory_order_acquire) >= ticket) return true;
      meanwhile();
      cpu_pause();
    }
  } while (now_ns() < limit);
  return false;
}

} // namespace

// Looking keeps the CPU from everybody else: not if the thread that launches runs on this very CPU.
void wait_for_ticket(const Worker& worker, uint64_t ticket, void (*meanwhile)()) {
  Queue& queue = channel->queue;
  const Slot& last = queue.slots[(ticket - 2) % kSlots];
  const bool spin = channel->spin_ns != 0 && last.submitter_cpu != worker.cpu;
  while (!look_for(queue, ticket, spin, meanwhile)) {
    queue.dispatcher_asleep.store(1);
    const uint32_t bell = queue.submit_bell.load();
    if (queue.produced.load() < ticket) futex_wait(queue.submit_bell, bell, kSleep);
    queue.dispatcher_asleep.store(0);
  }
}

// The CPU process checks launches with the user's words; this is the last line before memory is
// overrun.
const char* refuse(const hmm_kernel* kernel, const Slot& slot) {
  static char message[256];
  const uint64_t threads = uint64_t(slot.block.x) * slot.block.y * slot.block.z;
  if (!kernel) return "the kernel's module is not loaded";
  if (uint64_t(slot.grid.x) * slot.grid.y * slot.grid.z == 0 || threads == 0)
    return "the grid or the block has no threads";
  if (slot.grid.x > 0x7fffffffu || slot.grid.y > 65535 || slot.grid.z > 65535)
    snprintf(message, sizeof message, "grid (%u, %u, %u) is beyond (2147483647, 65535, 65535)", slot.grid.x,
             slot.grid.y, slot.grid.z);
  else if (threads > kernel->max_threads || threads > HMM_MAX_THREADS)
    snprintf(message, sizeof message, "kernel %.100s takes at most %u threads a block, not %llu",
             kernel->name, kernel->max_threads, static_cast<unsigned long long>(threads));
  else if (uint64_t(kernel->static_shared) + slot.dynamic_shared > HMM_SHARED_BYTES)
    snprintf(message, sizeof message, "kernel %.100s: %u + %u bytes of shared memory are more than %u",
             kernel->name, kernel->static_shared, slot.dynamic_shared, HMM_SHARED_BYTES);
  else if (slot.param_bytes > kParamBytes || slot.param_bytes < kernel->param_bytes)
    snprintf(message, sizeof message, "kernel %.100s takes %u bytes of parameters, not %u", kernel->name,
             kernel->param_bytes, slot.param_bytes);
  else
    return nullptr;
  return message;
}

hmm_launch launch_of(const Slot& slot) {
  return {slot.grid,   slot.block,   slot.dynamic_shared, slot.flags, slot.params,
          slot.kernel, slot.extents, slot.extent_count,   0};
}

void complete(uint64_t ticket) {
  Queue& queue = channel->queue;
  queue.completed.store(ticket);
  queue.complete_bell.store(uint32_t(ticket));
  if (slot_of_ticket(ticket).awaited.load() != 0) futex_wake(queue.complete_bell, INT_MAX);
}

} // namespace hmmemu::device
