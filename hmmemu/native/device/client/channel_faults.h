// Page faults of a device whose tracker is signal, as the driver reads and answers them.
//
// Used by driver threads: no lock, nothing allocated, no memory touched but the channel and this object,
// which must lie in pages of its own. A kernel's wild store can change any slot: then a fault is reported
// that was none, or one is never answered and the device gives up, but nothing is read or written out of
// place.
#pragma once
#include "base/pages.h"
#include "device/futex.h"
#include "device/protocol.h"
#include "os/fault.h"

namespace hmmemu::device {

class ChannelFaults final : public hmm::FaultSource {
 public:
  // `bell` is the eventfd that the device rings; it stays the caller's.
  ChannelFaults(Channel* channel, int bell) : channel_(channel), bell_(bell) {}

  int fd() const override { return bell_; }
  // Each fault that is read is to be answered. `fd` polls as readable until nothing more was read.
  unsigned read(hmm::Fault* faults, unsigned limit) override;

  // Every thread that waits for one of these pages tries again, or takes its access for an error.
  void retry(hmm::Pages pages) const { answer(pages, kFaultRetry); }
  void refuse(hmm::Pages pages) const { answer(pages, kFaultRefused); }

  // Asks a thread that waits for one of these pages to give its process rights to all of them, so that no
  // other thread of it need be asked, and does not wait until it has. False: nobody waits for them. `error`:
  // 0, or why a thread could not have what it was granted before; it goes on waiting for an answer.
  bool grant(hmm::Pages pages, MailboxOperation rights, int& error) const;
  // True: no thread is about to give its process rights to any of these pages. Sleeps `limit_ns` at most.
  bool settled(hmm::Pages pages, uint64_t limit_ns) const;

  // A new process: nobody waits.
  void reset() const;

 private:
  unsigned scan(hmm::Fault* faults, unsigned limit) const;
  void answer(hmm::Pages pages, FaultState state) const;
  template <class Visit> void each_slot(Visit visit) const;

  Channel* channel_;
  int bell_;
};

} // namespace hmmemu::device
