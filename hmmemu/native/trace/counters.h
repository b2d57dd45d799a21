// What happened, counted: per processor and per pair of processors.
//
// Everything but times is counted before the pages are mapped, so that who waited for a page finds it
// counted. Plain relaxed atomics in the driver's own memory; written by driver threads, read by anybody at
// any time.
#pragma once
#include "protocol/transition.h"
#include <atomic>
#include <cstdint>
#include <ctime>

namespace hmm {

inline uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return uint64_t(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

enum class Cause : uint8_t { Fault, Prefetch, Launch, Home, Eviction, kCount }; // why pages moved
inline constexpr unsigned kCauses = static_cast<unsigned>(Cause::kCount);

struct Count {
  std::atomic<uint64_t> value{0};
  void add(uint64_t n = 1) { value.fetch_add(n, std::memory_order_relaxed); }
  uint64_t get() const { return value.load(std::memory_order_relaxed); }
  void reset() { value.store(0, std::memory_order_relaxed); }
};

struct ProcessorCounters {
  Count read_faults, write_faults; // messages from the processor, resolved
  Count spurious_faults;           // found resolved already
  Count refused_faults;            // nobody owns the address
  Count fault_ns;                  // time the driver spent on them
  Count first_touch_pages, upgraded_pages, invalidated_pages;
  Count remote_pages;    // of which the CPU's frame was mapped, for atomics over the link
  Count exclusive_pages; // of those, whose mapping the CPU lost meanwhile
  Count throttles;       // faults that were held up, because their page thrashed
  Count pinned_pages;    // that thrashed, and were mapped in the CPU's memory for it
  Count evicted_pages;   // copies given up for want of memory
};

// Some moves of pages from one processor to another.
struct Moves {
  uint64_t moves = 0, pages = 0, fewest = 0, most = 0;
  void add(uint64_t n) {
    ++moves, pages += n;
    if (fewest == 0 || n < fewest) fewest = n;
    if (n > most) most = n;
  }
};

// Pages copied from one processor to another.
struct TransferCounters {
  Count moves, pages, duplicated_pages, ns;
  Count by_cause[kCauses];
  std::atomic<uint64_t> fewest{0}, most{0}; // pages of one move

  void add(uint64_t n, bool duplicate, Cause cause) { add(Moves{1, n, n, n}, duplicate, cause); }
  void add(const Moves& done, bool duplicate, Cause cause) {
    moves.add(done.moves);
    pages.add(done.pages);
    if (duplicate) duplicated_pages.add(done.pages);
    by_cause[static_cast<unsigned>(cause)].add(done.pages);
    uint64_t seen = fewest.load(std::memory_order_relaxed);
    while ((seen == 0 || done.fewest < seen) && !fewest.compare_exchange_weak(seen, done.fewest)) {}
    seen = most.load(std::memory_order_relaxed);
    while (done.most > seen && !most.compare_exchange_weak(seen, done.most)) {}
  }
  void reset() {
    for (Count* count : {&moves, &pages, &duplicated_pages, &ns}) count->reset();
    for (Count& count : by_cause) count.reset();
    fewest = most = 0;
  }
};

struct Counters {
  ProcessorCounters processor[kMaxProcessors];
  TransferCounters transfer[kMaxProcessors][kMaxProcessors]; // [from][to]

  void reset() {
    for (auto& p : processor)
      for (Count* count :
           {&p.read_faults, &p.write_faults, &p.spurious_faults, &p.refused_faults, &p.fault_ns,
            &p.first_touch_pages, &p.upgraded_pages, &p.invalidated_pages, &p.remote_pages,
            &p.exclusive_pages, &p.throttles, &p.pinned_pages, &p.evicted_pages})
        count->reset();
    for (auto& row : transfer)
      for (auto& cell : row) cell.reset();
  }
};

} // namespace hmm
