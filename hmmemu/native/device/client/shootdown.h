// The CPU process's end of the shootdown mailboxes: makes a device drop page table entries.
//
// Called by driver threads under page locks. So: no lock but the mailbox's own, nothing allocated,
// no memory touched but the caller's stack, the channel and this object, which must lie in pages of
// its own (the heap may be managed memory). Every wait has a limit.
#pragma once
#include "device/futex.h"
#include "device/protocol.h"

namespace hmmemu::device {

class Shootdown {
 public:
  explicit Shootdown(Channel* channel) : channel_(channel) {}

  // Drops the device's page table entries of [address, address + length), whole pages; frames stay
  // in the video memory file. True: there are none any more (a process that has ended has none).
  // False: the device did not answer within the limit; it must be killed before the pages can be
  // relied upon, and all later calls return false at once until it is.
  bool zap(uint64_t address, uint64_t length);

  // The process that `pidfd` stands for answers from now on. Waits for calls under way (limited).
  void attach(int pidfd);
  // The process has ended and will not touch memory any more.
  void detach() { gone_ = 1; }

 private:
  struct alignas(64) Lock {
    std::atomic<uint32_t> word; // 0 free, 1 held, 2 held and wanted
  };
  bool acquire(Lock& lock, uint64_t deadline);
  void release(Lock& lock);
  bool exchange(Mailbox& box, uint64_t address, uint64_t length, uint64_t deadline);
  bool process_ended();

  Channel* channel_;
  std::atomic<int> pidfd_{-1};
  std::atomic<uint32_t> gone_{1}, broken_{0};
  Lock locks_[kMaxWorkers]{};
};

// The same, for callers that know the object as an address (DeviceProcess::shootdown_context).
inline bool zap(void* context, uint64_t address, uint64_t length) {
  return static_cast<Shootdown*>(context)->zap(address, length);
}

} // namespace hmmemu::device
