// What the driver knows of one page: for each processor, Invalid, Shared or Exclusive; and who manages it.
//
// One 64-bit word a page:
//   bits  0..31  two bits a processor: 0 Invalid, 1 Shared, 2 Exclusive, 3 Remote; processor 0 is the CPU
//   bits 32..47  how many registered ranges cover the page (neighbours share edge pages); 0: nobody owns it
//   bit  48      first page of an allocation: a fault does not grow across it
//   bits 49..51  what the CPU's mapping is: MAP_SHARED; read-only; pages of a regular file
//   bits 57..58  and: huge pages of hugetlbfs; executable
//   bit  62      and: of a shared mapping, devices can map its object
//   bit  60      gone: the program has unmapped the page; until its owners go too, nobody can have it
//   bits 52..53  how the CPU's accesses are caught: Tracker
//   bit  54      watched: a protector is armed on the page
//   bit  55      merged: the CPU's frame is shared with identical pages
//   bit  56      locked: in transition; who needs the page waits on its wait list
//   bit  61      viewed: the program uses a device's memory of the page by itself (device views), and only
//   who asks for this very page takes it away there: no growth of a fault, no eviction
//   bit  59      linked: the same page of a file or of shared memory is managed at other addresses too
//   (OwnerLink)
//
// INVARIANTS
//   - Single writer or many readers: at most one processor is Exclusive, and then no other is Shared.
//   - A device is Remote where it has the CPU's own frame mapped, for atomics over the link. The CPU is
//     Exclusive then, and other devices are Remote, too, or Invalid; or the CPU is Invalid, where its mapping
//     was taken away so that one device has the frame alone.
//   - A watched page has no writer: a lone holder is Shared.
//   - The pages of a huge page are all managed and all alike (PageState::like): they are locked and treated
//   as one.
// A page that is Invalid everywhere was never touched, or was discarded: it reads as zeros.
#pragma once
#include <cstdint>

namespace hmm {

using Processor = uint8_t;
inline constexpr Processor kCpu = 0;
inline constexpr unsigned kMaxProcessors = 16;

enum class Hold : uint8_t { Invalid = 0, Shared = 1, Exclusive = 2, Remote = 3 };
// Atomic: a device's atomic operation that its link can do where the page is. Own: a device wants the page to
// itself, in its own memory. Alone: a device wants the page to itself, where it is. Share: as Atomic, and the
// device gives up the page if it has it: what it runs next must not keep the CPU from it.
enum class Access : uint8_t { Read = 1, Write = 2, Atomic = 3, Own = 4, Alone = 5, Share = 6 };
enum class Tracker : uint8_t { Uffd = 0, Signal = 1, Async = 2 };
inline constexpr unsigned kTrackers = 3;

// What kind of memory the CPU has mapped at a page.
struct MemoryKind {
  bool shared = false;    // MAP_SHARED
  bool read_only = false; // the program itself may not write it
  bool file = false;      // pages of a regular file
  bool huge = false;      // huge pages of hugetlbfs, of one block each
  bool executable = false;
  bool open = false; // shared: devices can map its object
};

class PageState {
 public:
  constexpr PageState() = default;
  constexpr explicit PageState(uint64_t word) : word_(word) {}
  constexpr uint64_t word() const { return word_; }
  friend constexpr bool operator==(PageState a, PageState b) = default;

  constexpr Hold hold(Processor p) const { return Hold((word_ >> (2 * p)) & 3); }
  constexpr void set(Processor p, Hold h) {
    word_ = (word_ & ~(uint64_t{3} << (2 * p))) | (uint64_t(h) << (2 * p));
  }
  constexpr uint32_t holds() const { return static_cast<uint32_t>(word_); }
  constexpr void set_holds(uint32_t holds) { word_ = (word_ & ~uint64_t{0xffffffff}) | holds; }
  constexpr bool untouched() const { return holds() == 0; }
  // The first device that is Remote, 0 if none is.
  constexpr Processor remote() const {
    const uint32_t both = holds() & (holds() >> 1) & 0x55555555;
    return both ? static_cast<Processor>(__builtin_ctz(both) / 2) : Processor{0};
  }

