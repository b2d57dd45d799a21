// Purpose: the least that work in another process, or on other threads, can cost: a request and its answer
// between two processes over shared memory (what a launch on an emulated device is made of), and an empty
// parallel loop of OpenMP.
//
// Usage: launch. Each line on stdin is `sleep` (both sides wait in a futex), `spin` (both sides watch the
// word) or `openmp`, and how often; the answer is the microseconds of each.
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <linux/futex.h>
#include <omp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

// The word counts up: even is the parent's turn, odd the child's. `spin` says how the next turns are awaited.
struct Shared {
  std::atomic<uint32_t> turn;
  std::atomic<uint32_t> spin;
  std::atomic<uint32_t> end;
};

void futex(std::atomic<uint32_t>& word, int operation, uint32_t value) {
  syscall(SYS_futex, &word, operation, value, nullptr, nullptr, 0);
}

void await(Shared& s, uint32_t turn) {
  for (uint32_t seen; (seen = s.turn.load(std::memory_order_acquire)) != turn;)
    if (!s.spin) futex(s.turn, FUTEX_WAIT, seen);
}

void pass(Shared& s, uint32_t turn) {
  s.turn.store(turn, std::memory_order_release);
  if (!s.spin) futex(s.turn, FUTEX_WAKE, 1);
}

[[noreturn]] void child(Shared& s) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (uint32_t turn = 1;; turn += 2) {
    await(s, turn);
    if (s.end) _exit(0);
    pass(s, turn + 1);
  }
}

void round_trips(Shared& s, uint32_t& turn, bool spin, int repeats) {
  // The child awaits this turn in the old way; one exchange takes it to the new one.
  for (int r = -1; r < repeats; ++r) {
    double start = omp_get_wtime();
    pass(s, turn + 1);
    await(s, turn += 2);
    if (r < 0) {
      s.spin = spin;
      futex(s.turn, FUTEX_WAKE, 1);
      usleep(1000);
    } else {
      std::printf("%.3f ", (omp_get_wtime() - start) * 1e6);
    }
  }
}

void empty_loops(int repeats) {
  for (int r = -10; r < repeats; ++r) {
    double start = omp_get_wtime();
#pragma omp parallel
    { asm volatile(""); }
    if (r >= 0) std::printf("%.3f ", (omp_get_wtime() - start) * 1e6);
  }
}

} // namespace

int main() {
  void* at = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return 1;
  Shared& s = *new (at) Shared{};
  if (pid_t pid = fork(); pid == 0)
    child(s);
  else if (pid < 0)
    return 1;
  char name[32];
  int repeats;
  for (uint32_t turn = 0; std::scanf("%31s %d", name, &repeats) == 2;) {
    if (!std::strcmp(name, "openmp"))
      empty_loops(repeats);
    else
      round_trips(s, turn, !std::strcmp(name, "spin"), repeats);
    std::printf("\n");
    std::fflush(stdout);
    s.spin = 0; // nobody spins between requests
  }
  s.end = 1;
  s.turn.fetch_add(1);
  futex(s.turn, FUTEX_WAKE, 1);
  wait(nullptr);
}
