// The device's end of the queue: tickets in order, looked for, checked, reported as completed.
//
// Invariants: one thread, worker 0, takes tickets. `completed` is raised by one thread at a time, in order,
// after everything the ticket did; it never passes `produced`. Before sleeping, worker 0 says so and looks
// once more; the producer writes first and asks then. Those who sleep until a ticket has completed say so in
// its slot in the same way: tickets for which nobody waits wake nobody.
#pragma once
#include "device.h"

namespace hmmemu::device {

inline Slot& slot_of_ticket(uint64_t ticket) { return channel->queue.slots[(ticket - 1) % kSlots]; }

// Worker 0: waits until the ticket is there. Calls `meanwhile` again and again while it looks for it, which
// is not for long.
void wait_for_ticket(const Worker& worker, uint64_t ticket, void (*meanwhile)());

// Why a launch cannot run; null: it can. `kernel`: what its handle names, or null.
const char* refuse(const hmm_kernel* kernel, const Slot& slot);
hmm_launch launch_of(const Slot& slot);

void complete(uint64_t ticket);

} // namespace hmmemu::device
