// Purpose: hand out a launch's blocks in chunks to the workers that come.
//
// Worker 0 writes the job, opens the gate, rings the bell and works. A helper enters through the
// gate (a count of those inside), takes chunks until none is left, and leaves. Worker 0 closes the
// gate when the chunks are gone and waits only for those inside: a helper that wakes up too late
// finds the gate shut and costs nothing.
//
// Waking a sleeping helper costs tens of microseconds, more than many launches take. So
// - a helper that has just worked stays awake for kStayAwake, giving its CPU to whoever wants it,
//   and joins the next launch within a fraction of a microsecond;
// - worker 0 remembers how long a kernel's blocks took the last time, and calls nobody to a launch
//   that it will have finished before anybody comes; launches that wait behind this one count as
//   more of it. It still calls once the launch has lasted longer than that, or when a kernel says
//   that it spins. Blocks may wait for each other without a word: helper 1 looks for an open gate
//   every kLook even if nobody calls.
// Wake-ups spread as a tree (each that wakes wakes two more), so worker 0 pays for at most two.
//
// The blocks are cut into as many parts as workers are awake. A worker begins with its own part, so
// that launch after launch over the same arrays finds them in the same CPU's cache, and goes on with
// the parts behind it. Worker 0 thus takes blocks in the order of their numbers: a block may wait
// for one with a lower number, which has always begun. Chunks shrink as a part goes on (a share of
// what is left, down to one block or a fraction of a microsecond), so that all workers end at about
// the same time however unequal the blocks are.
//
// Kernels whose blocks may wait for each other (hmm_kernel::waits) are handed out block by block, and
// relief.h adds threads when no block begins any more.
//
// Invariant: the job, the parts and `smallest` are written only while the gate is shut and nobody is inside.
#include "pool.h"
#include "relief.h"
#include "workers.h"
#include <algorithm>
#include <limits>
#include <sched.h>

