// The device's view of its video memory: which ranges are mapped, and under tracker signal what may be done
// with them.
//
// Under tracker signal a mapping starts without rights, and the driver gives and takes them page by page
// (set_rights). The kernel keeps one mapping (VMA) for each run of pages with the same rights, and a process
// has only so many (vm.max_map_count). So the kernel's mappings are treated as a cache: when no more can be
// made, all rights are taken away at once, which leaves one mapping a range, and the driver gives them again
// to the pages that then fault. INVARIANT: the device never has more rights than the driver gave it; it may
// have less.
//
// Pages may be lent: then the CPU's own frames (host_frames.h) are mapped in place of video memory, with all
// rights. Nobody catches accesses there; when that ends, video memory is back, without rights or entries.
#pragma once
#include "device/protocol.h"
#include "userfault.h"
#include <cstdint>
#include <string>

namespace hmmemu::device {

// Before the first mapping. Null, or why it cannot be had. `vram` is the file of frames; `userfault` has no
// descriptor under trackers signal and launch.
const char* open_video_memory(int vram, const Userfault& userfault);

// Maps [address, address + length) of the video memory at its own address and watches it, with the
// userfaultfd or by rights. 0 or an errno; EEXIST if the range is in use here.
// Agent thread only, as is unmap_video.
int map_video(uint64_t address, uint64_t length);
int unmap_video(uint64_t address, uint64_t length);
// As know_frames, or forget_frames if there is no descriptor (host_frames.h).
int share_frames(int fd, uint64_t address, uint64_t length, uint64_t offset);

// An access was refused while the page's mapping was being replaced: waits until that is done. False: that
// was not why. Async-signal-safe for threads that are in none of these functions.
bool wait_for_mapping(uint64_t address);

// Where there is no userfaultfd: whether the page of `address` is mapped video memory. Async-signal-safe.
bool is_watched(uint64_t address);

// Does what the driver asks. 0 or an errno. Parts of the range that are not mapped count as done if rights
// are taken, and are EFAULT if they are given. Mailbox threads, and the SIGSEGV handler of a thread that
// touched video memory (which no thread does while it maps or unmaps).
int change_table(MailboxOperation operation, uint64_t address, uint64_t length);

// All page table entries go, and rights stay: every page that a kernel touches faults again.
void forget_entries();

// Tracker launch. The pages keep memory on the GPU until they are released as often as they are held, whoever
// takes rights to them meanwhile. hold: 0 or an errno; EAGAIN and the page in `missing` if there is one
// without the right to read (to write), and nothing is held then. share: a descriptor of the memory of the
// block at `address`, which is held, for the caller to close; or -errno. `why`: in words, where there is more
// to say. Agent thread only.
int hold_video(uint64_t address, uint64_t length, bool writes, uint64_t& missing, std::string& why);
int release_video(uint64_t address, uint64_t length);
int share_video(uint64_t address, std::string& why);

// services->own
void own_page(hmm_worker* worker, const void* address);

} // namespace hmmemu::device
