// The CPU's frames, as this process can map them: the files that they lie in.
//
// Private memory's are in one file, the common frames, at the offset that is their address; those of shared
// memory and of files in the object itself, of which the CPU process sends a descriptor when it registers the
// memory: one with O_PATH, as closing any other would end the locks that the program has on the file. Callers
// hold a lock of their own, exclusively: `mapping_lock` of video_memory.cpp, HostBlocks::frames_lock of a
// GPU.
#pragma once
#include "device/protocol.h"

namespace hmmemu::device {

// The frames of [address, address + length) lie in the object from `offset` on; a length of 0: `fd` is the
// file of the common frames itself. `fd` is the callee's. 0, or an errno: the object may not be written from
// here.
int know_frames(int fd, uint64_t address, uint64_t length, uint64_t offset);
void forget_frames(uint64_t address, uint64_t length);

// Where the frames from `address` on lie, up to `end` or as far as they follow each other. `bytes` is 0:
// nobody told.
struct HostFrames {
  int fd = -1; // stays ours, while callers hold their lock
  uint64_t offset = 0, bytes = 0;
  uint64_t before = 0; // bytes of the object that lie before `address`
};
HostFrames find_frames(uint64_t address, uint64_t end);

// Maps the CPU's frames of [address, address + length) at `at`, in place of what is there, to read and write.
// 0; ENXIO: nobody told where they lie; else an errno. A part may be mapped then.
int map_host_frames(MailboxOperation operation, uint64_t address, uint64_t length, uint64_t at);

} // namespace hmmemu::device
