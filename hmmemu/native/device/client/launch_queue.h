// The CPU process's end of the launch queue: tickets out, completions in. Any thread.
//
// A ticket ends in one of two ways: completed, or lost with its process. Lost tickets stay known
// for ever, so that a wait for one never mistakes the counting of the next process for its own
// completion.
#pragma once
#include "device/protocol.h"
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace hmmemu::device {

struct LaunchSpec {
  uint64_t kernel; // handle from DeviceProcess::load
  hmm_dim3 grid, block;
  uint32_t dynamic_shared, flags;
  const void* params;
  size_t param_bytes;         // at most kParamBytes
  const void* extents;        // hmm_extent[extent_count]
  size_t extent_count;        // at most HMM_EXTENTS
  std::vector<Reach> reaches; // at most kReaches
  bool confined = false;      // to `reaches`
};

enum class WaitResult { done, timeout, dead };

class LaunchQueue {
 public:
  explicit LaunchQueue(Channel* channel) : channel_(channel), queue_(channel->queue) {}

  // Returns the ticket, or 0 if the queue was full for `limit_ns`. Throws Failure(Device) while
  // closed.
  uint64_t launch(const LaunchSpec& spec, uint64_t limit_ns, int pidfd);
  uint64_t marker(uint64_t limit_ns, int pidfd);

  // Waits for a ticket. `dead`: it is lost, and its process has ended and writes no memory any
  // more.
  WaitResult wait(uint64_t ticket, uint64_t limit_ns, int pidfd);
  bool completed(uint64_t ticket);
  uint64_t last_ticket() const { return queue_.produced.load(); }
  uint64_t completed_ticket() const;

  // When a completed marker was reached, CLOCK_MONOTONIC ns. Throws Failure(Range) for any other
  // ticket, and for one older than the last kKeptTimes markers.
  uint64_t marker_time(uint64_t ticket);

  // No more launches: the process is being ended.
  void close();
  // A new process is about to take over: what the ended one did not complete is lost, and the
  // counting goes on at `last_ticket() + 1`. Until then `completed_ticket` tells how far the ended
  // one came.
  void lose_rest();
  void open();

 private:
  enum class Fate { open, completed, lost };
  Fate fate(uint64_t ticket);
  bool has_room(size_t reaches) const;
  Slot* wait_for_room(std::unique_lock<std::mutex>& hold, size_t reaches, uint64_t limit_ns, int pidfd);
  void write_reaches(Slot& slot, const Reach* reaches, size_t count);
  uint64_t submit();
  WaitResult sleep_until(uint64_t ticket, uint64_t deadline, int pidfd);

  static constexpr size_t kKeptTimes = 1 << 16;
  Channel* const channel_;
  Queue& queue_;
  std::mutex lock_; // guards what follows and writing slots; held for short sections, never while waiting
  bool open_ = false;
  std::vector<std::pair<uint64_t, uint64_t>> lost_; // [first, last]
  uint64_t reach_head_ = 0;                         // places of Channel::reaches ever used
  uint64_t reach_begins_[kSlots] = {};              // ... before the ticket of each slot
  std::unordered_map<uint64_t, uint64_t> times_,
      older_; // of markers whose slot was used again, two generations
  std::atomic<uint64_t> last_lost_{0};
};

} // namespace hmmemu::device
