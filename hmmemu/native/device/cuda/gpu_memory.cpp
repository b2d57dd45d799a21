// Purpose: reserve addresses on the GPU, give blocks memory, copy. Locks: see the header.
#include "gpu_memory.h"

#include "keeper.h"

#include <cerrno>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

namespace hmmemu::cuda {
namespace {

std::string hex(uint64_t value) {
  char text[24];
  snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

// All of it, or an exception: the file is memory.
template <class Transfer> void transfer(Transfer act, uint64_t bytes, const char* what) {
  for (uint64_t done = 0; done < bytes;) {
    const ssize_t n = act(done);
    if (n <= 0 && errno != EINTR) throw CudaError(0, std::string(what) + ": " + strerror(n ? errno : EIO));
    if (n > 0) done += uint64_t(n);
  }
}

} // namespace

// A stream and a pinned buffer, of one thread.
struct GpuMemory::Copier {
  explicit Copier(const GpuMemory& memory) {
    memory.enter_context();
    memory.cuda_.stream_create("make a stream on " + memory.name_, &stream, 1); // CU_STREAM_NON_BLOCKING
    buffer = mmap(nullptr, kGranule, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED) throw CudaError(kOutOfMemory, "no memory for a copy buffer of " + memory.name_);
    memory.cuda_.pin("pin 2 MiB of host memory for " + memory.name_, buffer, kGranule, 0);
  }
  Stream* stream = nullptr;
  void* buffer = nullptr;
};

GpuMemory::GpuMemory(int index, int file, std::function<bool(uint64_t)> in_use)
    : cuda_(libcuda()), name_("GPU " + std::to_string(index)), file_(file), in_use_(std::move(in_use)) {
  cuda_.device_get("open " + name_, &gpu_, index);
  AllocationProperties properties;
  properties.location.id = gpu_;
  size_t granularity = 0;
  cuda_.granularity("ask " + name_ + " for its page size", &granularity, &properties, 0);
  if (granularity == 0 || kGranule % granularity)
    throw CudaError(0, name_ + " maps memory in pieces of " + std::to_string(granularity) +
                           " bytes, and hmmemu needs pieces of 2 MiB");
  cuda_.context_retain("make a context on " + name_, &context_, gpu_);
}

void GpuMemory::enter_context() const { cuda_.context_set("use the context of " + name_, context_); }

GpuMemory::Copier& GpuMemory::copier() {
  thread_local Copier mine(*this);
  return mine;
}

std::string GpuMemory::what(uint64_t bytes, uint64_t address) const {
  return std::to_string(bytes >> 10) + " KiB at " + hex(address) + " of " + name_;
}

bool GpuMemory::is_reserved(uint64_t block) const {
  auto at = reservations_.upper_bound(block);
  return at != reservations_.begin() && block < (--at)->second;
}

bool GpuMemory::reserved(uint64_t address) {
  const std::lock_guard hold(lock_);
  return is_reserved(address / kGranule * kGranule);
}

uint64_t GpuMemory::granules() {
  const std::lock_guard hold(lock_);
  return granules_.size();
}

int GpuMemory::reserve(uint64_t begin, uint64_t end) {
  enter_context();
  const std::lock_guard hold(lock_);
  for (uint64_t at = begin; at < end;) {
    if (is_reserved(at)) {
      at += kGranule;
      continue;
    }
    uint64_t to = at + kGranule;
    while (to < end && !is_reserved(to)) to += kGranule;
    Address got = 0;
    cuda_.reserve("reserve " + what(to - at, at), &got, to - at, kGranule, at, 0);
    if (got != at) {
      cuda_.unreserve("give up " + what(to - at, got), got, to - at);
      return EEXIST; // what was reserved before stays: addresses cost nothing
    }
    reservations_[at] = to;
    at = to;
  }
  return 0;
}

void GpuMemory::begin_use(uint64_t block) {
  enter_context();
  const std::lock_guard hold(lock_);
  if (granules_.find(block) == granules_.end()) make(block);
  granules_.at(block).uses++;
}

void GpuMemory::end_use(uint64_t block) {
  const std::lock_guard hold(lock_);
  granules_.at(block).uses--;
}

void GpuMemory::make(uint64_t block) {
  AllocationProperties properties;
  properties.location.id = gpu_;
  Memory memory = 0;
  Result result;
  do result = cuda_.create.ask(&memory, kGranule, &properties, 0);
  while (result == kOutOfMemory && make_room());
  check(result, cuda_.create.name(), "allocate " + what(kGranule, block));
  bool mapped = false;
  try {
    keep_safe(block, memory);
    cuda_.map("map " + what(kGranule, block), block, kGranule, 0, memory, 0);
    mapped = true;
    AccessRights rights;
    rights.location.id = gpu_;
    cuda_.set_access("open " + what(kGranule, block), block, kGranule, &rights, 1);
  } catch (const CudaError&) {
    if (mapped) cuda_.unmap.ask(block, kGranule);
    cuda_.release.ask(memory);
    throw;
  }
  granules_[block] = {memory, 0};
}

// Before anything is there.
void GpuMemory::keep_safe(uint64_t block, Memory memory) {
  int descriptor = -1;
  cuda_.export_memory("share " + what(kGranule, block), &descriptor, memory, 1, 0);
  try {
    keep(block, descriptor);
  } catch (const CudaError&) {
    close(descriptor);
    throw;
  }
  close(descriptor);
}

int GpuMemory::share(uint64_t block) {
  enter_context();
  const std::lock_guard hold(lock_);
  int descriptor = -1;
  cuda_.export_memory("share " + what(kGranule, block), &descriptor, granules_.at(block).memory, 1, 0);
  return descriptor;
}

// Gives up one granule that nobody uses. False: there is none.
bool GpuMemory::make_room() {
  for (auto at = granules_.begin(); at != granules_.end(); ++at) {
    if (at->second.uses || in_use_(at->first)) continue;
    give_up(at);
    return true;
  }
  return false;
}

void GpuMemory::give_up(std::map<uint64_t, Granule>::iterator granule) {
  const auto [block, content] = *granule;
  cuda_.unmap("unmap " + what(kGranule, block), block, kGranule);
  granules_.erase(granule);
  forget(block);
  cuda_.release("free " + what(kGranule, block), content.memory);
}

void GpuMemory::copy_in(uint64_t address, uint64_t bytes) {
  Copier& mine = copier();
  auto* const buffer = static_cast<char*>(mine.buffer);
  transfer([&](uint64_t at) { return pread(file_, buffer + at, bytes - at, off_t(address + at)); }, bytes,
           "read the video memory file");
  cuda_.copy_in("copy to " + what(bytes, address), address, buffer, bytes, mine.stream);
  cuda_.stream_wait("wait for a copy to " + what(bytes, address), mine.stream);
}

void GpuMemory::copy_out(uint64_t address, uint64_t bytes) {
  Copier& mine = copier();
  auto* const buffer = static_cast<char*>(mine.buffer);
  cuda_.copy_out("copy from " + what(bytes, address), buffer, address, bytes, mine.stream);
  cuda_.stream_wait("wait for a copy from " + what(bytes, address), mine.stream);
  transfer([&](uint64_t at) { return pwrite(file_, buffer + at, bytes - at, off_t(address + at)); }, bytes,
           "write the video memory file");
}

} // namespace hmmemu::cuda
