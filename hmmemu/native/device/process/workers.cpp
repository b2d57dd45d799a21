// Purpose: memory, threads and CPUs of the workers.
// Invariants: a worker's memory never moves or goes away; its `abi` is filled before its thread
// starts.
#include "workers.h"
#include "dispatcher.h"
#include "failure.h"
#include "output.h"
#include "pool.h"
#include "relief.h"
#include "video_memory.h"
#include <cstdio>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

namespace hmmemu::device {
namespace {

constexpr int kGuardInstall = 102;       // MADV_GUARD_INSTALL, Linux 6.13
constexpr size_t kGuardMappings = 16384; // for workers, and again for relief threads: half of the usual limit
constexpr size_t kStackBytes = size_t(HMM_MAX_THREADS) * HMM_STACK_BYTES;

Worker workers[kMaxBlocks];
std::atomic<uint32_t> running{0};
void (*relief_body)(Worker&);

const hmm_services services = {print, fail_kernel, yield, wait_for_others, own_page};

bool prepare(Worker& w, uint32_t index, int cpu) {
  w.abi.index = index;
  w.abi.services = &services;
  w.abi.link = &channel->link;
  w.abi.wanted = reinterpret_cast<volatile uint64_t*>(&channel->faults[index].wanted);
  w.abi.remote = reinterpret_cast<const unsigned char*>(remote_bits(channel));
  w.abi.brought = reinterpret_cast<volatile uint32_t*>(&channel->faults[index].brought);
  w.abi.log = atomic_log(channel, index);
  w.abi.shared = reserve_memory(HMM_SHARED_BYTES, 0);
  w.abi.stacks = reserve_memory(kStackBytes, 0);
  w.stack = reserve_memory(kThreadStack + kThreadGuard, kThreadGuard);
  w.alternate_stack = reserve_memory(kThreadStack + kThreadGuard, kThreadGuard);
  w.abi.stack = w.stack + kThreadGuard;
  w.abi.stack_bytes = kThreadStack;
  w.cpu = cpu;
  return w.abi.shared && w.abi.stacks && w.stack && w.alternate_stack;
}

void settle(Worker& w) {
  hmmemu_worker_self = &w.abi;
  use_alternate_stack(w.alternate_stack + kThreadGuard, kThreadStack);
  pin_to_cpu(w.cpu);
  channel->faults[w.abi.index].tid = int32_t(gettid());
}

void* relief_main(void* argument) {
  Worker& w = *static_cast<Worker*>(argument);
  settle(w);
  relief_body(w);
  return nullptr;
}

void* worker_main(void* argument) {
  Worker& w = *static_cast<Worker*>(argument);
  settle(w);
  guard_stacks(w, HMM_MAX_THREADS);
  channel->workers[w.abi.index] = {int32_t(gettid()), w.cpu};
  running.fetch_add(1);
  if (w.abi.index == 0)
    run_queue(w);
  else
    help(w);
  return nullptr;
}

bool start(Worker& w, void* (*main)(void*), const char* kind) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstack(&attributes, w.stack + kThreadGuard, kThreadStack);
  pthread_t thread;
  const bool started = pthread_create(&thread, &attributes, main, &w) == 0;
  pthread_attr_destroy(&attributes);
  if (started) {
    char name[16];
    snprintf(name, sizeof name, "%s-%u", kind, w.abi.index);
    pthread_setname_np(thread, name);
  }
  return started;
}

// Worker 0 takes the last CPU: interrupts and the user's first thread tend to be on the first ones.
int cpu_of(const cpu_set_t& allowed, uint32_t index) {
  uint32_t skip = index % uint32_t(CPU_COUNT(&allowed));
  for (int cpu = CPU_SETSIZE - 1; cpu >= 0; cpu--)
    if (CPU_ISSET(cpu, &allowed) && skip-- == 0) return cpu;
  return 0;
}

} // namespace

// Older kernels need two mappings for each guard; where that would use up the process's mappings, only the
// stacks that every launch uses first are guarded.
void guard_stacks(Worker& w, uint32_t count) {
  static std::atomic<bool> cheap{true};
  const bool relief = w.abi.index >= channel->worker_count;
  const size_t limit = kGuardMappings / 2 / (relief ? kMaxBlocks : channel->worker_count);
  for (; w.guarded < count; w.guarded++) {
    unsigned char* const low = w.abi.stacks + w.guarded * size_t(HMM_STACK_BYTES);
    if (cheap && madvise(low, kPage, kGuardInstall) != 0) cheap = false;
    if (!cheap && (w.guarded >= limit || mprotect(low, kPage, PROT_NONE) != 0)) return;
  }
}

const char* start_workers(uint32_t count) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) == 0)
    CPU_SET(0, &allowed); // more CPUs than the set can name
  if (count == 0) count = uint32_t(CPU_COUNT(&allowed));
  count = count < kMaxWorkers ? count : kMaxWorkers;
  channel->worker_count = count;
  open_pool(count, uint32_t(CPU_COUNT(&allowed)));
  for (uint32_t i = 0; i < count; i++)
    if (!prepare(workers[i], i, cpu_of(allowed, i))) return "no memory for the workers' stacks";
  for (uint32_t i = 0; i < count; i++)
    if (!start(workers[i], worker_main, "worker")) return "cannot start the worker threads";
  while (running.load() < count) sched_yield();
  channel->block_threads = count;
  return nullptr;
}

bool start_relief(uint32_t number, void (*body)(Worker&)) {
  const uint32_t index = channel->worker_count + number;
  if (index >= kMaxBlocks) return false;
  Worker& w = workers[index];
  if (!w.stack && !prepare(w, index, workers[index % channel->worker_count].cpu)) return false;
  relief_body = body;
  channel->block_threads.store(index + 1);
  return start(w, relief_main, "relief");
}

} // namespace hmmemu::device
