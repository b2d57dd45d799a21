// The keeper: a child of the helper process that saves what the GPU alone has when the helper dies, in
// whatever way.
//
// After a kernel has failed, CUDA refuses every call of that process, copies included; and a kernel that
// hangs ends with its process only. But memory of cuMemCreate lives as long as a descriptor of it does
// (cuMemExportToShareableHandle), so the helper gives each granule's descriptor to its keeper. The keeper
// does nothing with CUDA until the helper is gone; then it imports the granules and copies the pages that
// are newer there to where they lie on the host (host_content.h): it has the objects' descriptors, too.
//
// Nothing depends on it until then: memory of which it gets no descriptor (the driver makes none, or it may
// open no more of them) works as any other, and `channel->not_kept` says what would be lost, and why.
//
// It holds a lock on the first byte of that file for as long as it lives: the CPU process waits for that lock
// before it reads the file of a device that ended (client/device_process.cpp), and says what is lost if the
// keeper has gone without a word (Channel::keeper).
#pragma once
#include <cstdint>
#include <string>

namespace hmmemu::cuda {

// Before there are threads, and before CUDA is called; page_bits are there. Null, or why it cannot be had.
const char* start_keeper(int file);

// The block's memory has this descriptor, which stays the caller's; negative: it has none, and what the GPU
// alone has of it is lost with a kernel that fails, as `note_not_kept` has said. `forget`: it is given up.
void keep(uint64_t block, int descriptor);
void forget(uint64_t block);

// As device::know_frames, or forget_frames without a descriptor, which stays the caller's.
void keep_frames(int descriptor, uint64_t address, uint64_t length, uint64_t offset);
// Tells the CPU process why GPU memory is not kept safe; the first reason stays.
void note_not_kept(const std::string& why);

} // namespace hmmemu::cuda
