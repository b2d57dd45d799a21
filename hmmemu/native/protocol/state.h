// What the driver knows of one page: for each processor, Invalid, Shared or Exclusive; and who manages it.
//
// One 64-bit word a page:
//   bits  0..31  two bits a processor: 0 Invalid, 1 Shared, 2 Exclusive; processor 0 is the CPU
//   bits 32..47  how many registered ranges cover the page (neighbours share edge pages); 0: nobody owns it
//   bit  48      first page of an allocation: a fault does not grow across it
//   bit  49      the CPU's mapping is MAP_SHARED (zapping must free the frame in the backing file)
//
// INVARIANT (single writer or many readers): at most one processor is Exclusive, and then no other is Shared.
// A page that is Invalid everywhere was never touched, or was discarded: it reads as zeros.
#pragma once
#include <cstdint>

namespace hmm {

using Processor = uint8_t;
inline constexpr Processor kCpu = 0;
inline constexpr unsigned kMaxProcessors = 16;

enum class Hold : uint8_t { Invalid = 0, Shared = 1, Exclusive = 2 };
enum class Access : uint8_t { Read = 1, Write = 2 };

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

  constexpr unsigned owners() const { return (word_ >> 32) & 0xffff; }
  constexpr bool managed() const { return owners() != 0; }
  constexpr void add_owner() { word_ += uint64_t{1} << 32; }
  constexpr void drop_owner() { word_ -= uint64_t{1} << 32; }

  constexpr bool starts_allocation() const { return word_ & kStart; }
  constexpr void set_start(bool on) { word_ = on ? word_ | kStart : word_ & ~kStart; }
  constexpr bool shared_mapping() const { return word_ & kSharedMapping; }
  constexpr void set_shared_mapping(bool on) {
    word_ = on ? word_ | kSharedMapping : word_ & ~kSharedMapping;
  }

 private:
  static constexpr uint64_t kStart = uint64_t{1} << 48, kSharedMapping = uint64_t{1} << 49;
  uint64_t word_ = 0;
};

} // namespace hmm
