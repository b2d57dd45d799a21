// A large range, block by block, on several threads: moving pages is work for the CPU, most of it on page
// tables, and one thread reaches a fraction of the memory's bandwidth.
//
// For Python threads only (it allocates and starts threads); callers hold no lock.
#pragma once
#include "base/pages.h"
#include <algorithm>
#include <atomic>
#include <sched.h>
#include <system_error>
#include <thread>
#include <vector>

namespace hmm {

inline unsigned allowed_cpus() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

// The range without the blocks at both ends of which done(part of the range) says true.
template <class Done> Pages without_ends(Pages pages, Done done) {
  while (!pages.empty()) {
    const Pages first{pages.begin, std::min(pages.end, block_down(pages.begin) + kBlock)};
    if (!done(first)) break;
    pages.begin = first.end;
  }
  while (!pages.empty()) {
    const Pages last{std::max(pages.begin, block_down(pages.end - kPage)), pages.end};
    if (!done(last)) break;
    pages.end = last.begin;
  }
  return pages;
}

// Calls act(part) -> 0 or errno for every part of the range, one block each, in any order, until one fails.
// Returns an error of those that failed.
template <class Act> int in_parallel(Pages pages, Act act) {
  constexpr uint64_t kBlocksPerThread = 2; // less is not worth waking a thread for
  constexpr uint64_t kMostThreads = 8;
  std::atomic<uint64_t> next{block_down(pages.begin)};
  std::atomic<int> error{0};
  const auto work = [&] {
    for (;;) {
      const uint64_t block = next.fetch_add(kBlock, std::memory_order_relaxed);
      if (block >= pages.end || error.load(std::memory_order_relaxed)) return;
      if (int failed = act(Pages{std::max(pages.begin, block), std::min(pages.end, block + kBlock)}))
        error = failed;
    }
  };
  std::vector<std::thread> helpers;
  const uint64_t most = std::min(kMostThreads, pages.bytes() / (kBlock * kBlocksPerThread));
  for (uint64_t threads = most > 1 ? std::min<uint64_t>(most, allowed_cpus()) : 1; threads > 1; --threads) {
    try {
      helpers.emplace_back(work);
    } catch (const std::system_error&) {
      break; // no more threads here: those that there are do it
    }
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  return error;
}

} // namespace hmm
