// Windows: parts of the program's shared memory that are mapped here and registered with CUDA, so that copies
// need no buffer: the link reads and writes the object itself. Block by block, made when a long run is to
// cross, and kept.
//
// INVARIANTS
//   - Registered memory stays what it was when it was registered: a frame that somebody frees (a hole in the
//     object) lives on for the GPU alone. The kernel takes a window's page table entry away with the frame,
//     and nobody touches a window, so nothing makes another. Hence where all entries are there
//     (/proc/self/pagemap) the frames are those of the object; a window that lacks some is not used again,
//     and made anew.
//   - A window lives until nobody holds it and the table has it no more.
// It is an economy: without one (CUDA refuses, the kernel hides its page tables, too much is registered
// already) pages cross by way of a buffer.
//
// LOCK: lock_ guards the table, and is held while a window is made; HostContent's comes after it.
#pragma once
#include "gpu_memory.h"
#include "host_content.h"
#include "pagemap.h"
#include <map>
#include <memory>
#include <mutex>

namespace hmmemu::cuda {

class Window {
 public:
  // [begin, end) of the address space is at `host`. Throws CudaError, if it cannot be registered.
  Window(const WindowPlace& place);
  ~Window();
  Window(const Window&) = delete;

  bool has(uint64_t begin, uint64_t end) const { return place_.begin <= begin && end <= place_.end; }
  std::byte* at(uint64_t address) const { return place_.host + (address - place_.begin); }
  uint64_t bytes() const { return place_.end - place_.begin; }

 private:
  const WindowPlace place_;
};

class Windows {
 public:
  Windows(GpuMemory& memory, HostContent& content);
  Windows(const Windows&) = delete;

  // The window in which pages of one block lie, whose frames are there; null: there is none, or not all are.
  std::shared_ptr<Window> find(uint64_t begin, uint64_t end);
  // What was said of the addresses holds no more.
  void forget(uint64_t begin, uint64_t end);

 private:
  struct Entry {
    std::shared_ptr<Window> window; // null: it was refused
  };
  std::shared_ptr<Window> make(uint64_t begin, uint64_t end);
  bool make_room(uint64_t bytes);

  GpuMemory& memory_;
  HostContent& content_;
  const Pagemap pagemap_;
  const uint64_t most_; // bytes
  std::mutex lock_;
  std::map<uint64_t, Entry> table_; // by block
  uint64_t registered_ = 0;         // bytes in the table
};

// The helper's own.
Windows& windows();

} // namespace hmmemu::cuda
