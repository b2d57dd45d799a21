// Pages that several processors want at once: when to hold one of them up, and when to let all use one copy.
//
// The rules and the defaults of NVIDIA's driver (open-gpu-kernel-modules, kernel-open/nvidia-uvm/
// uvm_perf_thrashing.c): a page that changed hands `events` times, each within a lapse of the one before, is
// thrashing. From then on a fault brings no neighbours, and who got the page keeps it for a lapse: a fault of
// another processor is answered at the end of it (throttle), so that each side gets a batch of work done, and
// they take turns. After `throttles` of these the page is pinned for `pin` lapses: a device that wants it for
// plain accesses maps it in the CPU's memory, where all can use it. (Atomics that need the page alone go on
// by turns.)
//
// Only faults are looked at, never pages, and only those that take something from a processor that may still
// be using it: not from a device on which nothing runs, nor from a CPU that has launched a kernel since. So a
// program whose CPU and device take turns of their own accord never thrashes.
//
// INVARIANT: what is said here changes when something is done, and where the page is; never what is read
// there. The table forgets (the page that is met last at a place of it stays), which makes a page one that
// does not thrash.
//
// LOCKS: one a place, taken last of all (base/lock.h) and held for a few loads and stores. Times are
// now_ns().
#pragma once
#include "base/lock.h"
#include "base/pages.h"
#include "protocol/state.h"
#include <mutex>

namespace hmm {

struct ThrashingPolicy {
  bool on = true;
  uint64_t lapse = 500'000; // ns
  uint8_t events = 3, throttles = 10;
  unsigned pin = 300; // lapses
};

class Thrashing {
 public:
  struct Advice {
    uint64_t wait_until = 0; // 0: not at all. Nothing was noted then of this fault.
    bool single = false;     // no neighbours
    bool pin = false;        // better where all can use it
  };

  // A fault of `p` takes a page from others. `used(q, since)`: whether q, which got the page at that time,
  // may still be at it. `patient`: it has not waited yet.
  template <class Used>
  Advice fault(const ThrashingPolicy& policy, Processor p, uint64_t page, uint64_t now, bool patient,
               Used used) {
    Place& place = places_[page / kChunk % kPlaces];
    std::lock_guard guard(place.lock);
    if (place.chunk != page / kChunk) begin(place, page / kChunk);
    const bool taken = place.owner != p && place.since && used(place.owner, place.since);
    return place.note(policy, p, page, now, taken, patient);
  }
  // Places whose pages need not be pinned any more; they are told once. visit(page).
  template <class Visit> void each_end_of_pin(uint64_t now, Visit visit) {
    if (!pins_.load(std::memory_order_relaxed)) return;
    for (Place& place : places_)
      if (const uint64_t page = take_end_of_pin(place, now)) visit(page);
  }
  // `page` is pinned from now on: a device maps it.
  void pin(const ThrashingPolicy& policy, uint64_t page, uint64_t now);

 private:
  // 64 KiB. One page of it is watched at a time: the one that faulted last.
  struct Place {
    Lock lock;
    uint8_t events, throttles;
    Processor owner; // who got a page of it last
    uint64_t chunk;  // number; 0: none
    uint64_t page;   // that one
    uint64_t since;  // and when
    uint64_t last;   // event
    uint64_t keep;   // the owner keeps the page until then
    uint64_t pinned; // a page; 0: none
    uint64_t pin_end;
    Advice note(const ThrashingPolicy& policy, Processor p, uint64_t at, uint64_t now, bool taken,
                bool patient);
  };
  void begin(Place& place, uint64_t chunk);
  void unpin(Place& place);
  uint64_t take_end_of_pin(Place& place, uint64_t now);

  static constexpr uint64_t kChunk = 16 * kPage;
  static constexpr unsigned kPlaces = 1024;
  Place places_[kPlaces] = {};
  std::atomic<unsigned> pins_{0};
};

} // namespace hmm
