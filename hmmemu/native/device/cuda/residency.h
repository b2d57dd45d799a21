// The page table of a GPU, in software: what kernels may do with each page, and which launch uses each block.
//
// A GPU's page faults cannot be caught, so a launch begins when every page that it names is there, and a page
// is taken away when no launch uses it. Two threads must never miss each other: who dispatches writes the
// launch's ticket to its blocks and then reads the rights; who takes rights writes them and then reads the
// ticket. Both in one order for all (sequentially consistent), so at least one sees what the other wrote: the
// dispatcher a missing right, or the taker a ticket to wait for.
//
// Rights to read are taken without waiting for kernels: they go on with their copy, in which everything that
// they may read without a race is as it was. What is on its way to the GPU for a launch (content.h) is waited
// for, in the same order: rights first, then the look.
//
// Several launches are in flight (in_flight.h): a block's ticket is the last of them that uses it, and a
// launch that does not get its pages puts back what was there. Who takes rights waits for the launch whose
// ticket it sees then, and not for those dispatched later: they find the rights gone. Pages whose right to
// read was taken, and given again for a later launch, get their new content while an earlier one may still
// read them: where it may without a race, the content is the same. Blocks change between the GPU's memory and
// the CPU's when no launch in flight uses them.
#pragma once
#include "device/process/device.h"

namespace hmmemu::cuda {

class GpuMemory;

GpuMemory& gpu();

// The block's memory is the GPU's own from here on, until a launch shares a page of it. False: not now, as a
// kernel may be running there, a page is the CPU's frame (prefetch takes it from there), or the GPU has no
// room.
bool make_own(uint64_t block);
// Whether the GPU uses its own memory there, and not the CPU's. While a launch that names it is marked.
bool uses_own_memory(uint64_t address);

// The first of these pages that kernels may not read (write) in the GPU's memory; 0: there is none.
uint64_t first_without(uint64_t begin, uint64_t end, bool writes);

// Worker 0: waits until the launch has all pages that it names, and their content is there. They stay until
// its ticket completes.
void bring_pages(const device::Slot& slot, uint64_t ticket, const hmm_kernel& kernel,
                 const hmm_launch& launch);

} // namespace hmmemu::cuda
