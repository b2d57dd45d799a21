// Blocks in which a GPU uses the CPU's memory: pinned, over the link, where it has its own of those
// addresses.
//
// Memory of a GPU is mapped by blocks of 2 MiB (gpu_memory.h), so a block is either the GPU's own or the
// CPU's. It becomes the CPU's when a kernel is to run that shares one of its pages with the CPU. The block's
// pages are the CPU's frames where they are lent, and all others those of the video memory file: content that
// comes and goes need not be copied, only rights change.
//
// INVARIANTS
//   - What is pinned stays what it was when it was pinned: a frame that the driver frees (a hole in the file)
//     lives on for the GPU alone, and so does what was there before a page was lent. So a block of which a
//     frame may have gone or changed is kStale, and is pinned again before a kernel may use it. Frames go
//     after the rights to them (another kernel of the block may have had it pinned again in between), and may
//     go without a word, when the program makes a hole in memory that is lent: so whoever gets rights to a
//     page finds the block kStale, and who is to use one looks whether it is there (pagemap.h).
//   - Blocks change their place while no kernel runs, by worker 0, with lock_of(block) held exclusively; all
//     else that is done with a block holds it shared. Nobody waits for a page with it held. trial_lock and
//     HostContent's come after it.
#pragma once
#include "device/protocol.h"
#include "gpu_memory.h"
#include "host_content.h"
#include "pagemap.h"
#include <atomic>
#include <mutex>
#include <shared_mutex>

namespace hmmemu::cuda {

class HostBlocks {
 public:
  enum Place : uint8_t { kOwn, kHost, kStale };

  // Throws CudaError: no address space.
  HostBlocks(GpuMemory& memory, HostContent& content, int file);
  HostBlocks(const HostBlocks&) = delete;

  bool is_own(uint64_t block) const { return places_[block / kGranule].load() == kOwn; }
  // For a kernel that uses [begin, end) of one block: kStale, too, if a frame has gone from there since,
  // which needs nobody that says so.
  Place place(uint64_t begin, uint64_t end) const;
  std::shared_mutex& lock_of(uint64_t block) { return locks_[block / kGranule % kLocks]; }
  // A frame of the block may have gone, or changed. Lock held, shared.
  void spoil(uint64_t block);

  // Whether the CPU's frames of pages of one block can be mapped, and pinned: 0 or an errno. Linux refuses to
  // pin pages of regular files, for example, other than those of tmpfs and hugetlbfs, since 6.5.
  int try_lend(device::MailboxOperation operation, uint64_t begin, uint64_t end);

  // The block has no memory of the GPU's any more, or was kStale; now it is kHost. Throws CudaError; it is
  // kOwn then.
  void pin(uint64_t block);
  // It is kOwn, without memory.
  void unpin(uint64_t block);

 private:
  static constexpr unsigned kLocks = 64;
  void release(uint64_t block);
  void map(uint64_t block);
  int map_lent(uint64_t block);

  GpuMemory& memory_;
  HostContent& content_;
  const int file_;
  const Pagemap pagemap_;
  std::atomic<uint8_t>* const places_; // for each block
  const uint64_t trial_;               // a block of addresses, guarded by trial_lock_
  std::shared_mutex locks_[kLocks];
  std::mutex trial_lock_;
};

} // namespace hmmemu::cuda
