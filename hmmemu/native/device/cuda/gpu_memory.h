// Memory of one GPU for the addresses of the CPU process's arrays.
//
// The GPU has a block at the address of the CPU's, or, where CUDA does not give that one, at a distance from
// it which is the same for all: Channel::distance, which leads from the highest address on to the lowest, so
// that memory near both ends of what a program has does not rule out all distances but the smallest. Whatever
// is said of memory here is said by the CPU's addresses, but to CUDA, which gets an `Address`: `at` makes it.
//
// Addresses are held by blocks of 2 MiB, which a mapping without rights keeps others from, and a block gets
// memory, a granule, when it is first needed, at its place. A granule stays when nothing in it is in
// use any more, for the next time; when the GPU has no memory left, those go first. Content comes and goes
// by crossing.h.
//
// Beside a granule there may be its shadow: as much memory somewhere else, for what the file holds of the
// block (comparison.h). Shadows are for what memory is left: they go before anything else does, then the
// buffers of lanes that nobody uses, and no shadow is made that leaves less than an eighth of the GPU's
// memory to others.
//
// INVARIANT: a granule that somebody uses (`Use`), or of which `in_use` says so, is not given up; nor is a
// shadow that somebody holds. LOCK: lock_ guards the tables and the reservations; it is held while granules
// are made and given up, and never during a copy. Lanes::lock_ comes before it.
#pragma once
#include "device/protocol.h"
#include "lanes.h"
#include "libcuda.h"
#include <atomic>
#include <functional>
#include <map>
#include <mutex>

namespace hmmemu::cuda {

inline constexpr uint64_t kGranule = 2u << 20;

class GpuMemory {
 public:
  // `in_use(block)`: whether a page of the block at this address has rights or a kernel may be using it.
  // `lost(block)`: its shadow is gone. Both are called with the lock held. Throws CudaError.
  GpuMemory(int index, std::function<bool(uint64_t)> in_use, std::function<void(uint64_t)> lost);
  GpuMemory(const GpuMemory&) = delete;

  // Where the GPU has what the CPU has at `address`.
  Address at(uint64_t address) const { return Address((address + uint64_t(distance_)) % device::kVramBytes); }

  // The addresses of whole blocks are held for the GPU: 0, or EEXIST if this process uses some of them
  // itself, or CUDA gives others; then Channel::offered_distance is one at which it has room for them.
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

  // The block's shadow, which stays until it is let go; kNowhere: it has none, or (`make`) there is no
  // memory for one.
  Address hold_shadow(uint64_t block, bool make);
  void let_go(uint64_t block);

  // For calls of CUDA that take memory of the GPU themselves, and may find none left: act() once more for as
  // long as room can be made.
  template <class Act> void with_room(Act act) {
    for (;;) {
      try {
        return act();
      } catch (const CudaError& error) {
        if (error.result != kOutOfMemory || !spare_some()) throw;
      }
    }
  }

  // A granule for a lane's buffer, at an address of its own; kNowhere: there is no memory.
  Address scratch();

  // The block's memory is given up, if it has any. Throws CudaError: a view has it. Its content is lost, and
  // its addresses may be used for something else until hold_place holds them again.
  void surrender(uint64_t block);
  void hold_place(uint64_t block) { hold_addresses(block, kGranule, true); }

  bool reserved(uint64_t address);
  size_t granules(); // of the CPU's addresses, at present
  // A pointer to the memory of the CPU's that is held here, or just behind it, as the GPU has it; any other
  // as it is.
  uint64_t translated(uint64_t pointer);
  Gpu gpu() const { return gpu_; }
  Lanes& lanes() { return lanes_; }
  const std::string& name() const { return name_; } // "GPU 0"
  std::string what(uint64_t bytes, uint64_t address) const;
  // The context becomes that of the calling thread.
  void enter_context() const;

 private:
  struct Granule {
    Memory memory;
    unsigned uses;
  };
  struct Shadow {
    Granule granule;
    Address address;
  };
  void begin_use(uint64_t block);
  void end_use(uint64_t block);
  void make(uint64_t block);
  void try_to_make(uint64_t block);
  bool try_addresses(uint64_t begin, uint64_t bytes) const;
  bool in_bounds(uint64_t begin, uint64_t bytes) const;
  bool hold_addresses(uint64_t begin, uint64_t bytes, bool replace) const;
  void take_addresses(uint64_t block) const;
  void hold_again(uint64_t block) const;
  AllocationProperties properties() const;
  Result create(Memory& memory);
  void keep_safe(uint64_t block, Memory memory) const;
  void open(Address at, Memory memory);
  Shadow make_elsewhere();
  bool leaves_enough() const;
  bool make_room();
  bool spare_some();
  bool drop_shadow();
  bool drop_scratch();
  void unmake(Address at, Memory memory);
  void give_up(std::map<uint64_t, Granule>::iterator granule);
  bool is_reserved(uint64_t block) const;

  const Libcuda& cuda_;
  const std::string name_;
  const int64_t distance_;
  const std::function<bool(uint64_t)> in_use_;
  const std::function<void(uint64_t)> lost_;
  Gpu gpu_ = 0;
  std::atomic<bool> shares_{false}; // whether its memory has descriptors, for the keeper and device views
  Context* context_ = nullptr;
  std::mutex lock_;
  std::map<uint64_t, uint64_t> reservations_; // begin -> end
  std::map<uint64_t, Granule> granules_;      // by address
  std::map<uint64_t, Shadow> shadows_;        // by the block's address
  std::map<Address, Memory> scratch_;
  Lanes lanes_{*this};
};

// Memory of this process that the GPU uses, too, has one address for both.
inline void* mapping(Address at) { return reinterpret_cast<void*>(at); }

} // namespace hmmemu::cuda
