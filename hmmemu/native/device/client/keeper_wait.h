// The end of a GPU's memory: it outlives its process by a keeper, which writes what the GPU alone had to the
// file of frames, and holds a lock on that file until it is done (device/cuda/keeper.h).
#pragma once
#include <cstdint>

namespace hmmemu::device {

// For those who know that the process has ended. Driver threads, too: allocates nothing.
bool keeper_is_done(int vram);
// False: it was not, within the limit.
bool wait_for_keeper(int vram, uint64_t limit_ns);

inline constexpr uint64_t kKeepLimit = 120'000'000'000; // ns

} // namespace hmmemu::device
