// Purpose: memory and threads of the device process, and the numbering of blocks.
#include "device.h"
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

namespace hmmemu::device {

hmm_dim3 block_at(const hmm_launch& launch, uint64_t number) {
  const uint64_t row = number / launch.grid.x;
  return {uint32_t(number % launch.grid.x), uint32_t(row % launch.grid.y), uint32_t(row / launch.grid.y)};
}

unsigned char* reserve_memory(size_t bytes, size_t guard) {
  void* const low =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (low == MAP_FAILED) return nullptr;
  if (guard && mprotect(low, guard, PROT_NONE) != 0) {
    munmap(low, bytes);
    return nullptr;
  }
  return static_cast<unsigned char*>(low);
}

bool start_thread(const char* name, size_t stack_bytes, void* (*body)(void*), void* argument) {
  // Sizes are given: the default comes from RLIMIT_STACK, which the start of this process has
  // played with.
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, stack_bytes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  const bool started = pthread_create(&thread, &attributes, body, argument) == 0;
  pthread_attr_destroy(&attributes);
  if (started) pthread_setname_np(thread, name);
  return started;
}

void pin_to_cpu(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set); // refused only if the CPU went away: then run anywhere
}

} // namespace hmmemu::device