namespace hmmemu::device {
namespace {

constexpr uint32_t kOpen = 1u << 31, kOwnerSleeps = 1u << 30;
constexpr uint64_t kSharePerWorker = 4; // a chunk is 1/(4 * workers) of the blocks that are left
constexpr uint64_t kShareAlone = 4;     // ... if no helper is expected
constexpr uint64_t kOwnerSpin = 50'000, kWorthCalling = 50'000, kStayAwake = 50'000; // ns
constexpr unsigned kLooksPerYield = 32;
constexpr double kShortChunk = 500;                             // ns
constexpr uint64_t kLook = 200'000'000, kSleep = 5'000'000'000; // ns

struct Job {
  hmm_launch launch;
  const hmm_kernel* kernel;
  uint64_t ticket, total;
};

// How long one block of a kernel took, the last time; worker 0 only. A stranger in the slot is no
// more than a wrong guess.
struct Habit {
  const hmm_kernel* kernel;
  uint64_t threads;
  double ns_per_block;
} habits[256];

// Blocks that are handed out in order.
struct alignas(64) Part {
  std::atomic<uint64_t> next;
  uint64_t end;
} parts[kMaxWorkers];

uint32_t worker_count = 1, cpu_count = 1;
uint32_t part_count = 1;
bool called = true; // worker 0 only: whether helpers know of the launch, or none are wanted
Job job;
alignas(64) std::atomic<uint64_t> share{1}; // a chunk is 1/share of what is left of a part
uint64_t smallest = 1;                      // ... but not fewer blocks than this
alignas(64) std::atomic<uint32_t> gate{0};
alignas(64) std::atomic<uint32_t> bell{0};
std::atomic<uint32_t> sleepers{0};
alignas(64) std::atomic<uint32_t> awake{0}; // helpers that work, or look for work

struct Chunk {
  uint64_t first, end;
};

// Cuts the launch into `count` parts of about the same number of blocks.
void cut(uint64_t total, uint32_t count) {
  part_count = uint32_t(count < total ? count : total);
  const uint64_t each = total / part_count, more = total % part_count;
  uint64_t begin = 0;
  for (uint32_t i = 0; i < part_count; i++) {
    parts[i].next.store(begin, std::memory_order_relaxed);
    parts[i].end = begin += each + (i < more);
  }
}

// The next chunk of a part; empty at its end.
Chunk take_chunk(Part& part) {
  uint64_t first = part.next.load(std::memory_order_relaxed), end;
  do {
    if (first >= part.end) return {first, first};
    const uint64_t left = part.end - first;
    const uint64_t blocks = std::max(left / share.load(std::memory_order_relaxed), smallest);
    end = first + std::min(blocks, left);
  } while (!part.next.compare_exchange_weak(first, end, std::memory_order_relaxed));
  return {first, end};
}

uint64_t blocks_left() {
  uint64_t left = 0;
  for (uint32_t i = 0; i < part_count; i++)
    left += parts[i].end - std::min(parts[i].next.load(std::memory_order_relaxed), parts[i].end);
  return left;
}

void run_blocks(Worker& w, const Job& j, uint64_t first, uint64_t end) {
  const hmm_dim3 block = block_at(j.launch, first);
  w.abi.thread_known = 0;
  w.abi.block.x = block.x;
  w.abi.block.y = block.y;
  w.abi.block.z = block.z;
  j.kernel->run(&w.abi, &j.launch, first, end);
  *w.abi.wanted = kWantedNothing;
}

// Calls `after_chunk` between chunks. Returns how many blocks this worker ran.
template <class After> uint64_t work(Worker& w, const Job& j, After after_chunk) {
  uint64_t blocks = 0;
  w.ticket = j.ticket;
  w.abi.launch = &j.launch;
  w.kernel = j.kernel;
  for (uint32_t i = 0; i < part_count; i++) {
    Part& part = parts[(w.abi.index + i) % part_count];
    for (Chunk chunk; chunk = take_chunk(part), chunk.first != chunk.end;) {
      run_blocks(w, j, chunk.first, chunk.end);
      blocks += chunk.end - chunk.first;
      after_chunk();
    }
  }
  w.kernel = nullptr;
  return blocks;
}

void wake_two() {
  if (sleepers.load() != 0) futex_wake(bell, 2, Scope::process);
}

// What is left of a part goes in shares, or block by block.
uint64_t share_of(uint64_t usual) { return job.kernel->waits ? std::numeric_limits<uint64_t>::max() : usual; }

void call_helpers() {
  called = true;
  share.store(share_of(kSharePerWorker * worker_count / part_count), std::memory_order_relaxed);
  wake_two();
}

Habit& habit_of(const hmm_kernel* kernel, const hmm_launch& launch) {
  const uint64_t threads = uint64_t(launch.block.x) * launch.block.y * launch.block.z;
  Habit& habit = habits[(reinterpret_cast<uint64_t>(kernel) / sizeof(hmm_kernel) + threads) % 256];
  if (habit.kernel != kernel || habit.threads != threads) habit = {kernel, threads, 1e9};
  return habit;
}

// As many blocks as a chunk should have at least, to be worth its price. One where there are few blocks
// for each worker: they may all wait for each other.
uint64_t smallest_chunk(double ns_per_block) {
  const uint64_t most = job.total / (8 * worker_count);
  if (most < 2) return 1;
  return uint64_t(std::clamp(kShortChunk / std::max(ns_per_block, 1.0), 1.0, double(most)));
}

// Worker 0's part of a launch of several chunks.
void work_with_help(Worker& w) {
  Habit& habit = habit_of(job.kernel, job.launch);
  called = false;
  share.store(share_of(kShareAlone), std::memory_order_relaxed);
  cut(job.total, 1 + awake.load(std::memory_order_relaxed));
  smallest = job.kernel->waits ? 1 : smallest_chunk(habit.ns_per_block);
  gate.store(kOpen, std::memory_order_release);
  bell.fetch_add(1);
  const uint64_t waiting = channel->queue.produced.load(std::memory_order_relaxed) - job.ticket;
  if (habit.ns_per_block * double(job.total) * double(1 + waiting) >= double(kWorthCalling)) call_helpers();
  const uint64_t begin = now_ns();
  const uint64_t blocks = work(w, job, [begin] {
    if (!called && now_ns() - begin >= kWorthCalling) call_helpers();
  });
  called = true;
  if (blocks) habit.ns_per_block = double(now_ns() - begin) / double(blocks);
}

bool enter() {
  uint32_t seen = gate.load(std::memory_order_acquire);
  while (seen & kOpen)
    if (gate.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel)) return true;
  return false;
}

void leave() {
  if (gate.fetch_sub(1, std::memory_order_acq_rel) - 1 == kOwnerSleeps) futex_wake(gate, 1, Scope::process);
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
    if (inside == kOwnerSleeps) break;
    futex_wait(gate, inside, kSleep, Scope::process);
    inside = gate.load(std::memory_order_acquire) & ~kOwnerSleeps;
  }
  gate.store(0, std::memory_order_relaxed);
}

