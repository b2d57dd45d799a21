// The CPU process's end of the mailboxes: makes a device drop page table entries, or changes its rights.
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

  // What the device may do with [address, address + length) from now on (tracker signal). 0; ESRCH: the
  // process has ended; any other errno: rights were not given, and it has none there. Who does not answer
  // within the limit is ended: its rights could not be relied upon.
  int set_rights(uint64_t address, uint64_t length, MailboxOperation rights);

  // For others who wait for an answer of the device.
  bool process_ended(int wait_ms = 0);
  int end_process(); // it gave none; returns ESRCH
  // How long an answer may take. A GPU answers when the launches that use the page have ended; what is
  // limited is one of them: it begins anew when one has ended that was queued when the wait began (`mailbox`:
  // or an answer has come there). Who waits has the page locked, and those who wait for that go by it, too.
  class Patience {
   public:
    explicit Patience(const Channel& channel, const Mailbox* mailbox = nullptr);
    bool over();

   private:
    uint64_t progress() const;
    const Channel& channel_;
    const Mailbox* const mailbox_;
    const bool gpu_;
    const uint64_t last_; // launch that may be waited for
    uint64_t seen_, deadline_;
  };

  // The process that `pidfd` stands for answers from now on. Waits for calls under way (limited).
  void attach(int pidfd);
  // The process has ended and will not touch memory any more.
  void detach() { gone_ = 1; }

 private:
  struct alignas(64) Lock {
    std::atomic<uint32_t> word; // 0 free, 1 held, 2 held and wanted
  };
  bool acquire(Lock& lock, const Mailbox* mailbox = nullptr);
  void release(Lock& lock);
  struct Change {
    MailboxOperation operation;
    uint64_t address, length;
  };
  // 0, ESRCH (ended), ETIMEDOUT (no answer), or the device's errno.
  int change(const Change& change);
  int exchange(Mailbox& box, const Change& change);

  Channel* channel_;
  std::atomic<int> pidfd_{-1};
  std::atomic<uint32_t> gone_{1}, broken_{0};
  Lock locks_[kMaxWorkers]{};
};

} // namespace hmmemu::device
