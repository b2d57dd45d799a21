// A loader of kernel modules for unit tests: worker threads in the test's own process, plain memory, no
// device.
//
// It keeps the loader's side of hmmemu/abi.h and nothing more, so the compiler can be tested without the
// rest. `lock` guards the printed text; everything else belongs to the launch that runs, one at a time.
#include <atomic>
#include <condition_variable>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <sched.h>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <vector>

#include "hmmemu/abi.h"

thread_local hmm_worker* hmmemu_worker_self = nullptr;

namespace {

struct Worker {
  hmm_worker self{};
  volatile uint64_t wanted = 0;
  std::jmp_buf base;
  int failure = 0;
  std::string message;
};

std::mutex lock;
std::string printed;
std::vector<Worker*> workers;
std::map<std::string, void*> globals;

void print(hmm_worker*, const char* text, size_t bytes) {
  std::lock_guard<std::mutex> hold(lock);
  printed.append(text, bytes);
}

[[noreturn]] void fail(hmm_worker* self, int failure, const char* message) {
  auto* w = reinterpret_cast<Worker*>(self); // its first member
  w->failure = failure;
  w->message = message;
  std::longjmp(w->base, 1);
}

void yield(hmm_worker*) { sched_yield(); }

const hmm_link link = {
    {~uint64_t{0}, ~uint64_t{0}}, HMM_FALLBACK_CAS_LOOP, 0}; // every operation is done in place
const hmm_services services = {print, fail, yield, yield, nullptr};

unsigned char* reserve(size_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) std::abort();
  return static_cast<unsigned char*>(at);
}

Worker* make_worker(uint32_t index) {
  Worker* w = new Worker;
  w->self.index = index;
  w->self.services = &services;
  w->self.link = &link;
  w->self.wanted = &w->wanted;
  w->self.shared = reserve(HMM_SHARED_BYTES);
  w->self.stacks = reserve(size_t(HMM_MAX_THREADS) * HMM_STACK_BYTES);
  for (unsigned i = 0; i < HMM_MAX_THREADS; ++i)
    mprotect(w->self.stacks + size_t(i) * HMM_STACK_BYTES, 4096, PROT_NONE);
  return w;
}

struct Job {
  const hmm_kernel* kernel = nullptr;
  const hmm_launch* launch = nullptr;
  uint64_t blocks = 0, chunk = 1;
  std::atomic<uint64_t> next{0};
  std::atomic<bool> stop{false};
};

void work(Worker* w, Job& job) {
  hmmemu_worker_self = &w->self;
  w->failure = 0;
  if (setjmp(w->base)) {
    job.stop = true;
    return;
  }
  for (;;) {
    uint64_t first = job.next.fetch_add(job.chunk);
    if (first >= job.blocks || job.stop) return;
    uint64_t end = first + job.chunk < job.blocks ? first + job.chunk : job.blocks;
    job.kernel->run(&w->self, job.launch, first, end);
  }
}

// A pool that spins a while and then sleeps, so that small launches can be timed.
struct Pool {
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<unsigned> generation{0}, done{0};
  Job* job = nullptr;

  void helper(Worker* w) {
    unsigned seen = 0;
    for (;;) {
      for (int spin = 0; spin < 20000 && generation == seen; ++spin) __asm__ volatile("" ::: "memory");
      if (generation == seen) {
        std::unique_lock<std::mutex> hold(mutex);
        wake.wait(hold, [&] { return generation != seen; });
      }
      ++seen;
      work(w, *job);
      ++done;
    }
  }
};
Pool& pool = *new Pool; // never destroyed: its threads outlive main

void start_workers(unsigned count) {
  while (workers.size() < count) {
    Worker* w = make_worker(uint32_t(workers.size()));
    workers.push_back(w);
    if (w->self.index > 0) std::thread([w] { pool.helper(w); }).detach();
  }
}

} // namespace

extern "C" {

void* hmmemu_global_address(const char* name, size_t bytes, size_t align, const void* initial) {
  void* at = nullptr;
  if (posix_memalign(&at, align < 16 ? 16 : align, bytes ? bytes : 1)) std::abort();
  std::memcpy(at, initial, bytes);
  globals[name] = at;
  return at;
}

// Runs a launch on two workers, or $HMMEMU_TEST_WORKERS. Returns 0, or the failure with its text in
// `message`.
int loader_run(const hmm_kernel* kernel, const hmm_launch* launch, char* message, size_t bytes) {
  if (workers.empty()) {
    const char* wanted = std::getenv("HMMEMU_TEST_WORKERS");
    start_workers(wanted ? unsigned(std::atoi(wanted)) : 2);
  }
  Job job;
  job.kernel = kernel, job.launch = launch;
  job.blocks = uint64_t(launch->grid.x) * launch->grid.y * launch->grid.z;
  job.chunk = job.blocks / 16 ? job.blocks / 16 : 1;
  {
    std::lock_guard<std::mutex> hold(pool.mutex);
    pool.job = &job, pool.done = 0;
    ++pool.generation;
  }
  pool.wake.notify_all();
  work(workers[0], job);
  while (pool.done + 1 < workers.size()) __asm__ volatile("" ::: "memory");
  for (Worker* w : workers)
    if (w->failure) {
      std::snprintf(message, bytes, "%s", w->message.c_str());
      return w->failure;
    }
  return 0;
}

// As loader_run, by the calling thread alone. Threads may do so side by side.
int loader_run_here(const hmm_kernel* kernel, const hmm_launch* launch, char* message, size_t bytes) {
  thread_local Worker* const mine = make_worker(0);
  Job job;
  job.kernel = kernel, job.launch = launch;
  job.blocks = job.chunk = uint64_t(launch->grid.x) * launch->grid.y * launch->grid.z;
  work(mine, job);
  if (mine->failure) std::snprintf(message, bytes, "%s", mine->message.c_str());
  return mine->failure;
}

// The text printed since the last call.
size_t loader_printed(char* to, size_t bytes) {
  std::lock_guard<std::mutex> hold(lock);
  size_t n = printed.size() < bytes ? printed.size() : bytes;
  std::memcpy(to, printed.data(), n);
  printed.clear();
  return n;
}

// Where worker `i` says it is.
void loader_position(unsigned i, uint32_t* to) {
  const hmm_worker& w = workers.at(i)->self;
  const uint32_t at[7] = {w.block.x,  w.block.y,  w.block.z,     w.thread.x,
                          w.thread.y, w.thread.z, w.thread_known};
  std::memcpy(to, at, sizeof at);
}
}
