// The end of a GPU's memory: it outlives its process by a keeper, which writes what the GPU alone had to the
// file of frames, and holds a lock on that file until it is done (device/cuda/keeper.h).
#pragma once
#include <cstdint>

namespace hmmemu::device {

// For those who know that the process has ended. False: the keeper has not, within the limit. Driver threads,
// too: allocates nothing.
bool wait_for_keeper(int vram, uint64_t limit_ns);

inline constexpr uint64_t kKeepLimit = 120'000'000'000; // ns

} // namespace hmmemu::device
