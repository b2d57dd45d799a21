// How long to wait for others before that counts as a bug.
//
// The kernels of a GPU keep pages, one after the other, and may take any time together: what is limited is
// one of them. So a limit begins anew whenever somebody who waits for a device sees that it has got on.
// LOCK: none; one word for all, which only grows.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <ctime>

namespace hmm {

// 120 s, or HMMEMU_WAIT_SECONDS: for a page or a lock. Read once: the environment may be managed memory.
inline const uint64_t kLongestWait = [] {
  const char* const given = getenv("HMMEMU_WAIT_SECONDS");
  const long seconds = given ? atol(given) : 0;
  return uint64_t(seconds > 0 && seconds < 1'000'000 ? seconds : 120) * 1'000'000'000; // ns
}();

class Limit {
 public:
  explicit Limit(uint64_t ns = kLongestWait) : ns_(ns), begin_(now()) {}
  // ns; 0: it is over.
  uint64_t left() const {
    const uint64_t since = std::max(begin_, got_on_.load(std::memory_order_relaxed)), t = now();
    return t < since + ns_ ? since + ns_ - t : 0;
  }
  // A device has got on, for which somebody waits.
  static void got_on() { got_on_.store(now(), std::memory_order_relaxed); }

 private:
  static uint64_t now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return uint64_t(t.tv_sec) * 1'000'000'000 + uint64_t(t.tv_nsec);
  }
  static inline std::atomic<uint64_t> got_on_{0};
  uint64_t ns_, begin_;
};

} // namespace hmm
