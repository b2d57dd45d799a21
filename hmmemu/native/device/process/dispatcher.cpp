// Purpose: take tickets from the channel in order, run them, and report each as completed: all by worker 0.
#include "dispatcher.h"
#include "failure.h"
#include "modules.h"
#include "pool.h"
#include "tickets.h"
#include "video_memory.h"

namespace hmmemu::device {
namespace {

void run(Worker& w, Slot& slot, uint64_t ticket) {
  if (slot.kind == kSlotMarker) {
    slot.time_ns = now_ns();
    return;
  }
  const hmm_kernel* const kernel = find_kernel(slot.kernel);
  if (const char* const reason = refuse(kernel, slot)) fail_launch(ticket, reason);
  if (slot.confined) forget_entries(); // pages that were brought for others are refused, too
  run_launch(w, kernel, launch_of(slot), ticket);
}

} // namespace

void run_queue(Worker& w) {
  for (uint64_t ticket = channel->queue.completed.load() + 1;; ticket++) {
    wait_for_ticket(w, ticket, [] {});
    run(w, slot_of_ticket(ticket), ticket);
    complete(ticket);
  }
}

} // namespace hmmemu::device
