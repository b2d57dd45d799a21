// What driver threads use of a device process: its page table and its faults. Lies in pages of its own.
#pragma once
#include "channel_faults.h"
#include "memory/device_port.h"
#include "shootdown.h"

namespace hmmemu::device {

class Port final : public hmm::DevicePort {
 public:
  Port(Channel* channel, int bell, int vram)
      : shootdown(channel), faults(channel, bell), channel_(channel), vram_(vram) {}

  bool drop(hmm::Pages pages) override { return shootdown.zap(pages.begin, pages.bytes()); }
  int set_rights(hmm::Pages pages, hmm::Rights rights, bool object) override;
  int give(hmm::Pages pages, hmm::Rights rights, bool object) override;
  int give_zeros(hmm::Pages pages, hmm::Rights rights, bool object) override;
  int lend(hmm::Pages pages, bool object) override {
    return change(pages, object ? kLendObject : kLendCommon);
  }
  int end_lend(hmm::Pages pages) override { return change(pages, kEndLend); }
  // Rights that are left on a GPU would have to be looked for before each launch; and content that comes to
  // such a page is not seen by it.
  bool idle() const override {
    return channel_->tracker != kTrackerLaunch &&
           channel_->queue.completed.load() == channel_->queue.produced.load();
  }
  bool uses_objects() const override { return channel_->tracker == kTrackerLaunch; }
  int fetch(hmm::Pages pages) override { return exchange(pages, kFetch); }
  int store(hmm::Pages pages) override { return exchange(pages, kStore); }
  void wake(hmm::Pages pages) override { faults.retry(pages); }
  void refuse(hmm::Pages pages) override { faults.refuse(pages); }

  hmm::Access atomic(pid_t thread, uint64_t address) const override;
  int forbids(pid_t thread, uint64_t page, bool write) const override;
  void count_brought(pid_t thread, bool stays) override;
  void mark_remote(hmm::Pages pages, bool remote) override;

  // All that the ended process had is home, and another one is about to start, whose keeper holds the same
  // lock from then on; it answers.
  void memory_is_home() { phase_.fetch_or(1); }
  void attach(int pidfd);

  Shootdown shootdown;
  ChannelFaults faults; // tracker signal

 private:
  int give_by(hmm::Pages pages, MailboxOperation operation);
  bool settle(hmm::Pages pages);
  int change(hmm::Pages pages, MailboxOperation operation);
  FaultSlot* slot_of(pid_t thread) const; // null if that thread runs no blocks
  int exchange(hmm::Pages pages, MailboxOperation operation);
  bool came_home(uint32_t phase) const;

  Channel* channel_;
  const int vram_;
  std::atomic<uint32_t> phase_{1}; // even: there is a process, or one that ended and is not home yet
};

} // namespace hmmemu::device
