// Purpose: memory of the GPU that the user's process uses by itself (device views): held, and passed on.
//
// INVARIANT: a block that is held keeps its granule, so who has imported it sees what this process sees. Who
// takes rights to its pages waits for no view: a thread of the program may do it while it has one open.
// No lock: one thread, the agent, calls all of this; granules are GpuMemory's.
#include "device/process/video_memory.h"
#include "content.h"
#include "gpu_memory.h"
#include "residency.h"

#include <cerrno>
#include <map>
#include <string>

namespace hmmemu::device {
namespace {

std::map<uint64_t, unsigned> held; // so often, by block

uint64_t block_of(uint64_t address) { return address / cuda::kGranule * cuda::kGranule; }

void let_go(uint64_t begin, uint64_t end) {
  for (uint64_t block = block_of(begin); block < end; block += cuda::kGranule) {
    cuda::gpu().release(block);
    if (--held[block] == 0) held.erase(block);
  }
}

} // namespace

int hold_video(uint64_t address, uint64_t length, bool writes, uint64_t& missing, std::string& why) {
  const uint64_t end = address + length;
  uint64_t block = block_of(address);
  try {
    for (; block < end; block += cuda::kGranule) {
      if (!cuda::make_own(block)) {
        let_go(address, block);
        missing = block;
        return EAGAIN;
      }
      cuda::gpu().hold(block);
      held[block]++;
    }
  } catch (const cuda::CudaError& error) {
    let_go(address, block);
    why = error.what();
    return error.result == cuda::kOutOfMemory ? ENOMEM : EIO;
  }
  // Held first: what is there now stays.
  try {
    const cuda::Sending sending;
    missing = cuda::first_without(address, end, writes);
    if (!missing) cuda::open_view(address, end, writes);
  } catch (const cuda::CudaError& error) {
    let_go(address, end);
    why = error.what();
    return EIO;
  }
  if (!missing) return 0;
  let_go(address, end);
  return EAGAIN;
}

int release_video(uint64_t address, uint64_t length) {
  for (uint64_t block = block_of(address); block < address + length; block += cuda::kGranule)
    if (!held.count(block)) return EINVAL;
  cuda::close_view(address, address + length);
  let_go(address, address + length);
  return 0;
}

int share_video(uint64_t address, std::string& why) {
  if (!held.count(block_of(address))) return -EINVAL;
  try {
    return cuda::gpu().share(block_of(address));
  } catch (const cuda::CudaError& error) {
    why = error.what();
    return -EIO;
  }
}

} // namespace hmmemu::device
