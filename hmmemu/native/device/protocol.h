// What the CPU process and a device process share: the layout of their common memory (the channel)
// and the messages of the control socket. Both programs come from one build; `kMagic` guards
// against a mix.
//
// The channel is a memfd made by the CPU process. Each part says who writes it. A wild store of a
// kernel can hit the channel, so the CPU process checks what it reads there: it may get a wrong
// answer, never a wrong access.
//
// Sequence: ticket t (1, 2, ...) of the queue lives in slot (t - 1) % kSlots. The CPU process
// writes the slot, then raises `produced` to t; the device runs tickets in order and raises
// `completed`. A slot is written again only when its ticket has completed. Tickets go on counting
// when a device process is started anew.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <hmmemu/abi.h>

namespace hmmemu::device {

inline constexpr uint64_t kVramBytes = 1ull << 47; // file offset == virtual address
inline constexpr uint32_t kSlots = 512;            // launches and markers under way at most
inline constexpr uint32_t kParamBytes = 4096;      // CUDA's limit for a kernel's parameters
inline constexpr uint32_t kOutputBytes = 1u << 20; // printf text not yet taken
inline constexpr uint32_t kMaxWorkers = 256;
inline constexpr uint32_t kMaxBlocks = 1024; // resident at a time: workers and the threads that relieve them
inline constexpr uint32_t kMaxCpus = 1024;   // CPU numbers known to the shootdown table
inline constexpr uint32_t kLayouts = 4;      // address layouts a device process can be started in
inline constexpr uint32_t kPathBytes = 4096;

// ---- the queue of launches: CPU process produces, worker 0 of the device consumes ----

enum SlotKind : uint32_t { kSlotLaunch = 1, kSlotMarker = 2 };

// Memory that a launch may touch, in whole pages. Tracker launch: the device has it before the kernel begins.
struct Reach {
  uint64_t begin, end;
  uint64_t use; // ReachUse
};
enum ReachUse : uint64_t {
  kReachReads,
  kReachWrites,
  kReachShares, // reads and writes, and so does the CPU, while the kernel runs
};
inline constexpr uint32_t kReaches = 1u << 16; // of all launches under way

struct alignas(64) Slot {
  uint32_t kind;
  uint32_t flags;  // hmm_launch_flags
  uint64_t kernel; // handle from LOAD
  hmm_dim3 grid, block;
  uint32_t dynamic_shared, param_bytes;
  int32_t submitter_cpu;         // where the thread that wrote this ran
  std::atomic<uint32_t> awaited; // not 0: somebody sleeps until this ticket has completed
  uint64_t time_ns; // markers: CLOCK_MONOTONIC, written by the device before it completes the ticket
  uint32_t extent_count;
  uint32_t reach_count;
  uint64_t reach_begin; // in Channel::reaches, modulo kReaches
  uint32_t confined;    // the kernel may touch nothing else: page faults elsewhere end it
  alignas(64) unsigned char params[kParamBytes];
  hmm_extent extents[HMM_EXTENTS]; // of launches whose atomic operations are counted
};

struct Queue {
  alignas(64) std::atomic<uint64_t> produced;
  std::atomic<uint32_t> submit_bell; // low half of `produced`; the dispatcher sleeps on it
  alignas(64) std::atomic<uint64_t> completed;
  std::atomic<uint32_t> complete_bell; // low half of `completed`; waiters sleep on it
  alignas(64) std::atomic<uint32_t> dispatcher_asleep;
  Slot slots[kSlots];
};

// ---- changes of the device's page table: one mailbox and one device thread per CPU, so that a request stays
// on its CPU ----

enum MailboxOperation : uint32_t {
  kDropEntries = 0, // page table entries of the range go, rights stay: the next access faults
  kRightsNone,      // tracker signal: what the device may do with the range from now on
  kRightsRead,
  kRightsWrite,
  // The CPU's frames are mapped there, to read and write, those of private memory or of the object that
  // kRequestFrames told of; video memory is there again, without entries or rights.
  kLendCommon,
  kLendObject,
  kEndLend,
  // Tracker launch: the video memory file gets what the device holds of pages that it may write, or the
  // device what the file holds. Rights stay.
  kFetch,
  kStore,
  // As kRightsRead and kRightsWrite, for pages without rights whose content is zeros.
  kZerosRead,
  kZerosWrite,
  // A flag of kRightsRead, kRightsWrite, kZerosRead and kZerosWrite, under tracker launch: the content of the
  // pages lies in the object that kRequestFrames told of, and not in the video memory file.
  kFromObject = 1u << 8,
};

struct alignas(64) Mailbox {
  std::atomic<uint32_t> request; // sequence number, raised by the CPU process when the rest is written
  std::atomic<uint32_t> done;    // the last request answered
  uint64_t address, length;
  uint32_t operation;
  int32_t error; // errno of the answer, 0 if it is done
};

// ---- page faults (tracker signal): a thread of the device that faults posts a slot, rings the bell (an
// eventfd) and sleeps on `word` until the answer is there ----
//
// `word` is a state and, above it, a number that grows with each post, so that an answer meant for one post
// never reaches the next. The device moves it from kFaultFree to kFaultPosted, and back after the answer; the
// CPU process does the rest. The last slot serves threads that are no workers, in turn.
//
// An answer may be a request (kFaultGrant): the thread gives its own process rights, which saves a mailbox's
// round trip, and says so by kFaultFree or, if they cannot be had, by posting the fault again with `error`.
// The CPU process waits for that before it takes rights to those pages: none is ever there that it does not
// know of.

enum FaultState : uint32_t {
  kFaultFree = 0,
  kFaultFilling, // a thread has the slot and writes it
  kFaultPosted,
  kFaultTaken, // read by the CPU process, not yet answered
  kFaultRetry, // answer: the access will do now
  kFaultRefused,
  kFaultGrant, // answer: take these rights
};
inline constexpr uint32_t kFaultStateMask = 15, kFaultNumber = 16; // one step of the number

// What page faults on one page are for: its address, and one of these in the bits below.
enum Wanted : uint64_t {
  kWantedNothing = 0,
  kWantedAtomic, // an atomic operation that the link can do where the page is
  kWantedOwn,    // ... that the link lacks: it needs the page without the CPU
  kWantedShare,  // no operation yet: the page is to be where CPU and device reach it, for as long as a kernel
                 // runs
};

struct alignas(64) FaultSlot {
  std::atomic<uint32_t> word;
  int32_t tid;
  uint64_t address;
  uint32_t write;
  // kFaultGrant
  uint32_t operation; // MailboxOperation
  uint64_t begin, length;
  int32_t error; // of a post: 0, or why the last grant could not be had
  // The latest atomic operation of the thread, `tid`: Wanted. Any tracker.
  std::atomic<uint64_t> wanted;
  // How often the CPU process brought it pages that somebody had; kBroughtStays: ... that stayed where they
  // were, without the CPU. Any tracker.
  std::atomic<uint32_t> brought;
};
inline constexpr uint32_t kBroughtStays = 1u << 16;
inline constexpr uint32_t kFaultSlots = kMaxBlocks + 1;

// ---- why the device died: written once, by the first thread that fails ----

enum CrashKind : uint32_t {
  kCrashSignal = 1, // a signal in a kernel or module constructor
  kCrashKernel = 2, // services->fail: `failure` and `message`
  kCrashLaunch = 3, // a launch that the device refused: `message`
  kCrashDevice = 4, // the device's own code failed: `message`
  kCrashGpu = 5, // CUDA says that a launch failed: its result `code`; its words, and what it wrote, `message`
};
enum CrashState : uint32_t { kCrashNone = 0, kCrashPartial = 1, kCrashComplete = 2 };
enum CrashAccess : uint32_t { kAccessUnknown = 0, kAccessRead, kAccessWrite, kAccessExecute };

struct Crash {
  uint32_t kind;
  int32_t signal, code, tid;
  uint32_t failure; // hmm_failure
  uint64_t address;
  uint32_t address_known, access, stack_overflow;
  uint32_t worker, in_kernel, block_known, thread_known;
  uint64_t instruction, module_offset; // offset as `addr2line -e module` wants it
  uint64_t ticket;
  hmm_dim3 grid, block_size, block, thread;
  char kernel[256], module[1024], message[4096];
};

// ---- printf: a ring of bytes; workers append under `lock`, the CPU process moves `tail` ----

struct Output {
  alignas(64) std::atomic<uint32_t> lock; // of the workers among themselves
  std::atomic<uint64_t> head;             // bytes ever appended
  std::atomic<uint64_t> dropped;          // bytes that found no room
  alignas(64) std::atomic<uint64_t> tail; // bytes ever taken
  char text[kOutputBytes];
};

// ---- what crosses the link of a GPU (device/cuda/crossing.h), counted by the device process ----

struct Crossings {
  std::atomic<uint64_t> pages_to_gpu, pages_home;        // whose content crossed
  std::atomic<uint64_t> copies_to_gpu, copies_home;      // copies in which they did
  std::atomic<uint64_t> scattered_pages, gathered_pages; // of those pages, by kernels
  std::atomic<uint64_t> direct_pages;                    // ... straight from and to the program's memory
  std::atomic<uint64_t> zeroed_pages;                    // that were filled on the GPU, and did not cross
  std::atomic<uint64_t> compared_pages, unchanged_pages; // that a kernel may have written; and had not
};

// ---- the channel ----

struct WorkerInfo {
  int32_t tid, cpu;
};

// Of the process that saves what a GPU alone has (device/cuda/keeper.h). When it is gone and watches still,
// it saved nothing, or not all.
enum KeeperState : uint32_t { kNoKeeper = 0, kKeeperWatches, kKeeperIsDone };

// Who tells the CPU process of the device's page faults.
enum Tracker : uint32_t {
  kTrackerUserfaultfd = 0, // the kernel
  kTrackerSignal,          // the device itself: its pages are protected, its SIGSEGV handler posts the fault
  kTrackerLaunch,          // nobody: a GPU has the pages that a launch names before it begins (device/cuda)
};

struct Channel {
  // Written by the CPU process before the device starts.
  uint32_t magic, worker_wish;   // wish: 0 is one worker per allowed CPU
  int32_t parent;                // process id of the CPU process
  uint32_t generation;           // upper half of kernel handles: 1 for the first process, 2 for the next ...
  uint32_t spin_ns;              // how long waiting threads look before they sleep; 0 on one CPU
  uint32_t tracker;              // Tracker
  uint32_t gpu;                  // tracker launch: CUDA's number of the GPU
  int64_t distance;              // tracker launch: from the CPU's addresses to the GPU's, bytes, modulo
                                 // kVramBytes; whole blocks of 2 MiB, 0 where it can be
  uint64_t stack_limit;          // RLIMIT_STACK to go back to
  hmm_link link;                 // what the link can do; may change between launches
  char page_kernels[kPathBytes]; // tracker launch: the module of kernels/pages.cu; empty: none. Before any
                                 // memory is mapped
  // Written by the device: the first at any time, the others before its first message.
  std::atomic<int64_t> offered_distance; // tracker launch: at which the last range that it could not map has
                                         // room; 0: none was
  uint32_t worker_count, mailbox_count;
  WorkerInfo workers[kMaxWorkers];
  int16_t mailbox_of_cpu[kMaxCpus]; // -1: none
  Mailbox mailboxes[kMaxWorkers];
  std::atomic<uint32_t> block_threads; // workers and relief: those that ever ran; may grow at any time
  FaultSlot faults[kFaultSlots];
  std::atomic<uint32_t> crash_state; // CrashState
  Crash crash;
  Crossings crossings;
  char no_page_kernels[256]; // why there are none, written by the device process before it moves pages;
                             // empty: nothing is wrong
  char not_kept[256];        // why GPU memory would be lost with a kernel that fails, written by the device
                             // process or its keeper, once; empty: none would
  std::atomic<uint32_t> keeper; // KeeperState; written by the device process, then by the keeper
  Queue queue;
  Reach reaches[kReaches]; // a ring, written before the slot that points there
  Output output;
};

inline const Reach& reach_of(const Channel& channel, const Slot& slot, uint32_t index) {
  return channel.reaches[(slot.reach_begin + index) % kReaches];
}

// Calls act(reach) for each range of a launch until one says false; whether none did. A wild store of a
// kernel may have hit the count.
template <class Act> bool each_reach(const Channel& channel, const Slot& slot, Act act) {
  const uint32_t count = slot.reach_count < kReaches ? slot.reach_count : kReaches;
  for (uint32_t i = 0; i < count; i++)
    if (!act(reach_of(channel, slot, i))) return false;
  return true;
}

// Behind the channel, in the same file: one bit for each page of the address space, set by the CPU process
// where it uses the device's memory, too.
inline constexpr uint64_t kRemoteBytes = kVramBytes / 4096 / 8;
inline constexpr uint64_t kRemoteOffset = (sizeof(Channel) + 4095) / 4096 * 4096;
inline std::atomic<uint8_t>* remote_bits(Channel* channel) {
  return reinterpret_cast<std::atomic<uint8_t>*>(reinterpret_cast<unsigned char*>(channel) + kRemoteOffset);
}

// Behind those, for each thread that runs blocks: what its atomic operations were, where a module counts
// them.
inline constexpr uint64_t kLogBytes = (sizeof(hmm_atomic_log) + 4095) / 4096 * 4096;
inline constexpr uint64_t kLogOffset = kRemoteOffset + kRemoteBytes;
inline constexpr uint64_t kChannelBytes = kLogOffset + kMaxBlocks * kLogBytes;
inline hmm_atomic_log* atomic_log(Channel* channel, uint32_t thread) {
  return reinterpret_cast<hmm_atomic_log*>(reinterpret_cast<unsigned char*>(channel) + kLogOffset +
                                           thread * kLogBytes);
}

// Tells programs of different builds apart.
inline constexpr uint32_t kMagic = 0x484d4d00u ^ (HMMEMU_ABI << 24) ^ uint32_t(sizeof(Channel));

// ---- control socket (SOCK_SEQPACKET): a request, a reply, then `text_bytes` of text in packets
// ----

inline constexpr uint32_t kTextPacket = 32768;

enum RequestKind : uint32_t {
  kRequestPing = 1,
  kRequestMap,
  kRequestUnmap,
  kRequestLoad,
  kRequestUnload,
  kRequestFrames, // comes with a descriptor, or forgets
  // Tracker launch: process/video_memory.h
  kRequestHold,
  kRequestRelease,
  kRequestShare, // the reply comes with a descriptor
};

struct Request {
  uint32_t id, kind;
  uint64_t address,
      length;          // ranges. LOAD: where globals go, and the room there. UNLOAD: module
  uint64_t offset;     // FRAMES, with a descriptor: the CPU's frames of the range lie there from here on;
                       // length 0: those of all private memory, at their addresses. Without one: forget it
  uint32_t initialise; // LOAD: give globals their initial values
  uint32_t writes;     // HOLD; FRAMES: a descriptor is sent along
  uint32_t text_bytes;
  char text[kPathBytes]; // LOAD: path. Only `text_bytes` of it are sent
};

enum Status : uint32_t {
  kStatusOk = 0,
  kStatusFailed,      // text says why
  kStatusTaken,       // MAP: the device uses that address itself
  kStatusNoMemory,    // LOAD: globals need `value` bytes
  kStatusUnsupported, // start: userfaultfd is missing or refused
  kStatusMissing,     // HOLD: page `value` is not there
};

// Reply 0 is the device's greeting. Tracker userfaultfd: the descriptor as SCM_RIGHTS, `value` its features.
struct Reply {
  uint32_t id, status, text_bytes;
  uint32_t user_mode_only; // greeting: faults inside system calls do not reach the userfaultfd
  uint64_t value;
};

} // namespace hmmemu::device
