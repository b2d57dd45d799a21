// Sleeping and waking on a word of memory, and the clock that every time limit is counted in.
//
// Nothing here allocates, locks or touches memory but its arguments, so driver threads and signal
// handlers may use it. Words in the channel are shared between processes; `scope` says which kind a
// word is.
#pragma once
#include <atomic>
#include <climits>
#include <cstdint>
#include <ctime>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace hmmemu::device {

enum class Scope { process, shared };

inline uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return uint64_t(t.tv_sec) * 1000000000u + uint64_t(t.tv_nsec);
}

inline void cpu_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

// Sleeps while `word` is `expected`, at most `limit_ns`. May return early for no reason: callers
// look again.
inline void futex_wait(std::atomic<uint32_t>& word, uint32_t expected, uint64_t limit_ns,
                       Scope scope = Scope::shared) {
  const timespec limit{time_t(limit_ns / 1000000000u), long(limit_ns % 1000000000u)};
  const int op = scope == Scope::shared ? FUTEX_WAIT : FUTEX_WAIT_PRIVATE;
  syscall(SYS_futex, &word, op, expected, &limit, nullptr, 0);
}

inline void futex_wake(std::atomic<uint32_t>& word, int count, Scope scope = Scope::shared) {
  const int op = scope == Scope::shared ? FUTEX_WAKE : FUTEX_WAKE_PRIVATE;
  syscall(SYS_futex, &word, op, count, nullptr, nullptr, 0);
}

static_assert(sizeof(std::atomic<uint32_t>) == 4 && std::atomic<uint64_t>::is_always_lock_free);

} // namespace hmmemu::device
