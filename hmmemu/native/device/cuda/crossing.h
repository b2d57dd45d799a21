// Pages on their way over the link: a batch of runs, one way, of which nobody waits for each.
//
// Runs of 64 KiB or more are copied as they are, straight from and to where they lie where that is registered
// (windows.h), else by way of a pinned buffer. Shorter ones lie side by side in a pinned buffer, cross in
// one copy, and are scattered (gathered) by a kernel; without kernels, or where there is no buffer on the
// GPU, each is a copy of its own. While one buffer crosses the next is filled. Content is read and
// written where it lies on the host (host_content.h).
//
// INVARIANTS: of all blocks that are named the caller has a `GpuMemory::Use`; nothing else changes those
// pages meanwhile. The file has what came home, and the GPU what was sent, when `finish` returns. LOCK: none;
// a crossing belongs to one thread, its lanes too.
#pragma once
#include "gpu_memory.h"
#include "page_kernels.h"
#include "lanes.h"
#include "windows.h"
#include <deque>

namespace hmmemu::cuda {

class Crossing {
 public:
  enum class Way { ToGpu, Home };

  Crossing(GpuMemory& memory, Way way) : memory_(memory), way_(way) {}
  ~Crossing(); // what is under way ends; errors are forgotten
  Crossing(const Crossing&) = delete;

  // Whole pages. Throw CudaError; then what was added has or has not crossed.
  void add(uint64_t begin, uint64_t end);
  void fill_zeros(uint64_t begin, uint64_t end); // on the GPU: nothing crosses
  void finish();

 private:
  struct Run {
    uint64_t address, bytes;
    std::byte* host;                // where its content is to be copied from or to
    std::shared_ptr<Window> window; // ... which is where it lies; else a buffer
  };
  struct Load { // of one lane
    Lane* lane;
    uint64_t pages = 0;
    std::vector<Run> runs;
    std::unique_ptr<PageKernels> kernels; // if they are used
  };

  Load& next_load();
  void pack(uint64_t begin, uint64_t end);
  void copy_large(uint64_t begin, uint64_t end);
  void copy_block(uint64_t begin, uint64_t end);
  Load& some_load();
  void place(Load& load, uint64_t address, uint64_t bytes);
  void send_packed();
  bool send_by_kernel(Load& load);
  void copy(const Run& run, Lane& lane);
  void unload(Load& load);
  void fill_table(Load& load) const;

  GpuMemory& memory_;
  const Way way_;
  std::deque<Load> under_way_;    // oldest first
  std::unique_ptr<Load> packing_; // not sent yet
};

} // namespace hmmemu::cuda
