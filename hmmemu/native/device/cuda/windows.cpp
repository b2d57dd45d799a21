// Purpose: register parts of shared memory with CUDA, and know when they are no longer what they were. Locks:
// see the header.
#include "windows.h"

#include <sys/mman.h>
#include <unistd.h>

namespace hmmemu::cuda {
namespace {

uint64_t block_of(uint64_t address) { return address / kGranule * kGranule; }

} // namespace

Window::Window(const WindowPlace& place) : place_(place) {
  try {
    libcuda().pin("register shared memory of the program", place_.host, bytes(), 0);
  } catch (const CudaError&) {
    munmap(place_.host, bytes());
    throw;
  }
}

Window::~Window() {
  libcuda().unpin.ask(place_.host);
  munmap(place_.host, bytes());
}

Windows::Windows(GpuMemory& memory, HostContent& content)
    : memory_(memory), content_(content),
      most_(uint64_t(sysconf(_SC_PHYS_PAGES)) * uint64_t(sysconf(_SC_PAGESIZE)) / 4) {}

// False: others hold too much, or the window is too large. Caller holds the lock.
bool Windows::make_room(uint64_t bytes) {
  for (auto at = table_.begin(); at != table_.end() && registered_ + bytes > most_;) {
    const auto entry = at++;
    if (!entry->second.window || entry->second.window.use_count() > 1) continue;
    registered_ -= entry->second.window->bytes();
    table_.erase(entry);
  }
  return registered_ + bytes <= most_;
}

// Caller holds the lock.
std::shared_ptr<Window> Windows::make(uint64_t begin, uint64_t end) {
  const uint64_t block = block_of(begin);
  if (!make_room(kGranule)) return nullptr;
  const WindowPlace place = content_.map_window(begin, block, block + kGranule);
  if (!place.host) return nullptr;
  Entry& entry = table_[block];
  try {
    entry.window = std::make_shared<Window>(place);
    registered_ += entry.window->bytes();
  } catch (const CudaError&) {
    return nullptr; // and not asked again
  }
  return entry.window->has(begin, end) ? entry.window : nullptr;
}

std::shared_ptr<Window> Windows::find(uint64_t begin, uint64_t end) {
  if (!pagemap_.is_readable()) return nullptr;
  memory_.enter_context();
  const std::lock_guard hold(lock_);
  const auto found = table_.find(block_of(begin));
  if (found == table_.end()) return make(begin, end);
  const std::shared_ptr<Window> window = found->second.window;
  if (!window || !window->has(begin, end)) return nullptr;
  if (pagemap_.has_all(window->at(begin), end - begin)) return window;
  registered_ -= window->bytes();
  table_.erase(found);
  return make(begin, end);
}

void Windows::forget(uint64_t begin, uint64_t end) {
  memory_.enter_context();
  const std::lock_guard hold(lock_);
  for (auto at = table_.lower_bound(block_of(begin)); at != table_.end() && at->first < end;) {
    if (at->second.window) registered_ -= at->second.window->bytes();
    at = table_.erase(at);
  }
}

} // namespace hmmemu::cuda
