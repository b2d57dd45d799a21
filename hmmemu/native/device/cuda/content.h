// Content of pages, moved when it must be: to the GPU before the launch that needs it, home when the CPU
// wants it.
//
// What comes for a page is noted only (kComing). So all pages of a launch cross together, and a page that the
// CPU takes back before a launch needs it does not cross at all.
//
// LOCK: one thread sends at a time (worker 0, the agent), under a mutex of its own; `Sending` says so to
// those who take rights, before the sender looks for them.
#pragma once
#include "device/process/device.h"

namespace hmmemu::cuda {

// Held while somebody looks for rights, and then sends what those pages are to hold. Who has taken rights
// waits until nobody does: it takes as long as the copies, whatever the kernels.
class Sending {
 public:
  Sending();
  ~Sending();
  Sending(const Sending&) = delete;
};
void wait_until_sent();

// For a launch that has all of its rights and keeps them, while `Sending`: the GPU gets what its pages are to
// hold; what it may write counts as newer there from now on. Throws CudaError.
void send_content(const device::Slot& slot);

// The same for the pages of a device view, until it is closed. The agent; two views of the same pages close
// in any order.
void open_view(uint64_t begin, uint64_t end, bool writes);
void close_view(uint64_t begin, uint64_t end);

// Pages of one block that the caller has locked and uses, and that no launch uses: the file gets what the GPU
// has and it has not. Throws CudaError.
void bring_home(uint64_t begin, uint64_t end);

} // namespace hmmemu::cuda
