// Purpose: memory, threads and CPUs of the workers.
// Invariants: a worker's memory never moves or goes away; its `abi` is filled before its thread
// starts.
#include "workers.h"
#include "dispatcher.h"
#include "failure.h"
#include "output.h"
#include "pool.h"
#include <cstdio>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

namespace hmmemu::device {
namespace {

constexpr int kGuardInstall = 102;         // MADV_GUARD_INSTALL, Linux 6.13
constexpr size_t kGuardedMappings = 32768; // half of the usual vm.max_map_count
constexpr size_t kStackBytes = size_t(HMM_MAX_THREADS) * HMM_STACK_BYTES;

Worker workers[kMaxWorkers];
std::atomic<uint32_t> running{0};

const hmm_services services = {print, fail_kernel, yield};

// The lowest page of each stack becomes a guard. Older kernels need two mappings for each one;
// where that would use up the process's mappings, only the stacks that every launch uses first are
// guarded.
void guard_stacks(unsigned char* stacks, uint32_t worker_count) {
  const size_t limit = kGuardedMappings / 2 / worker_count;
  bool cheap = true;
  for (size_t i = 0; i < HMM_MAX_THREADS; i++) {
    unsigned char* const low = stacks + i * HMM_STACK_BYTES;
    cheap = cheap && madvise(low, kPage, kGuardInstall) == 0;
    if (!cheap && (i >= limit || mprotect(low, kPage, PROT_NONE) != 0)) return;
  }
}

bool prepare(Worker& w, uint32_t index, int cpu) {
  w.abi.index = index;
  w.abi.services = &services;
  w.abi.shared = reserve_memory(HMM_SHARED_BYTES, 0);
  w.abi.stacks = reserve_memory(kStackBytes, 0);
  w.stack = reserve_memory(kThreadStack + kThreadGuard, kThreadGuard);
  w.alternate_stack = reserve_memory(kThreadStack + kThreadGuard, kThreadGuard);
  w.cpu = cpu;
  return w.abi.shared && w.abi.stacks && w.stack && w.alternate_stack;
}

void* worker_main(void* argument) {
  Worker& w = *static_cast<Worker*>(argument);
  hmmemu_worker_self = &w.abi;
  use_alternate_stack(w.alternate_stack + kThreadGuard, kThreadStack);
  pin_to_cpu(w.cpu);
  guard_stacks(w.abi.stacks, channel->worker_count);
  channel->workers[w.abi.index] = {int32_t(gettid()), w.cpu};
  running.fetch_add(1);
  if (w.abi.index == 0)
    run_queue(w);
  else
    help(w);
  return nullptr;
}

bool start(Worker& w) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstack(&attributes, w.stack + kThreadGuard, kThreadStack);
  pthread_t thread;
  const bool started = pthread_create(&thread, &attributes, worker_main, &w) == 0;
  pthread_attr_destroy(&attributes);
  if (started) {
    char name[16];
    snprintf(name, sizeof name, "worker-%u", w.abi.index);
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
    if (!start(workers[i])) return "cannot start the worker threads";
  while (running.load() < count) sched_yield();
  return nullptr;
}

} // namespace hmmemu::device
