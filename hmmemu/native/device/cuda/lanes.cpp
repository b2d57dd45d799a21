// Purpose: make lanes, lend them. Locks: see the header.
#include "lanes.h"

#include "gpu_memory.h"
#include "page_kernels.h"

#include <chrono>
#include <sys/mman.h>
#include <utility>

namespace hmmemu::cuda {
namespace {

constexpr std::chrono::seconds kLimit{60};
constexpr uint64_t kHostBytes = Lane::kTable + Lane::kBytes;

} // namespace

Lane* Lanes::find_free() {
  for (const auto& lane : lanes_)
    if (!lane->taken) {
      lane->taken = true;
      return lane.get();
    }
  return lanes_.size() < kMost ? make() : nullptr;
}

Lane* Lanes::make() {
  const Libcuda& cuda = libcuda();
  auto lane = std::make_unique<Lane>();
  void* const host = mmap(nullptr, kHostBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (host == MAP_FAILED) throw CudaError(kOutOfMemory, "no memory for a copy buffer of " + memory_.name());
  try {
    cuda.stream_create("make a stream on " + memory_.name(), &lane->stream, 1); // CU_STREAM_NON_BLOCKING
  } catch (const CudaError&) {
    munmap(host, kHostBytes);
    throw;
  }
  lane->host = static_cast<std::byte*>(host);
  cuda.pin.ask(host, kHostBytes, 0); // refused: copies from there are slower
  if (has_page_kernels()) lane->gpu = memory_.scratch();
  lane->taken = true;
  lanes_.push_back(std::move(lane));
  return lanes_.back().get();
}

Lane* Lanes::take_free() {
  memory_.enter_context();
  const std::lock_guard hold(lock_);
  try {
    return find_free();
  } catch (const CudaError&) { // what cannot be made is done without
    return nullptr;
  }
}

Lane& Lanes::take() {
  memory_.enter_context();
  std::unique_lock hold(lock_);
  Lane* found = nullptr;
  const auto look = [&] {
    try {
      found = find_free();
    } catch (const CudaError&) {
      if (lanes_.empty()) throw;
    }
    return found != nullptr;
  };
  if (!freed_.wait_for(hold, kLimit, look))
    throw CudaError(0, "copy to or from " + memory_.name() + ": no copy buffer came free within 60 s");
  return *found;
}

Address Lanes::give_up_buffer() {
  const std::unique_lock hold(lock_, std::try_to_lock); // GpuMemory's lock is held, which comes after
  if (!hold) return kNowhere;
  for (const auto& lane : lanes_)
    if (!lane->taken && lane->gpu != kNowhere) return std::exchange(lane->gpu, kNowhere);
  return kNowhere;
}

void Lanes::give_back(Lane& lane) {
  {
    const std::lock_guard hold(lock_);
    lane.taken = false;
  }
  freed_.notify_one();
}

} // namespace hmmemu::cuda
