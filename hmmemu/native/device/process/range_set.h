// Ranges of addresses that do not touch each other. No lock of its own.
#pragma once
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>

namespace hmmemu::device {

class RangeSet {
 public:
  void add(uint64_t begin, uint64_t end) {
    auto at = ranges_.upper_bound(begin);
    if (at != ranges_.begin() && std::prev(at)->second >= begin) --at;
    while (at != ranges_.end() && at->first <= end) {
      begin = std::min(begin, at->first), end = std::max(end, at->second);
      at = ranges_.erase(at);
    }
    ranges_.emplace(begin, end);
  }

  void remove(uint64_t begin, uint64_t end) {
    auto at = ranges_.upper_bound(begin);
    if (at != ranges_.begin()) --at;
    while (at != ranges_.end() && at->first < end) {
      const auto [from, to] = *at;
      if (to <= begin) {
        ++at;
        continue;
      }
      at = ranges_.erase(at);
      if (from < begin) ranges_.emplace(from, begin);
      if (to > end) at = std::next(ranges_.emplace(end, to).first);
    }
  }

  // Calls act(begin, end) -> 0 or an errno for the parts of [begin, end) that are in the set, in order.
  template <class Act> int each(uint64_t begin, uint64_t end, Act act) const {
    auto at = ranges_.upper_bound(begin);
    if (at != ranges_.begin()) --at;
    for (; at != ranges_.end() && at->first < end; ++at) {
      const uint64_t from = std::max(begin, at->first), to = std::min(end, at->second);
      if (from >= to) continue;
      if (const int error = act(from, to)) return error;
    }
    return 0;
  }

  bool covers(uint64_t begin, uint64_t end) const {
    uint64_t bytes = 0;
    each(begin, end, [&](uint64_t a, uint64_t b) {
      bytes += b - a;
      return 0;
    });
    return bytes == end - begin;
  }

 private:
  std::map<uint64_t, uint64_t> ranges_; // begin -> end
};

} // namespace hmmemu::device
