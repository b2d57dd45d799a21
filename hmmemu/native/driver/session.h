// A session: a driver together with the threads that bring it faults, from opening to closing.
//
// The driver and the receivers live in mmap'ed memory of the session, because driver threads must not read
// the heap (it may be managed memory, and then the read would fault).
#pragma once
#include "driver/driver.h"
#include "driver/receiver.h"

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

  // Throws Failure(Error) once the session is closed or in a fork child.
  Driver& driver();
  bool open() const { return !closed_ && pid_ == getpid(); }

  Processor attach(const DeviceLink& link);
  // A device process ended: everything it held comes home. A fault of it that still waits is forgotten.
  void detach(Processor p);
  // A new process takes its place.
  void reattach(Processor p, const DeviceLink& link);

  // All pages home, all threads ended. Arrays stay valid as plain memory. May be called twice.
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
  bool closed_ = false;
  Mapping memory_;
};

} // namespace hmm
