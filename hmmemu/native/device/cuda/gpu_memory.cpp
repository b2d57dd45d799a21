// Purpose: reserve addresses on the GPU, give blocks memory, copy. Locks: see the header.
#include "gpu_memory.h"

#include "device/process/device.h"
#include "keeper.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

namespace hmmemu::cuda {
namespace {

std::string reason(Result result, const char* function, const std::string& doing) {
  try {
    check(result, function, doing);
  } catch (const CudaError& error) {
    return error.what();
  }
  return "";
}

std::string hex(uint64_t value) {
  char text[24];
  snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

} // namespace

GpuMemory::GpuMemory(int index, std::function<bool(uint64_t)> in_use, std::function<void(uint64_t)> lost)
    : cuda_(libcuda()), name_("GPU " + std::to_string(index)), distance_(device::channel->distance),
      in_use_(std::move(in_use)), lost_(std::move(lost)) {
  cuda_.device_get("open " + name_, &gpu_, index);
  shares_ = attribute(gpu_, kFileDescriptors) != 0;
  if (!shares_) note_not_kept(name_ + " has no file descriptors for its memory");
  const AllocationProperties wanted = properties();
  size_t granularity = 0;
  cuda_.granularity("ask " + name_ + " for its page size", &granularity, &wanted, 0);
  if (granularity == 0 || kGranule % granularity)
    throw CudaError(0, name_ + " maps memory in pieces of " + std::to_string(granularity) +
                           " bytes, and hmmemu needs pieces of 2 MiB");
  context_ = open_context(gpu_, "make a context on " + name_);
}

void GpuMemory::enter_context() const { cuda_.context_set("use the context of " + name_, context_); }

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

size_t GpuMemory::granules() {
  const std::lock_guard hold(lock_);
  return granules_.size();
}

uint64_t GpuMemory::translated(uint64_t pointer) {
  if (distance_ == 0 || pointer == 0) return pointer;
  const bool ours = reserved(pointer) || reserved(pointer - 1);
  return ours ? uint64_t(at(pointer)) : pointer;
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
    // What was held before stays: addresses cost nothing.
    if (!try_addresses(at, to - at) || !hold_addresses(at, to - at, false)) return EEXIST;
    reservations_[at] = to;
    at = to;
  }
  return 0;
}

// Whether a process can have these addresses of the CPU's at the distance, all in a row.
bool GpuMemory::in_bounds(uint64_t begin, uint64_t bytes) const {
  const auto first = uint64_t(at(begin));
  return first >= kGranule && first + bytes <= device::kVramBytes;
}

// Whether the GPU can have these addresses. What CUDA gives in their place is a place for them.
bool GpuMemory::try_addresses(uint64_t begin, uint64_t bytes) const {
  const Address wish = in_bounds(begin, bytes) ? at(begin) : kNowhere;
  Address got = kNowhere;
  const Result result = cuda_.reserve.ask(&got, bytes, kGranule, wish, 0);
  if (result != kSuccess) // a wish that is refused, or no room at all?
    cuda_.reserve("reserve " + what(bytes, begin), &got, bytes, kGranule, kNowhere, 0);
  cuda_.unreserve("give up " + what(bytes, begin), got, bytes);
  if (got == wish && result == kSuccess) return true;
  device::channel->offered_distance = int64_t(uint64_t(got) - begin);
  return false;
}

// CUDA gives up a reservation as a whole only, and a block may need its addresses for the CPU's memory
// (host_blocks.h). So addresses are held by a mapping, and reserved block by block.
bool GpuMemory::hold_addresses(uint64_t begin, uint64_t bytes, bool replace) const {
  void* const held =
      mmap(mapping(at(begin)), bytes, PROT_NONE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (replace ? MAP_FIXED : MAP_FIXED_NOREPLACE), -1, 0);
  if (held != MAP_FAILED) return true;
  if (errno == EEXIST) return false;
  throw CudaError(kOutOfMemory, "cannot hold addresses for " + what(bytes, begin) + ": " + strerror(errno));
}

// From the mapping that holds them. Nothing of this process comes between as a rule, and is told if it does.
void GpuMemory::take_addresses(uint64_t block) const {
  munmap(mapping(at(block)), kGranule);
  Address got = kNowhere;
  const Result result = cuda_.reserve.ask(&got, kGranule, kGranule, at(block), 0);
  if (result == kSuccess && got == at(block)) return;
  if (result == kSuccess) cuda_.unreserve("give up " + what(kGranule, block), got, kGranule);
  hold_again(block);
  check(result, cuda_.reserve.name(), "reserve " + what(kGranule, block));
  throw CudaError(0, "cannot reserve " + what(kGranule, block) + ": the GPU gives other addresses now");
}

void GpuMemory::hold_again(uint64_t block) const {
  if (!hold_addresses(block, kGranule, false))
    throw CudaError(0, "cannot hold addresses for " + what(kGranule, block) +
                           ": other memory of this process is there now");
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
  for (;;) {
    try {
      return try_to_make(block);
    } catch (const CudaError& error) {
      if (error.result != kOutOfMemory || !make_room()) throw;
    }
  }
}

// The addresses are held as before if it throws. Page tables take memory, too: any call may find none left.
void GpuMemory::try_to_make(uint64_t block) {
  Memory memory = 0;
  check(create(memory), cuda_.create.name(), "allocate " + what(kGranule, block));
  bool placed = false;
  try {
    take_addresses(block);
    placed = true;
    open(at(block), memory);
  } catch (const CudaError&) {
    if (placed && cuda_.unreserve.ask(at(block), kGranule) == kSuccess) hold_again(block);
    cuda_.release.ask(memory);
    throw;
  }
  keep_safe(block, memory);
  granules_[block] = {memory, 0};
}

// Maps a granule for this GPU.
void GpuMemory::open(Address at, Memory memory) {
  const std::string place = "2 MiB at " + hex(uint64_t(at)) + " of " + name_;
  cuda_.map("map " + place, at, kGranule, 0, memory, 0);
  AccessRights rights;
  rights.location.id = gpu_;
  try {
    cuda_.set_access("open " + place, at, kGranule, &rights, 1);
  } catch (const CudaError&) {
    cuda_.unmap.ask(at, kGranule);
    throw;
  }
}

GpuMemory::Shadow GpuMemory::make_elsewhere() {
  Address at = kNowhere;
  Memory memory = 0;
  cuda_.reserve("reserve addresses of " + name_, &at, kGranule, kGranule, kNowhere, 0);
  try {
    check(create(memory), cuda_.create.name(), "allocate 2 MiB of " + name_);
    open(at, memory);
  } catch (const CudaError&) {
    if (memory) cuda_.release.ask(memory);
    cuda_.unreserve.ask(at, kGranule);
    throw;
  }
  return {{memory, 0}, at};
}

Address GpuMemory::scratch() {
  const std::lock_guard hold(lock_);
  try {
    const Shadow made = make_elsewhere();
    scratch_[made.address] = made.granule.memory;
    return made.address;
  } catch (const CudaError&) { // whoever wanted it does without
    return kNowhere;
  }
}

bool GpuMemory::leaves_enough() const {
  size_t free = 0, total = 0;
  return cuda_.memory_info.ask(&free, &total) == kSuccess && free > total / 8 + kGranule;
}

Address GpuMemory::hold_shadow(uint64_t block, bool make) {
  enter_context();
  const std::lock_guard hold(lock_);
  auto found = shadows_.find(block);
  if (found == shadows_.end()) {
    if (!make || !leaves_enough()) return kNowhere;
    try {
      found = shadows_.emplace(block, make_elsewhere()).first;
    } catch (const CudaError&) {
      return kNowhere;
    }
  }
  found->second.granule.uses++;
  return found->second.address;
}

void GpuMemory::let_go(uint64_t block) {
  const std::lock_guard hold(lock_);
  shadows_.at(block).granule.uses--;
}

// Gives up one shadow that nobody holds. False: there is none.
bool GpuMemory::drop_shadow() {
  for (auto at = shadows_.begin(); at != shadows_.end(); ++at) {
    const auto& [block, shadow] = *at;
    if (shadow.granule.uses) continue;
    lost_(block);
    unmake(shadow.address, shadow.granule.memory);
    shadows_.erase(at);
    return true;
  }
  return false;
}

AllocationProperties GpuMemory::properties() const {
  AllocationProperties wanted;
  wanted.location.id = gpu_;
  if (!shares_) wanted.handles = 0; // CU_MEM_HANDLE_TYPE_NONE
  return wanted;
}

// A granule, if need be one that cannot be shared with other processes: that is better than none.
Result GpuMemory::create(Memory& memory) {
  AllocationProperties wanted = properties();
  const Result first = cuda_.create.ask(&memory, kGranule, &wanted, 0);
  if (first == kSuccess || first == kOutOfMemory || !shares_) return first;
  wanted.handles = 0;
  const Result second = cuda_.create.ask(&memory, kGranule, &wanted, 0);
  if (second != kSuccess) return second == kOutOfMemory ? second : first;
  shares_ = false;
  note_not_kept(reason(first, cuda_.create.name(), "allocate memory of " + name_ + " that can be shared"));
  return kSuccess;
}

// Before anything is there.
void GpuMemory::keep_safe(uint64_t block, Memory memory) const {
  int descriptor = -1;
  const Result result = shares_ ? cuda_.export_memory.ask(&descriptor, memory, 1, 0) : kSuccess;
  if (result) {
    descriptor = -1;
    note_not_kept(reason(result, cuda_.export_memory.name(), "share " + what(kGranule, block)));
  }
  keep(block, descriptor);
  if (descriptor >= 0) close(descriptor);
}

int GpuMemory::share(uint64_t block) {
  enter_context();
  const std::lock_guard hold(lock_);
  if (!shares_)
    throw CudaError(0, "cannot share " + what(kGranule, block) + ": " + device::channel->not_kept);
  int descriptor = -1;
  cuda_.export_memory("share " + what(kGranule, block), &descriptor, granules_.at(block).memory, 1, 0);
  return descriptor;
}

bool GpuMemory::drop_scratch() {
  const Address at = lanes_.give_up_buffer();
  if (at == kNowhere) return false;
  unmake(at, scratch_.at(at));
  scratch_.erase(at);
  return true;
}

// What make_elsewhere made.
void GpuMemory::unmake(Address at, Memory memory) {
  cuda_.unmap("unmap 2 MiB of " + name_, at, kGranule);
  cuda_.unreserve("give up addresses of " + name_, at, kGranule);
  cuda_.release("free 2 MiB of " + name_, memory);
}

// Gives up one granule that nobody uses. False: there is none.
bool GpuMemory::make_room() {
  if (drop_shadow() || drop_scratch()) return true;
  for (auto at = granules_.begin(); at != granules_.end(); ++at) {
    if (at->second.uses || in_use_(at->first)) continue;
    give_up(at);
    return true;
  }
  return false;
}

bool GpuMemory::spare_some() {
  const std::lock_guard hold(lock_);
  return make_room();
}

void GpuMemory::give_up(std::map<uint64_t, Granule>::iterator granule) {
  const auto [block, content] = *granule;
  cuda_.unmap("unmap " + what(kGranule, block), at(block), kGranule);
  granules_.erase(granule);
  cuda_.unreserve("give up the addresses of " + what(kGranule, block), at(block), kGranule);
  hold_again(block);
  forget(block);
  cuda_.release("free " + what(kGranule, block), content.memory);
}

void GpuMemory::surrender(uint64_t block) {
  const std::lock_guard hold(lock_);
  const auto found = granules_.find(block);
  if (found == granules_.end()) return;
  if (found->second.uses)
    throw CudaError(0, "cannot share " + what(kGranule, block) +
                           " with the CPU while a device view has it: close the view first");
  give_up(found);
}

} // namespace hmmemu::cuda
