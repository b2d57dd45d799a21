// How many pages one fault brings: a pure function of the block's state.
//
// The rule of NVIDIA's driver (open-gpu-kernel-modules, kernel-open/nvidia-uvm/uvm_perf_prefetch.c): grow to
// 64 KiB, then take the largest aligned subtree of the 2 MiB block, around the fault, of which more than
// `threshold` percent would then be resident. Never across the limits of the allocation, nor of the block.
//
// A CPU that writes pages which it may read takes copies away from devices, and each must be made again. So
// there the tree counts pages that the CPU may write: neighbours go along where it writes in order, or has
// written most of a part. And it begins with the page alone, unless the one before it was written too. The
// same for pages of which CPU and device have one frame mapped, and take the right to it from each other.
//
// Where the CPU uses most of a block in each round of a program that iterates, its faults begin with more
// (protocol/fault_history.h).
#pragma once
#include "protocol/directory.h"

namespace hmm {

struct GrowthPolicy {
  bool grow = true;
  unsigned threshold = 51;  // percent
  unsigned first_pages = 1; // that a fault begins with at the least: a power of two
};

// Pages to bring to `p` for a fault at `address`, none of them in transition or viewed (if that at `address`
// is not). Caller must hold the block's lock.
Pages grow(Block& block, uint64_t address, Processor p, GrowthPolicy policy);

} // namespace hmm