// Looks for the next launch and gives way to others on this CPU at every turn: the thread that
// launches may run there.
bool look_until(uint64_t limit, uint32_t heard) {
  while (now_ns() < limit) {
    for (unsigned i = 0; i < kLooksPerYield; i++) {
      if (bell.load(std::memory_order_relaxed) != heard) return true;
      cpu_pause();
    }
    sched_yield();
  }
  return false;
}

void sleep_on_bell(const Worker& w, uint32_t heard) {
  sleepers.fetch_add(1);
  if (bell.load() == heard) futex_wait(bell, heard, w.abi.index == 1 ? kLook : kSleep, Scope::process);
  sleepers.fetch_sub(1);
}

} // namespace

void open_pool(uint32_t workers, uint32_t cpus) {
  worker_count = workers;
  cpu_count = cpus;
}

void yield(hmm_worker* worker) {
  if (worker->index == 0 && !called) call_helpers();
  sched_yield();
}

void run_launch(Worker& w, const hmm_kernel* kernel, const hmm_launch& launch, uint64_t ticket) {
  job = {launch, kernel, ticket, block_count(launch)};
  const bool waits = kernel->waits && job.total > worker_count;
  if (job.total == 1 || (worker_count == 1 && !waits)) {
    cut(job.total, 1);
    smallest = 1;
    share.store(1, std::memory_order_relaxed);
    work(w, job, [] {});
    return;
  }
  if (waits) watch_launch();
  work_with_help(w);
  close_and_wait();
  if (waits) unwatch_launch();
}

uint64_t look_at_launch() {
  if (!enter()) return 0;
  const uint64_t left = blocks_left();
  leave();
  return left;
}

void join_launch(Worker& w) {
  if (!enter()) return;
  const hmm_dim3& block = job.launch.block;
  guard_stacks(w, std::min(block.x * block.y * block.z, HMM_MAX_THREADS));
  work(w, job, [] {});
  leave();
}

void help(Worker& w) {
  // Nobody looks on the only CPU, nor on one that belongs to another worker.
  const bool may_look = channel->spin_ns != 0 && w.abi.index < cpu_count;
  uint32_t heard = 0;
  uint64_t look_limit = 0; // not 0: counted in `awake`
  for (;;) {
    if (look_limit != 0 && !look_until(look_limit, heard)) {
      awake.fetch_sub(1, std::memory_order_relaxed);
      look_limit = 0;
    }
    if (look_limit == 0) sleep_on_bell(w, heard);
    const uint32_t now = bell.load();
    if (now == heard || !enter()) {
      heard = now;
      continue;
    }
    heard = now;
    if (may_look && look_limit == 0) awake.fetch_add(1, std::memory_order_relaxed);
    if (blocks_left()) wake_two();
    work(w, job, [] {});
    leave();
    if (may_look) look_limit = now_ns() + kStayAwake;
  }
}

} // namespace hmmemu::device
