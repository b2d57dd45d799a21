// Purpose: which pages of a launch must cross, and which of those that it may have written. `one_sender`
// guards the sending; `views` is the agent's.
#include "content.h"

#include "comparison.h"
#include "crossing.h"
#include "host_content.h"
#include "page_bits.h"
#include "residency.h"

#include <algorithm>
#include <mutex>
#include <unistd.h>
#include <vector>

namespace hmmemu::cuda {
namespace {

using device::channel;
using device::kPage;
using device::Slot;

struct Range {
  uint64_t begin, end;
};
struct View {
  Range pages;
  bool writes;
};

std::mutex one_sender;
std::atomic<unsigned> senders{0};
std::vector<View> views;

// Whole pages.
Range around(uint64_t begin, uint64_t end) {
  return {begin / kPage * kPage, (end + kPage - 1) / kPage * kPage};
}

// The launch's memory in whole pages, no page twice.
std::vector<Range> pages_of(const Slot& slot, bool written_only) {
  std::vector<Range> all, merged;
  device::each_reach(*channel, slot, [&](const device::Reach& reach) {
    if (reach.use != device::kReachReads || !written_only) all.push_back(around(reach.begin, reach.end));
    return true;
  });
  std::sort(all.begin(), all.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  for (const Range& range : all)
    if (merged.empty() || range.begin > merged.back().end)
      merged.push_back(range);
    else
      merged.back().end = std::max(merged.back().end, range.end);
  return merged;
}

void add_bits(const Range& range, uint8_t which) {
  for (uint64_t page = range.begin; page < range.end; page += kPage)
    if ((bits(page).load() & which) != which) bits(page).fetch_or(which);
}
void drop_bits(const Range& range, uint8_t which) {
  for (uint64_t page = range.begin; page < range.end; page += kPage) bits(page).fetch_and(uint8_t(~which));
}

void send_coming(const std::vector<Range>& ranges) {
  Crossing crossing(gpu(), Crossing::Way::ToGpu);
  std::vector<Range> sent;
  const auto coming = [](uint8_t page) { return (page & (kComing | kZeros)) == kComing; };
  const auto zeros = [](uint8_t page) { return page & kZeros; };
  for (const Range& range : ranges) {
    if (first_unlike(range.begin, range.end, kComing, 0) == range.end) continue;
    each_run(range.begin, range.end, coming, [&](uint64_t begin, uint64_t end) {
      crossing.add(begin, end);
      sent.push_back({begin, end});
    });
    each_run(range.begin, range.end, zeros, [&](uint64_t begin, uint64_t end) {
      host_content().is_zeros(begin, end) ? crossing.fill_zeros(begin, end) : crossing.add(begin, end);
      sent.push_back({begin, end});
    });
  }
  crossing.finish();
  for (const Range& range : sent) drop_bits(range, kComing | kZeros);
}

// Of pages that the file has, too, and of which there is no copy yet.
void take_snapshots(const Range& range) {
  Snapshots snapshots(gpu());
  std::vector<Range> taken;
  const auto wanted = [](uint8_t page) { return !(page & (kAhead | kViewed | kShadowed)); };
  for (uint64_t at = range.begin; at < range.end; at = at / kGranule * kGranule + kGranule)
    each_run(at, std::min(range.end, at / kGranule * kGranule + kGranule), wanted,
             [&](uint64_t begin, uint64_t end) {
               if (end - begin >= kWorthComparing && snapshots.add(begin, end)) taken.push_back({begin, end});
             });
  if (!snapshots.finish()) return;
  for (const Range& done : taken) add_bits(done, kShadowed);
}

// Pages that were not written are as the file has them after all.
void find_unchanged(uint64_t begin, uint64_t end) {
  constexpr uint8_t kBoth = kAhead | kShadowed;
  const auto comparable = [](uint64_t page) { return (bits(page).load() & (kBoth | kViewed)) == kBoth; };
  uint64_t count = 0, first = end, last = begin;
  for (uint64_t page = begin; page < end; page += kPage)
    if (comparable(page)) {
      count++;
      first = std::min(first, page);
      last = page + kPage;
    }
  if (count * kPage < kWorthComparing) return;
  begin = first, end = last; // said once: shadows may be lost at any time until one is held
  std::bitset<kPagesPerGranule> changed;
  if (!find_changed(gpu(), begin, end, changed)) return;
  uint64_t same = 0;
  for (uint64_t page = begin; page < end; page += kPage)
    if (comparable(page) && !changed[(page - begin) / kPage]) {
      bits(page).fetch_and(uint8_t(~kAhead));
      same++;
    }
  channel->crossings.compared_pages.fetch_add(count, std::memory_order_relaxed);
  channel->crossings.unchanged_pages.fetch_add(same, std::memory_order_relaxed);
}

} // namespace

Sending::Sending() { senders.fetch_add(1); }
Sending::~Sending() { senders.fetch_sub(1); }
void wait_until_sent() {
  while (senders.load() != 0) usleep(20);
}

void open_view(uint64_t first, uint64_t last, bool writes) {
  const auto [begin, end] = around(first, last);
  const std::lock_guard hold(one_sender);
  send_coming({{begin, end}});
  if (writes) add_bits({begin, end}, kViewed);
  views.push_back({{begin, end}, writes});
}

// What a view wrote stays newer on the GPU. Where two are alike, the one that only reads is closed first.
void close_view(uint64_t first, uint64_t last) {
  const Range range = around(first, last);
  const uint64_t begin = range.begin, end = range.end;
  const auto same = [&](const View& view) { return view.pages.begin == begin && view.pages.end == end; };
  auto closed = std::find_if(views.begin(), views.end(), [&](const View& v) { return same(v) && !v.writes; });
  if (closed == views.end()) closed = std::find_if(views.begin(), views.end(), same);
  if (closed == views.end()) return;
  const bool wrote = closed->writes;
  views.erase(closed);
  if (!wrote) return;
  for (uint64_t page = begin; page < end; page += kPage) {
    uint8_t now = bits(page).load();
    while (now & kViewed && !bits(page).compare_exchange_weak(now, uint8_t((now | kAhead) & ~kViewed))) {}
  }
  for (const View& other : views)
    if (other.writes) { // may lie over it
      const Range both{std::max(begin, other.pages.begin), std::min(end, other.pages.end)};
      for (uint64_t page = both.begin; page < both.end; page += kPage)
        if (right(page) == kWrite) bits(page).fetch_or(kViewed);
    }
}

void send_content(const Slot& slot) {
  const std::lock_guard hold(one_sender);
  send_coming(pages_of(slot, false));
  for (const Range& range : pages_of(slot, true))
    for (uint64_t at = range.begin, to; at < range.end; at = to) {
      to = std::min(range.end, at / kGranule * kGranule + kGranule);
      if (!uses_own_memory(at)) continue; // the file is what the kernel uses
      if (first_unlike(at, to, kAhead, kAhead) == to) continue;
      take_snapshots({at, to});
      add_bits({at, to}, kAhead);
    }
}

void bring_home(uint64_t begin, uint64_t end) {
  find_unchanged(begin, end);
  Crossing crossing(gpu(), Crossing::Way::Home);
  std::vector<Range> brought;
  const auto ahead = [](uint8_t page) { return page & (kAhead | kViewed); };
  each_run(begin, end, ahead, [&](uint64_t from, uint64_t to) {
    crossing.add(from, to);
    brought.push_back({from, to});
  });
  crossing.finish();
  for (const Range& range : brought) drop_bits(range, kAhead | kShadowed);
}

} // namespace hmmemu::cuda
