// Blocks of 2 MiB as the page table (residency.h) and launches on their way to their pages (bringing.cpp) see
// them. For those two files: who else asks, asks residency.h.
#pragma once
#include "gpu_memory.h"
#include <atomic>
#include <cstdint>

namespace hmmemu::cuda {

inline uint64_t block_of(uint64_t address) { return address / kGranule * kGranule; }

// The last launch that uses the block; written by worker 0 alone.
std::atomic<uint64_t>& ticket_of(uint64_t address);
// Whether the GPU uses its own memory there.
bool is_own(uint64_t block);
bool has_lent(uint64_t block);
// Whether a kernel can use the pages, of one block, as they lie.
bool is_placed(uint64_t begin, uint64_t end);
// The block becomes the CPU's memory if a page of it is lent, and the GPU's if none is, when no kernel uses
// it any more. Worker 0, with no ticket of its own written to blocks, for a kernel that uses [begin, end).
void put(uint64_t begin, uint64_t end);
// How many rights worker 0 was refused for want of memory. Worker 0.
uint64_t grants_refused();

} // namespace hmmemu::cuda
