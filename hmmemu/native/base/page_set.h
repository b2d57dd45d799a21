// Some of the pages of a block, one bit each.
#pragma once
#include "base/pages.h"
#include <algorithm>
#include <array>
#include <bit>

namespace hmm {

class PageSet {
 public:
  static constexpr unsigned kWords = kPagesPerBlock / 64;

  bool operator[](unsigned page) const { return words_[page / 64] >> (page % 64) & 1; }
  void set(unsigned page) { words_[page / 64] |= uint64_t{1} << (page % 64); }
  uint64_t& word(unsigned index) { return words_[index]; }
  uint64_t word(unsigned index) const { return words_[index]; }

  bool empty() const {
    return std::all_of(words_.begin(), words_.end(), [](uint64_t word) { return word == 0; });
  }
  unsigned count() const {
    unsigned count = 0;
    for (uint64_t word : words_) count += static_cast<unsigned>(std::popcount(word));
    return count;
  }

  // Of the pages [begin, end).
  unsigned count(unsigned begin, unsigned end) const {
    unsigned count = 0;
    each_word(begin, end, [&](unsigned index, uint64_t mask) {
      count += static_cast<unsigned>(std::popcount(words_[index] & mask));
    });
    return count;
  }
  // The first page from `page` on that is in the set, or that is not; kPagesPerBlock if there is none.
  unsigned next(unsigned page, bool in) const {
    while (page < kPagesPerBlock) {
      const uint64_t rest = (in ? words_[page / 64] : ~words_[page / 64]) >> (page % 64);
      if (rest) return page + static_cast<unsigned>(std::countr_zero(rest));
      page = (page / 64 + 1) * 64;
    }
    return kPagesPerBlock;
  }
  // The last page in the set that is not after `page`; kPagesPerBlock if there is none.
  unsigned last(unsigned page) const {
    uint64_t mask = ~uint64_t{0} >> (63 - page % 64);
    for (unsigned index = page / 64 + 1; index-- > 0; mask = ~uint64_t{0})
      if (const uint64_t rest = words_[index] & mask)
        return index * 64 + 63 - static_cast<unsigned>(std::countl_zero(rest));
    return kPagesPerBlock;
  }

  // Calls act(index of a word, mask) for the words in which the pages [begin, end) have a bit.
  template <class Act> static void each_word(unsigned begin, unsigned end, Act act) {
    while (begin < end) {
      const unsigned count = std::min(64 - begin % 64, end - begin);
      act(begin / 64, (~uint64_t{0} >> (64 - count)) << (begin % 64));
      begin += count;
    }
  }

  // Calls act(begin, end) for each run of pages that are in the set, in order.
  template <class Act> void each_run(Act act) const {
    for (unsigned begin = next(0, true); begin < kPagesPerBlock;) {
      const unsigned end = next(begin, false);
      act(begin, end);
      begin = next(end, true);
    }
  }

 private:
  std::array<uint64_t, kWords> words_{};
};

} // namespace hmm
