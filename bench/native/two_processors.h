// Purpose: what the fault yardsticks share: two processors, which are this process and a child that plays the
// device, one array at the same address in both, and the transitions that are timed.
//
// Every value is verified. Only one processor runs at a time, and the other one's faults are over by then.
// All state is this program's own; the includer defines `forget`, which gives all pages back to nobody.
//
// Protocol of a yardstick: PAGES CPU_OF_PARENT CPU_OF_DEVICE as arguments. Each line on stdin runs every
// transition once over all pages and prints the microseconds per fault, in the order of bench/faults.py's
// TRANSITIONS, on one line.
#pragma once
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace yardstick {

constexpr uint64_t kPage = 4096, kWords = kPage / sizeof(int), kArray = 0x300000000000;
enum Processor : uint8_t { kCpu, kDevice, kNobody, kBoth }; // also the state of a page: who holds it
constexpr int kMark = 1 << 20;
enum Command : uint32_t { kTouch, kRead, kWrite };

struct Control { // shared by both processes
  std::atomic<uint32_t> request, reply;
  Command command;
  int value;
  double microseconds;
  int64_t sum;
};

inline uint64_t pages;
inline Control* control;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "%s: %s\n", what, std::strerror(errno));
  _exit(1);
}
inline void must(bool done, const char* what) {
  if (!done) fail(what);
}

inline double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}

inline void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  must(sched_setaffinity(0, sizeof set, &set) == 0, "sched_setaffinity");
}

inline void* map(uint64_t address, uint64_t bytes, int flags, int fd = -1) {
  void* at = mmap(reinterpret_cast<void*>(address), bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  must(at != MAP_FAILED, "mmap");
  return at;
}

// ---- what the processors do ----

// One word of each page, in order. Returns microseconds per page. The first to touch a page leaves kMark
// beside the word, which has to come along wherever the page goes.
inline double run(Command command, int value, int64_t& sum) {
  auto* words = reinterpret_cast<volatile int*>(kArray);
  sum = 0;
  const double begin = now();
  if (command == kRead)
    for (uint64_t i = 0; i < pages; ++i) sum += words[i * kWords] + words[i * kWords + 1];
  else if (command == kWrite)
    for (uint64_t i = 0; i < pages; ++i) words[i * kWords] = value;
  else
    for (uint64_t i = 0; i < pages; ++i) {
      words[i * kWords] = value;
      words[i * kWords + 1] = kMark;
    }
  return (now() - begin) / pages;
}

inline void wait_for(std::atomic<uint32_t>& word, uint32_t value) {
  for (uint32_t seen; (seen = word.load()) != value;)
    syscall(SYS_futex, &word, FUTEX_WAIT, seen, nullptr, nullptr, 0);
}
inline void post(std::atomic<uint32_t>& word, uint32_t value) {
  word.store(value);
  syscall(SYS_futex, &word, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

[[noreturn]] inline void device_main(int cpu) {
  pin(cpu);
  for (uint32_t number = 1;; ++number) {
    wait_for(control->request, number);
    control->microseconds = run(control->command, control->value, control->sum);
    post(control->reply, number);
  }
}

// Runs the command on a processor; ends the program unless a read finds `value` in every page.
inline double measure(Processor p, Command command, int value) {
  int64_t sum;
  double microseconds;
  control->command = command;
  control->value = value;
  if (p == kCpu) {
    microseconds = run(command, value, sum);
  } else {
    const uint32_t number = control->request.load() + 1;
    post(control->request, number);
    wait_for(control->reply, number);
    microseconds = control->microseconds;
    sum = control->sum;
  }
  if (command == kRead && sum != int64_t(pages) * (value + kMark)) {
    std::fprintf(stderr, "processor %d read a sum of %ld and not %ld\n", p, long(sum),
                 long(pages) * (value + kMark));
    _exit(1);
  }
  return microseconds;
}

inline void repeat(int value, void (*forget)()) {
  const double first_cpu = measure(kCpu, kTouch, value);
  const double device_duplicate = measure(kDevice, kRead, value);
  const double cpu_upgrade = measure(kCpu, kWrite, value + 1);
  const double device_migrate = measure(kDevice, kWrite, value + 2);
  const double cpu_duplicate = measure(kCpu, kRead, value + 2);
  const double device_upgrade = measure(kDevice, kWrite, value + 3);
  const double cpu_migrate = measure(kCpu, kWrite, value + 4);
  measure(kCpu, kRead, value + 4);
  forget();
  const double first_device = measure(kDevice, kTouch, value);
  measure(kDevice, kRead, value);
  forget();
  std::printf("%.3f %.3f %.3f %.3f %.3f %.3f %.3f %.3f\n", first_cpu, first_device, device_duplicate,
              cpu_duplicate, cpu_upgrade, device_upgrade, cpu_migrate, device_migrate);
  std::fflush(stdout);
}

// Reads the arguments into `pages` and `cpus`; ends the program if they make no sense.
inline void read_arguments(int count, char** arguments, int (&cpus)[2]) {
  if (count != 4) {
    std::fprintf(stderr, "usage: %s PAGES CPU_OF_PARENT CPU_OF_DEVICE\n", arguments[0]);
    std::exit(2);
  }
  pages = std::strtoull(arguments[1], nullptr, 10);
  cpus[kCpu] = std::atoi(arguments[2]), cpus[kDevice] = std::atoi(arguments[3]);
}

// Answers requests until stdin ends. The device dies with this process.
[[noreturn]] inline void serve(void (*forget)()) {
  for (int value = 1, c; (c = std::getchar()) != EOF;)
    if (c == '\n') repeat(value, forget), value += 10;
  _exit(0);
}

} // namespace yardstick
