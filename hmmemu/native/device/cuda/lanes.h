// Lanes: what a copy over the link needs. A stream, a pinned buffer of the host, and one of the GPU's memory.
//
// A few for the whole process, made when they are first needed. Who takes a second one while it holds one
// takes what is free and does not wait: so whoever waits, waits for somebody who goes on without.
//
// Without memory for the pinned buffer, or if CUDA refuses to pin, the buffer is plain memory (CUDA then
// copies in two steps); without memory for the GPU's, `gpu` is kNowhere. INVARIANT: a lane that is given back
// has nothing queued. LOCK: lock_ guards the list; a lane that was taken is the taker's.
#pragma once
#include "libcuda.h"
#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

namespace hmmemu::cuda {

class GpuMemory;

struct Lane {
  static constexpr uint64_t kTable = 4096; // the first bytes of both buffers: numbers of pages
  static constexpr uint64_t kBytes =
      2u << 20; // of pages, behind the table; the GPU's buffer has room for as much with it

  Stream* stream = nullptr;
  std::byte* host = nullptr;
  Address gpu = kNowhere;
  bool taken = false;
};

class Lanes {
 public:
  explicit Lanes(GpuMemory& memory) : memory_(memory) {}
  Lanes(const Lanes&) = delete;

  // Throws CudaError: not one can be made, or none came free within a minute.
  Lane& take();
  Lane* take_free(); // null: none is
  void give_back(Lane& lane);
  // The GPU's buffer of a lane that nobody has, which does without it from now on; kNowhere: there is none.
  // Never waits.
  Address give_up_buffer();

 private:
  static constexpr size_t kMost = 8;
  Lane* find_free();
  Lane* make();

  GpuMemory& memory_;
  std::mutex lock_;
  std::condition_variable freed_;
  std::vector<std::unique_ptr<Lane>> lanes_;
};

} // namespace hmmemu::cuda