  constexpr unsigned owners() const { return (word_ >> 32) & 0xffff; }
  constexpr bool managed() const { return owners() != 0 && !gone(); }
  constexpr void add_owner() { word_ += uint64_t{1} << 32; }
  constexpr void drop_owner() { word_ -= uint64_t{1} << 32; }

  // The word with a single bit for any number of owners, and none for the lock.
  constexpr uint64_t outline() const {
    return (word_ & ~(uint64_t{0xffff} << 32 | kLocked)) | uint64_t{managed()} << 32;
  }

  constexpr bool starts_allocation() const { return has(kStart); }
  constexpr void set_start(bool on) { put(kStart, on); }

  constexpr MemoryKind kind() const {
    return {has(kSharedMapping), has(kReadOnly), has(kFile), has(kHuge), has(kExecutable), has(kOpen)};
  }
  constexpr void set_kind(MemoryKind kind) {
    put(kSharedMapping, kind.shared), put(kReadOnly, kind.read_only), put(kFile, kind.file);
    put(kHuge, kind.huge), put(kExecutable, kind.executable), put(kOpen, kind.open);
  }
  constexpr bool shared_mapping() const { return has(kSharedMapping); }
  constexpr bool read_only() const { return has(kReadOnly); }
  constexpr bool huge() const { return has(kHuge); }
  // The CPU's frame lies in an object that processes of devices can read and write, too, at any time. Not so
  // of regular files, which have an end that moves, and huge pages, which no system call writes.
  constexpr bool in_object() const {
    return (word_ & (kSharedMapping | kOpen | kFile | kHuge)) == (kSharedMapping | kOpen);
  }

  constexpr Tracker tracker() const { return Tracker((word_ >> kTrackerShift) & 3); }
  constexpr void set_tracker(Tracker t) {
    word_ = (word_ & ~(uint64_t{3} << kTrackerShift)) | (uint64_t(t) << kTrackerShift);
  }

  // Whether the CPU's mapping and tracker are the same.
  constexpr bool same_memory(PageState other) const {
    constexpr uint64_t kCompared =
        kSharedMapping | kReadOnly | kFile | kHuge | kExecutable | kOpen | uint64_t{3} << kTrackerShift;
    return ((word_ ^ other.word_) & kCompared) == 0;
  }

  constexpr bool watched() const { return has(kWatched); }
  constexpr void set_watched(bool on) { put(kWatched, on); }
  constexpr bool merged() const { return has(kMerged); }
  constexpr void set_merged(bool on) { put(kMerged, on); }
  constexpr bool linked() const { return has(kLinked); }
  constexpr void set_linked(bool on) { put(kLinked, on); }
  // Has other owners, which see what is written here. Not so a private page: it has a copy of its own by
  // then.
  constexpr bool several() const { return linked() && shared_mapping(); }
  constexpr bool viewed() const { return has(kViewed); }
  constexpr void set_viewed(bool on) { put(kViewed, on); }
  constexpr bool gone() const { return has(kGone); }
  constexpr void set_gone(bool on) { put(kGone, on); }
  constexpr bool locked() const { return has(kLocked); }
  constexpr void set_locked(bool on) { put(kLocked, on); }

  // Whether one operation can treat both pages alike: everything is equal but owners and allocation limits.
  constexpr bool like(PageState other) const {
    constexpr uint64_t kIgnored = (uint64_t{0xffff} << 32) | kStart;
    return ((word_ ^ other.word_) & ~kIgnored) == 0 && managed() == other.managed();
  }

 private:
  static constexpr unsigned kTrackerShift = 52;
  static constexpr uint64_t kBit = 1, kStart = kBit << 48, kSharedMapping = kBit << 49,
                            kReadOnly = kBit << 50, kFile = kBit << 51, kWatched = kBit << 54,
                            kMerged = kBit << 55, kLocked = kBit << 56, kHuge = kBit << 57,
                            kExecutable = kBit << 58, kLinked = kBit << 59, kGone = kBit << 60,
                            kViewed = kBit << 61, kOpen = kBit << 62;
  constexpr bool has(uint64_t flag) const { return word_ & flag; }
  constexpr void put(uint64_t flag, bool on) { word_ = on ? word_ | flag : word_ & ~flag; }
  uint64_t word_ = 0;
};

} // namespace hmm
