// A receiver: the thread that reads the page faults of one processor and hands them to the driver.
//
// It runs on the CPU of the thread that faults. That decides everything about a fault's cost: waking a thread
// on another, idle CPU takes tens of microseconds, on the same CPU a few, because the faulting thread has
// just gone to sleep there. So the receiver follows: it learns on which CPU its clients fault and moves
// there.
//
// The object lives in mmap'ed memory and its thread blocks all signals, holds no GIL and allocates nothing.
#pragma once
#include "driver/driver.h"
#include <pthread.h>

namespace hmm {

struct ThreadOnCpu {
  pid_t thread;
  int cpu;
};

class Receiver {
 public:
  // `pinned` lists threads that never change their CPU (a device's workers); others are looked up in /proc.
  Receiver(Driver& driver, Processor p, FaultSource& source, const std::vector<ThreadOnCpu>& pinned);
  // Stops the thread; faults not yet read stay unread. Waits for it (the driver's limits apply).
  ~Receiver();
  Receiver(const Receiver&) = delete;

 private:
  static void* run(void* self);
  void loop();
  void weigh_more();
  void look_for_handlers();
  void serve(const Fault& fault, bool patient);
  void serve_held();
  timespec time_to_wait() const;
  void follow(const Fault& fault);
  int cpu_of(pid_t thread);
  void move_to(int cpu);

  static constexpr int kNice = -10; // -5 is too little
  static constexpr unsigned kMostPinned = 256;
  static constexpr unsigned kMostHeld = 64;
  static constexpr int kLookForHandlersMs = 100;
  static constexpr uint64_t kLookEvery = 400'000; // ns between two looks into /proc, which take 8 us each

  Driver& driver_;
  const Processor p_;
  FaultSource& source_;
  ThreadOnCpu pinned_[kMostPinned];
  unsigned pinned_count_ = 0;
  int cpu_ = -1;
  uint64_t next_look_ = 0;     // now_ns()
  uint64_t next_handlers_ = 0; // now_ns()
  int elsewhere_ = 0;          // faults in a row from another CPU
  // Faults that are to be served later, because their page thrashes (driver/thrashing.h).
  struct Held {
    Fault fault;
    uint64_t until; // now_ns()
  };
  Held held_[kMostHeld];
  unsigned held_count_ = 0;
  int wake_fd_ = -1;
  pthread_t thread_;
};

} // namespace hmm
