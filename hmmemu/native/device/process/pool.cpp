// Purpose: hand out a launch's blocks in chunks, in order, to the workers that come.
//
// Worker 0 writes the job, opens the gate, rings the bell and works. A helper enters through the gate (a count of
// those inside), takes chunks until none is left, and leaves. Worker 0 closes the gate when the chunks are gone and
// waits only for those inside: a helper that wakes up too late finds the gate shut and costs nothing.
//
// Invariant: the job is written only while the gate is shut and nobody is inside.
// Wake-ups spread as a tree (each that wakes wakes two more), so worker 0 pays for at most two.
#include "pool.h"

namespace hmmemu::device {
namespace {

constexpr uint32_t kOpen = 1u << 31, kOwnerSleeps = 1u << 30;
constexpr uint64_t kChunksPerWorker = 8;
constexpr uint64_t kOwnerSpin = 50'000, kSleep = 1'000'000'000; // ns

struct Job {
  hmm_launch launch;
  const hmm_kernel* kernel;
  uint64_t ticket, total, chunk;
};

uint32_t worker_count = 1;
Job job;
alignas(64) std::atomic<uint64_t> next_block{0};
alignas(64) std::atomic<uint32_t> gate{0};
alignas(64) std::atomic<uint32_t> bell{0};
std::atomic<uint32_t> sleepers{0};

bool chunks_left() { return next_block.load(std::memory_order_relaxed) < job.total; }

void run_blocks(Worker& w, const Job& j, uint64_t first, uint64_t end) {
  const hmm_dim3 block = block_at(j.launch, first);
  w.abi.thread_known = 0;
  w.abi.block.x = block.x;
  w.abi.block.y = block.y;
  w.abi.block.z = block.z;
  j.kernel->run(&w.abi, &j.launch, first, end);
}

void work(Worker& w, const Job& j) {
  w.ticket = j.ticket;
  w.launch = &j.launch;
  w.kernel = j.kernel;
  for (;;) {
    const uint64_t first = next_block.fetch_add(j.chunk, std::memory_order_relaxed);
    if (first >= j.total)
      break;
    run_blocks(w, j, first, first + j.chunk < j.total ? first + j.chunk : j.total);
  }
  w.kernel = nullptr;
}

void wake_two() {
  if (sleepers.load() != 0)
    futex_wake(bell, 2, Scope::process);
}

bool enter() {
  uint32_t seen = gate.load(std::memory_order_acquire);
  while (seen & kOpen)
    if (gate.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel))
      return true;
  return false;
}

void leave() {
  if (gate.fetch_sub(1, std::memory_order_acq_rel) - 1 == kOwnerSleeps)
    futex_wake(gate, 1, Scope::process);
}

void close_and_wait() {
  uint32_t inside = gate.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
  const uint64_t limit = inside ? now_ns() + (channel->spin_ns ? kOwnerSpin : 0) : 0;
  while (inside) {
    if (now_ns() < limit) {
      cpu_pause();
      inside = gate.load(std::memory_order_acquire);
      continue;
    }
    inside = gate.fetch_or(kOwnerSleeps, std::memory_order_acq_rel) | kOwnerSleeps;
    if (inside == kOwnerSleeps)
      break;
    futex_wait(gate, inside, kSleep, Scope::process);
    inside = gate.load(std::memory_order_acquire) & ~kOwnerSleeps;
  }
  gate.store(0, std::memory_order_relaxed);
}

} // namespace

void open_pool(uint32_t workers) { worker_count = workers; }

void run_launch(Worker& w, const hmm_kernel* kernel, const hmm_launch& launch, uint64_t ticket) {
  const uint64_t total = block_count(launch), chunk = total / (worker_count * kChunksPerWorker);
  job = {launch, kernel, ticket, total, worker_count == 1 ? total : chunk ? chunk : 1};
  next_block.store(0, std::memory_order_relaxed);
  const bool shared = job.chunk < total;
  if (shared) {
    gate.store(kOpen, std::memory_order_release);
    bell.fetch_add(1);
    wake_two();
  }
  work(w, job);
  if (shared)
    close_and_wait();
}

void help(Worker& w) {
  uint32_t heard = 0;
  for (;;) {
    sleepers.fetch_add(1);
    uint32_t now = bell.load();
    if (now == heard)
      futex_wait(bell, heard, kSleep, Scope::process);
    sleepers.fetch_sub(1);
    now = bell.load();
    if (now == heard || !enter()) {
      heard = now;
      continue;
    }
    heard = now;
    if (chunks_left())
      wake_two();
    work(w, job);
    leave();
  }
}

} // namespace hmmemu::device
