// Which pages a kernel really changed.
//
// A kernel that may write a page need not. Of pages whose content is in the video memory file, too, a copy is
// made in the block's shadow before a kernel may write them, at the speed of the GPU's memory; when the CPU
// wants them, page and shadow are compared, and what did not change need not cross the link.
//
// It is an economy: whatever it needs and cannot have (memory, kernels) leaves pages for changed.
#pragma once
#include "gpu_memory.h"
#include <bitset>

namespace hmmemu::cuda {

inline constexpr unsigned kPagesPerGranule = kGranule / 4096;
inline constexpr uint64_t kWorthComparing = 64u << 10; // bytes: fewer cross as fast as they are compared

// Copies of pages in their shadows, many at a time. Of one thread.
class Snapshots {
 public:
  explicit Snapshots(GpuMemory& memory) : memory_(memory) {}
  ~Snapshots();
  Snapshots(const Snapshots&) = delete;

  // Pages of one block. False: not copied. The copy is there when `finish` says true.
  bool add(uint64_t begin, uint64_t end);
  bool finish();

 private:
  GpuMemory& memory_;
  Lane* lane_ = nullptr;
  std::vector<uint64_t> held_; // blocks
};

// Bit i: page `begin` + i differs from its shadow. Pages of one block, which no kernel uses. False: it cannot
// be told.
bool find_changed(GpuMemory& memory, uint64_t begin, uint64_t end, std::bitset<kPagesPerGranule>& changed);

} // namespace hmmemu::cuda
