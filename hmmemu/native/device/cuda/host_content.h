// What pages hold on the host, for the GPU's helper: read, and written, page by page where it lies.
//
// That is the object which a page shows (page_bits.h: kObject), of which the CPU process has sent a
// descriptor (process/host_frames.h), or the video memory file, whose offsets are addresses.
//
// INVARIANT: a page that has kObject lies in an object that is known: the driver takes all rights before one
// is forgotten. LOCK: lock_ guards what is known; shared by those who read and write, exclusive to those who
// change it. Nothing else is locked, and no page waited for, while it is held.
#pragma once
#include "device/protocol.h"
#include <compare>
#include <cstddef>
#include <shared_mutex>

namespace hmmemu::cuda {

// Where a part of an object was mapped.
struct WindowPlace {
  uint64_t begin = 0, end = 0; // of the program's addresses
  std::byte* host = nullptr;
};

// Which file an object is, and where in it memory lies.
struct ObjectFile {
  uint64_t device = 0, inode = 0; // inode 0: no object
  auto operator<=>(const ObjectFile&) const = default;
};
struct ObjectPlace {
  ObjectFile file;
  uint64_t offset = 0, bytes = 0;
};

class HostContent {
 public:
  explicit HostContent(int file) : file_(file) {} // stays the caller's
  HostContent(const HostContent&) = delete;

  // As device::know_frames (without a descriptor: forget_frames) and device::map_host_frames.
  int know(int fd, uint64_t address, uint64_t length, uint64_t offset);
  int map(device::MailboxOperation operation, uint64_t address, uint64_t length, uint64_t at);

  // Whole pages. Of an object that has become shorter, what lies behind its end is zeros, and is lost. Throw
  // CudaError.
  void read(uint64_t address, uint64_t bytes, std::byte* to);
  void write(uint64_t address, uint64_t bytes, const std::byte* from);
  // Whether pages of which the driver says that they are zeros are so in their object, too: others may have
  // written there.
  bool is_zeros(uint64_t begin, uint64_t end);
  // What lies at `address`, up to `end` or as far as it is one thing.
  ObjectPlace find_object(uint64_t address, uint64_t end);
  // Maps the object around `address` once more, within [low, high): for the caller to unmap. `host` is null
  // if none is there, or it cannot be mapped.
  WindowPlace map_window(uint64_t address, uint64_t low, uint64_t high);

 private:
  template <class Act> void each_place(uint64_t begin, uint64_t end, Act act);

  const int file_;
  std::shared_mutex lock_;
};

// The helper's own.
HostContent& host_content();

} // namespace hmmemu::cuda
