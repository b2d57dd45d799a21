// Purpose: what the yardsticks that copy, scan and merge memory share: the clock, the end with a message, and
// memory in pages of 4 KiB, as those that hmmemu moves. (Those of page faults: two_processors.h.)
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <sys/mman.h>

namespace yardstick {

constexpr size_t kPage = 4096;

[[noreturn]] inline void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

inline double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

inline char* map(size_t bytes, int flags, int fd) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (at == MAP_FAILED) fail("mmap");
  madvise(at, bytes, MADV_NOHUGEPAGE);
  return static_cast<char*>(at);
}

// The first word of a page.
inline volatile uint64_t& word(char* memory, size_t page) {
  return *reinterpret_cast<volatile uint64_t*>(memory + page * kPage);
}

} // namespace yardstick
