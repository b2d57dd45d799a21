// Memory of one GPU at the addresses of the CPU process's arrays.
//
// Addresses are reserved by blocks of 2 MiB, and a block gets memory, a granule, when it is first needed, at
// its own address. A granule stays when nothing in it is in use any more, for the next time; when the GPU has
// no memory left, those go first. Content comes and goes through the video memory file, whose offsets are
// addresses; a thread that copies has a stream and a pinned buffer of its own.
//
// INVARIANT: a granule that somebody uses (`Use`), or of which `in_use` says so, is not given up.
// LOCK: lock_ guards the table of granules and the reservations; it is held while granules are made and given
// up, and never during a copy.
#pragma once
#include "libcuda.h"
#include <functional>
#include <map>
#include <mutex>

namespace hmmemu::cuda {

inline constexpr uint64_t kGranule = 2u << 20;

class GpuMemory {
 public:
  // `in_use(block)`: whether a page of the block at this address has rights or a kernel may be using it.
  // Throws CudaError.
  GpuMemory(int index, int file, std::function<bool(uint64_t)> in_use);
  GpuMemory(const GpuMemory&) = delete;

  // The addresses of whole blocks become the GPU's: 0, or EEXIST if this process uses some of them itself.
  int reserve(uint64_t begin, uint64_t end);

  // A block that has memory for as long as this lives. Throws CudaError(kOutOfMemory) if there is none left.
  class Use {
   public:
    Use(GpuMemory& memory, uint64_t block) : memory_(memory), block_(block) { memory_.begin_use(block); }
    ~Use() { memory_.end_use(block_); }
    Use(const Use&) = delete;

   private:
    GpuMemory& memory_;
    const uint64_t block_;
  };

  // The same for as long as somebody wants, and a descriptor of what the block has: the caller's.
  void hold(uint64_t block) { begin_use(block); }
  void release(uint64_t block) { end_use(block); }
  int share(uint64_t block);

  // Between the file and the GPU, within a block that the caller uses; returns when it is done. Throw
  // CudaError.
  void copy_in(uint64_t address, uint64_t bytes);
  void copy_out(uint64_t address, uint64_t bytes);

  bool reserved(uint64_t address);
  uint64_t granules();
  Gpu gpu() const { return gpu_; }
  // The context becomes that of the calling thread.
  void enter_context() const;

 private:
  struct Granule {
    Memory memory;
    unsigned uses;
  };
  struct Copier;
  Copier& copier();
  void begin_use(uint64_t block);
  void end_use(uint64_t block);
  void make(uint64_t block);
  void keep_safe(uint64_t block, Memory memory);
  bool make_room();
  void give_up(std::map<uint64_t, Granule>::iterator granule);
  bool is_reserved(uint64_t block) const;
  std::string what(uint64_t bytes, uint64_t address) const;

  const Libcuda& cuda_;
  const std::string name_; // "GPU 0"
  const int file_;
  const std::function<bool(uint64_t)> in_use_;
  Gpu gpu_ = 0;
  Context* context_ = nullptr;
  std::mutex lock_;
  std::map<uint64_t, uint64_t> reservations_; // begin -> end
  std::map<uint64_t, Granule> granules_;      // by address
};

} // namespace hmmemu::cuda
