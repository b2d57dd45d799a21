// Invariants: only the watching thread starts relief threads and counts them; a relief thread never ends, and
// sleeps while it is not called. Launches that nobody has to relieve cost a futex call or none.
#include "relief.h"
#include "pool.h"
#include "workers.h"
#include <algorithm>

namespace hmmemu::device {
namespace {

constexpr uint64_t kLook = 3'000'000, kSleep = 5'000'000'000; // ns
constexpr uint64_t kInARow = 100'000;                         // ns between two waits, at most
constexpr uint32_t kAwake = 32;                               // waits before the first sleep
constexpr uint64_t kShortest = 20'000, kLongest = 10'000'000; // sleep, ns
constexpr uint64_t kEach = 5'000;                             // ... for each thread that may want a CPU
constexpr size_t kStack = 256u << 10;

std::atomic<uint32_t> never{0};   // nobody changes it: to sleep on
std::atomic<uint32_t> watched{0}; // odd: a launch to watch is under way
std::atomic<uint32_t> calls{0};   // counts calls to the relief threads
bool watching = false;            // worker 0 only: the watching thread exists
std::atomic<uint32_t> started{0}; // relief threads
std::atomic<uint32_t> asleep{0};  // of them

uint64_t at_work() { return started.load() - std::min(started.load(), asleep.load()); }

void wait_for_call(uint32_t heard) {
  asleep.fetch_add(1);
  while (calls.load() == heard) futex_wait(calls, heard, kSleep, Scope::process);
  asleep.fetch_sub(1);
}

void relieve(Worker& w) {
  for (uint32_t heard = 0;;) {
    join_launch(w);
    wait_for_call(heard);
    heard = calls.load();
  }
}

// Wakes relief threads, all that there are, and starts others until `count` of them are at work.
void call(uint32_t count) {
  calls.fetch_add(1);
  futex_wake(calls, int(count), Scope::process);
  while (started < count && start_relief(started, relieve)) started++;
}

void watch_until_end(uint32_t launch) {
  uint64_t before = 0;
  for (uint64_t wanted = 1; watched.load() == launch;) {
    futex_wait(watched, launch, kLook, Scope::process);
    const uint64_t left = look_at_launch();
    if (left != 0 && left == before) {
      call(uint32_t(std::min<uint64_t>(wanted, kMaxBlocks)));
      wanted = std::min(2 * wanted, at_work() + left);
    }
    before = left;
  }
}

void* watch(void*) {
  for (uint32_t seen = 0;;) {
    const uint32_t now = watched.load();
    if (now == seen || now % 2 == 0) {
      futex_wait(watched, now, kSleep, Scope::process);
      continue;
    }
    watch_until_end(seen = now);
  }
}

// Threads that wait must not keep the CPUs from those for whom they wait.
uint64_t sleep_of(uint32_t waits) {
  const uint64_t longest = std::clamp(kEach * at_work(), kShortest, kLongest);
  return std::min(kShortest << std::min((waits - kAwake) / 8, 10u), longest);
}

} // namespace

void wait_for_others(hmm_worker* worker) {
  Worker& w = *reinterpret_cast<Worker*>(worker);
  *worker->wanted = kWantedNothing; // what the kernel waits for, it may look at with plain loads
  if (now_ns() - w.waited > kInARow) w.waits = 0;
  if (w.waits++ < kAwake)
    yield(worker);
  else
    futex_wait(never, 0, sleep_of(w.waits), Scope::process);
  w.waited = now_ns();
}

void watch_launch() {
  if (!watching) watching = start_thread("relief", kStack, watch, nullptr);
  watched.fetch_add(1);
  futex_wake(watched, 1, Scope::process);
}

void unwatch_launch() {
  watched.fetch_add(1);
  futex_wake(watched, 1, Scope::process);
}

} // namespace hmmemu::device
