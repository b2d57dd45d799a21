// A session: a driver together with the threads that bring it faults, from opening to closing.
//
// The driver and the receivers live in mmap'ed memory of the session, because driver threads must not read
// the heap (it may be managed memory, and then the read would fault).
#pragma once
#include "driver/driver.h"
#include "driver/receiver.h"

#include <atomic>
#include <mutex>
#include <utility>

namespace hmm {

// What the session needs to know of a device process.
struct DeviceLink {
  int vram;
  int userfaultfd; // -1: it catches its faults itself
  std::vector<ThreadOnCpu> workers;
  DevicePort* port;    // neither may lie on the heap
  FaultSource* faults; // of a device without userfaultfd
};

class Session {
 public:
  Session(Policy policy, Tracker tracker);
  ~Session(); // closes
  Session(const Session&) = delete;

  // The driver for the time of one call, which closing waits for: s.driver()->access(...). May be empty.
  class Use {
   public:
    explicit Use(Session* session) : session_(session) {}
    Use(Use&& other) noexcept : session_(std::exchange(other.session_, nullptr)) {}
    ~Use() {
      if (session_) session_->uses_.fetch_sub(1);
    }
    explicit operator bool() const { return session_ != nullptr; }
    Driver* operator->() const { return &session_->state().driver; }

   private:
    Session* session_;
  };

  Use use() noexcept; // empty once the session is closed, or in a fork child
  Use last_use();     // as `use`; where it is empty, closing has ended: memory may go that the driver knew
  Use driver();       // throws Failure(Closed) then
  bool open() const { return !closed_ && pid_ == getpid(); }

  Processor attach(const DeviceLink& link);
  // A device process ended: everything it held comes home. A fault of it that still waits is forgotten.
  void detach(Processor p);
  // A new process takes its place.
  void reattach(Processor p, const DeviceLink& link);

  // All pages home, all threads ended. Arrays stay valid as plain memory. May be called twice. Calls that
  // other threads have begun end first; Failure(Device) if they do not within two minutes.
  void close();

 private:
  struct State {
    State(Policy policy, Tracker tracker) : driver(policy, tracker) {}
    Driver driver;
    std::optional<Receiver> receivers[kMaxProcessors];
    std::optional<Receiver> synchronous; // of the CPU, under Tracker::Async
  };
  State& state() const { return *memory_.as<State>(); }
  void receive(Processor p, const DeviceLink& link);

  const pid_t pid_;
  std::mutex closing_; // held while it closes; nothing of the driver is held then
  std::atomic<bool> closed_ = false;
  std::atomic<unsigned> uses_ = 0; // calls under way
  Mapping memory_;
};

} // namespace hmm
