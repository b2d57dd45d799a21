// Purpose: the yardstick of bench/atomics.py: bare __atomic_fetch_add on memory that processes share.
//
// Arguments: the CPUs to use. Each line on stdin, "BITS STRIDE PROCESSES COUNT", makes that many processes,
// each on the next of the CPUs, add 1 to a word of BITS (32, 64), STRIDE bytes behind the one before: the
// first one COUNT times, the others until it is done. The answer is the operations of all in a second.
//
// Invariant: the sum of the words is the number of operations, or the program ends with an error.
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

constexpr unsigned kMost = 64, kBytes = 4096;
constexpr uint64_t kPiece = 1000; // operations between two looks at whether to stop

struct Shared {
  alignas(kBytes) unsigned char words[kBytes];
  alignas(64) std::atomic<unsigned> ready;
  std::atomic<bool> go, stop;
  uint64_t done[kMost]; // operations of each process
};

struct Task {
  unsigned bits, stride, processes;
  uint64_t count;
};

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "%s: %s\n", what, std::strerror(errno));
  std::exit(1);
}

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}

void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof set, &set)) fail("sched_setaffinity");
}

template <class W> void add(unsigned char* word, uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) __atomic_fetch_add(reinterpret_cast<W*>(word), 1, __ATOMIC_RELAXED);
}

void work(Shared& shared, const Task& task, unsigned process) {
  unsigned char* const word = shared.words + uint64_t{process} * task.stride;
  const auto some = [&](uint64_t count) {
    task.bits == 32 ? add<uint32_t>(word, count) : add<uint64_t>(word, count);
    shared.done[process] += count;
  };
  shared.ready.fetch_add(1);
  while (!shared.go.load()) sched_yield();
  if (process == 0) {
    some(task.count);
    shared.stop.store(true);
  } else {
    while (!shared.stop.load(std::memory_order_relaxed)) some(kPiece);
  }
}

void check(const Shared& shared, const Task& task) {
  uint64_t sum = 0, done = 0;
  for (unsigned at = 0; at < kBytes; at += task.bits / 8)
    sum += task.bits == 32 ? *reinterpret_cast<const uint32_t*>(shared.words + at)
                           : *reinterpret_cast<const uint64_t*>(shared.words + at);
  for (unsigned i = 0; i < task.processes; ++i) done += shared.done[i];
  if (task.bits == 32) sum = uint32_t(sum), done = uint32_t(done);
  if (sum == done) return;
  std::fprintf(stderr, "%lu operations made a sum of %lu\n", (unsigned long)done, (unsigned long)sum);
  std::exit(1);
}

// Operations a second.
double measure(const Task& task, const int* cpus, unsigned cpu_count) {
  void* const memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  Shared& shared = *static_cast<Shared*>(memory);
  for (unsigned i = 1; i < task.processes; ++i) {
    const pid_t child = fork();
    if (child < 0) fail("fork");
    if (child > 0) continue;
    pin(cpus[i % cpu_count]);
    work(shared, task, i);
    _exit(0);
  }
  while (shared.ready.load() + 1 < task.processes) sched_yield();
  const double begin = now();
  shared.go.store(true);
  work(shared, task, 0);
  const double seconds = now() - begin;
  for (unsigned i = 1; i < task.processes; ++i) {
    int status = 1;
    if (wait(&status) < 0 || status != 0) fail("a process of the yardstick");
  }
  check(shared, task);
  uint64_t done = 0;
  for (unsigned i = 0; i < task.processes; ++i) done += shared.done[i];
  munmap(memory, sizeof(Shared));
  return double(done) / seconds;
}

} // namespace

int main(int argument_count, char** arguments) {
  int cpus[kMost];
  unsigned count = 0;
  for (int i = 1; i < argument_count && count < kMost; ++i) cpus[count++] = std::atoi(arguments[i]);
  if (count == 0) {
    std::fprintf(stderr, "usage: %s CPU...\n", arguments[0]);
    return 2;
  }
  pin(cpus[0]);
  for (char line[128]; std::fgets(line, sizeof line, stdin);) {
    Task task{};
    unsigned long operations = 0;
    const int read =
        std::sscanf(line, "%u %u %u %lu", &task.bits, &task.stride, &task.processes, &operations);
    task.count = operations;
    if (read != 4 || (task.bits != 32 && task.bits != 64) || task.processes == 0 || task.processes > kMost ||
        (task.processes - 1) * task.stride + task.bits / 8 > kBytes) {
      std::fprintf(stderr, "not a task: %s", line);
      return 2;
    }
    std::printf("%.6g\n", measure(task, cpus, count));
    std::fflush(stdout);
  }
}
