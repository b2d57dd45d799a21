// An emulated device's process as the CPU process sees it: its start and end, its memory map, its
// modules, its launches, what it printed and what killed it.
//
// Descriptors keep their numbers over restarts (userfaultfd(), vram(), the pidfd, the bell), and so do the
// channel and the port; a descriptor registered with epoll must be registered again.
// Thread-safe, except that the destructor must be the last call. In a fork child every call throws
// Failure(Closed), and the parent's device is left alone. Driver threads touch the port
// only, which lies in pages of its own: this one lies on the heap, which may be managed memory.
//
// LOCK ORDER: lifecycle_ (start, kill, reap) before control_lock_ (one request at a time) before
// LaunchQueue::lock_ and the fork guard's. kill() does not need control_lock_: a request that hangs ends when
// its process does.
#pragma once
#include "base/mapping.h"
#include "control.h"
#include "launch_queue.h"
#include "port.h"
#include "spawn.h"
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace hmmemu::device {

struct Loaded {
  std::string tables;    // JSON: module, bytes_used, kernels, globals; empty if the variables did not fit
  uint64_t bytes_needed; // for the module's variables
};

struct CrashReport {
  Crash record;     // as the device wrote it, zeros if it died without a word
  int exit_status;  // of waitpid; -1 if somebody else took it
  bool from_record; // false: only the exit status is known
  std::string message;
};

class DeviceProcess {
 public:
  // Starts the program `program`. `workers`: 0 is one for each CPU that this process may use. `gpu`: under
  // kTrackerLaunch.
  // Throws Failure.
  DeviceProcess(std::string program, unsigned index, unsigned workers, unsigned layout,
                Tracker tracker = kTrackerUserfaultfd, unsigned gpu = 0);
  ~DeviceProcess(); // ends the process
  DeviceProcess(const DeviceProcess&) = delete;

  // Makes [address, address + length), whole pages, part of the device's address space, watched by
  // its tracker. Throws Failure(Range) if the device process uses those addresses itself:
  // restart it with the next layout and map everything again.
  void map(uint64_t address, uint64_t length);
  void unmap(uint64_t address, uint64_t length);
  // The CPU's frames of [address, address + length) lie in an object from `offset` on, which `fd` (O_PATH)
  // names; a length of 0: all those of private memory lie in the file `fd`, at their addresses. `fd` stays
  // the caller's. For the next process, too, until they are unmapped or forgotten. False: the device
  // cannot open it. Nothing is done for a GPU, which maps no frames of the CPU's.
  bool tell_frames(int fd, uint64_t address, uint64_t length, uint64_t offset);
  void forget_frames(uint64_t address, uint64_t length);

  // Tracker launch. The range's pages keep memory on the GPU until they are released, for whoever uses it
  // there (device views). 0; or a page for which the GPU lacks the right to read (to write), and nothing is
  // held.
  uint64_t hold(uint64_t address, uint64_t length, bool writes);
  void release(uint64_t address, uint64_t length);
  // A descriptor of the memory of the 2 MiB block at `address`, which is held; the caller's.
  OwnedFd share(uint64_t address);

  // Loads a kernel module; its variables go to [globals, globals + room), initialised if asked for.
  // Without enough room nothing is loaded, and the result has no tables but the bytes that are
  // needed.
  Loaded load(const std::string& path, uint64_t globals, uint64_t room, bool initialise);
  void unload(uint64_t module);
  void ping();

  // See LaunchQueue for the meanings.
  uint64_t launch(const LaunchSpec& spec, uint64_t limit_ns);
  uint64_t marker(uint64_t limit_ns);
  uint64_t marker_time(uint64_t ticket);
  WaitResult wait(uint64_t ticket, uint64_t limit_ns);
  bool completed(uint64_t ticket);
  uint64_t last_ticket() { return owned().queue_.last_ticket(); }
  uint64_t completed_ticket() { return owned().queue_.completed_ticket(); }

  // What atomics of system scope can do from the next launch on: hmm_link in abi.h.
  void set_link(uint64_t native_unsigned, uint64_t native_signed, uint32_t fallback);

  // A GPU's device: the module of kernels/pages.cu, by which it moves pages; before any memory is mapped.
  // Throws Failure(Range): the path is too long.
  void set_page_kernels(const std::string& path);
  const Crossings& crossings() { return owned().channel_->crossings; }
  // Why the device does without; empty if nothing is wrong.
  std::string no_page_kernels();
  // Why memory that the GPU alone has would be lost with a kernel that fails; empty if it would not.
  std::string not_kept();

  // Atomic operations that modules counted since the last `clear_atomics`, of processes that ended too:
  // entries of all threads one after the other, and how many operations found no entry. While nothing runs.
  struct AtomicCounts {
    std::vector<hmm_atomic_count> entries;
    uint64_t lost;
  };
  AtomicCounts atomic_counts();
  void clear_atomics();

  // printf text not yet taken; and the bytes that were ever lost because nobody took it in time.
  std::string take_output();
  uint64_t output_dropped() { return owned().channel_->output.dropped.load(); }

  bool alive();
  // What ended the process; nothing while it lives, or if `kill` ended it. Until `restart`.
  std::optional<CrashReport> crash();
  // Ends the process and waits until it is gone. Launches under way are lost. Harmless if it has
  // ended.
  void kill();
  // A new process on the same video memory, with the same tracker, no mappings and no modules.
  // Kills the old one first. Throws Failure; the object is then without a process, and restart may
  // be tried again.
  // `distance`: of a GPU's addresses from the CPU's, which every later process has, too (protocol.h).
  void restart(std::optional<unsigned> layout = {}, std::optional<int64_t> distance = {});

  // The driver's way to the device's page table; stays valid as long as this object. Driver threads use it
  // and not this object.
  Port& port() { return owned().port_; }
  Tracker tracker() const { return tracker_; }

  int userfaultfd() const { return userfaultfd_.get(); } // -1 under tracker signal
  int vram() const { return vram_.get(); }
  pid_t pid() const { return pid_; }
  unsigned layout() const { return layout_; }
  int64_t distance() const { return distance_; }
  // At which the device has room for the range that it could not map last; 0: it did not say.
  int64_t offered_distance() { return owned().channel_->offered_distance.load(); }
  uint64_t features() const { return features_; } // UFFD_FEATURE_*
  bool user_mode_only() const { return user_mode_only_; }
  // Thread and CPU of each worker: they are pinned.
  std::vector<std::pair<pid_t, int>> workers();

  // In a fork child: lets go of the descriptors. Everything else stays untouched.
  void abandon();

 private:
  struct ChannelMemory {
    ChannelMemory();
    ~ChannelMemory();
    OwnedFd fd;
    Channel* channel;
  };
  DeviceProcess& owned();
  void start();
  void greet();
  void end_locked();
  void wait_for_memory();
  bool reap();
  void reset_channel();
  Answer ask(Request& request, uint64_t limit_ns);
  Answer ask_about(RequestKind kind, uint64_t address, uint64_t length, bool writes = false);
  struct HostFrames {
    std::shared_ptr<OwnedFd> file; // also that of other parts of the object; null: none any more
    uint64_t address, length, offset;
  };
  bool tell(const HostFrames& frames);
  void drop_frames(uint64_t address, uint64_t length);
  uint32_t threads_with_logs() const;

  const std::string program_;
  const unsigned index_, workers_wish_, gpu_;
  const Tracker tracker_;
  std::atomic<unsigned> layout_;
  std::atomic<int64_t> distance_{0};
  const pid_t owner_;
  ChannelMemory memory_;
  Channel* const channel_;
  OwnedFd vram_, bell_, userfaultfd_, pidfd_;
  std::atomic<pid_t> pid_{-1};
  std::atomic<uint64_t> features_{0};
  std::atomic<bool> user_mode_only_{false};
  hmm::Mapping port_memory_{sizeof(Port)};
  Port& port_;
  LaunchQueue queue_;

  std::mutex lifecycle_; // guards the following three and starting and ending
  bool reaped_ = true, killed_ = false;
  int exit_status_ = -1;
  std::mutex control_lock_; // guards the following two; no_fork(), too, is held to change host_frames_
  std::vector<HostFrames> host_frames_;
  Control control_;
  std::mutex output_lock_;                // among takers
  std::atomic<uint32_t> most_threads_{0}; // that ran blocks in a process that has ended
};

} // namespace hmmemu::device
