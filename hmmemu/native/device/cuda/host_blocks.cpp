// Purpose: map and pin the CPU's memory, block by block. Locks: see the header.
#include "host_blocks.h"

#include "device/process/device.h"
#include "page_bits.h"

#include <cerrno>
#include <cstring>
#include <sys/mman.h>

namespace hmmemu::cuda {
namespace {

constexpr unsigned kDeviceMap = 2; // CU_MEMHOSTREGISTER_DEVICEMAP

// EPERM: it cannot be pinned, or the GPU has it at another address.
int try_pin(void* at, uint64_t bytes) {
  const Result result = libcuda().pin.ask(at, bytes, kDeviceMap);
  if (result == kSuccess) {
    Address there = kNowhere;
    libcuda().host_address.ask(&there, at, 0);
    libcuda().unpin("unpin memory of the CPU", at);
    return mapping(there) == at ? 0 : EPERM;
  }
  if (breaks_context(result)) // CUDA refuses all
    check(result, libcuda().pin.name(), "pin memory of the CPU");
  return EPERM;
}

std::atomic<uint8_t>* make_places() {
  void* const at = device::reserve_memory(device::kVramBytes / kGranule, 0);
  if (!at) throw CudaError(kOutOfMemory, "no address space for the GPU's table of blocks (see `ulimit -v`)");
  return static_cast<std::atomic<uint8_t>*>(at);
}

uint64_t make_trial() {
  const auto at = reinterpret_cast<uint64_t>(device::reserve_memory(2 * kGranule, 0));
  if (!at) throw CudaError(kOutOfMemory, "no address space to map the CPU's memory (see `ulimit -v`)");
  return (at + kGranule - 1) / kGranule * kGranule;
}

} // namespace

HostBlocks::HostBlocks(GpuMemory& memory, HostContent& content, int file)
    : memory_(memory), content_(content), file_(file), places_(make_places()), trial_(make_trial()) {}

HostBlocks::Place HostBlocks::place(uint64_t begin, uint64_t end) const {
  const auto place = Place(places_[begin / kGranule].load());
  if (place != kHost || !pagemap_.is_readable()) return place;
  return pagemap_.has_all(mapping(memory_.at(begin)), end - begin) ? kHost : kStale;
}

void HostBlocks::spoil(uint64_t block) {
  uint8_t pinned = kHost;
  places_[block / kGranule].compare_exchange_strong(pinned, kStale);
}

void HostBlocks::release(uint64_t block) {
  libcuda().unpin("unpin " + memory_.what(kGranule, block), mapping(memory_.at(block)));
}

// Somewhere else: what stands at the pages themselves may be in use.
int HostBlocks::try_lend(device::MailboxOperation operation, uint64_t begin, uint64_t end) {
  memory_.enter_context();
  const std::lock_guard hold(trial_lock_);
  const uint64_t at = trial_ + begin % kGranule;
  int error = content_.map(operation, begin, end - begin, at);
  if (!error) error = try_pin(reinterpret_cast<void*>(at), end - begin);
  mmap(reinterpret_cast<void*>(at), end - begin, PROT_NONE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
  return error;
}

// Over the file: what is lent, and all else that lies in objects. 0 or an errno.
int HostBlocks::map_lent(uint64_t block) {
  int error = 0;
  const auto common = [](uint8_t has) { return (has & (kRight | kObject)) == kLent; };
  const auto in_object = [](uint8_t has) { return (has & kRight) != kNone && has & kObject; };
  for (const bool object : {false, true})
    each_run(
        block, block + kGranule, [&](uint8_t has) { return object ? in_object(has) : common(has); },
        [&](uint64_t begin, uint64_t end) {
          if (!error)
            error = content_.map(object ? device::kLendObject : device::kLendCommon, begin, end - begin,
                                 uint64_t(memory_.at(begin)));
        });
  return error;
}

void HostBlocks::map(uint64_t block) {
  void* const at = mmap(mapping(memory_.at(block)), kGranule, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file_, off_t(block));
  const int error = at == MAP_FAILED ? errno : map_lent(block);
  if (error)
    throw CudaError(kOutOfMemory, "cannot map the CPU's memory at " + memory_.what(kGranule, block) + ": " +
                                      strerror(error));
}

void HostBlocks::pin(uint64_t block) {
  std::atomic<uint8_t>& place = places_[block / kGranule];
  if (place.load() != kOwn) release(block);
  void* const at = mapping(memory_.at(block));
  const std::string doing = "map the CPU's memory for " + memory_.what(kGranule, block);
  bool pinned = false;
  try {
    map(block);
    libcuda().pin(doing, at, kGranule, kDeviceMap);
    pinned = true;
    Address there = kNowhere;
    libcuda().host_address(doing, &there, at, 0);
    if (there != memory_.at(block))
      throw CudaError(0, "cannot " + doing + ": the GPU has it at another address");
  } catch (const CudaError&) {
    if (pinned) libcuda().unpin.ask(at);
    memory_.hold_place(block);
    place = kOwn;
    throw;
  }
  place = kHost;
}

void HostBlocks::unpin(uint64_t block) {
  release(block);
  memory_.hold_place(block);
  places_[block / kGranule] = kOwn;
}

} // namespace hmmemu::cuda
