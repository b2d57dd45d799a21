#include "driver/growth.h"

#include <algorithm>

namespace hmm {
namespace {

constexpr unsigned kChunkPages = kChunk / kPage;

// Pages of a block by number, [begin, end).
struct Numbers {
  unsigned begin, end;
  unsigned count() const { return end - begin; }
};

Numbers clip(Numbers a, Numbers b) { return {std::max(a.begin, b.begin), std::min(a.end, b.end)}; }

Numbers aligned_around(unsigned page, unsigned size) {
  const unsigned begin = page & ~(size - 1);
  return {begin, begin + size};
}

// What the rule asks of all pages, gathered in one pass: a block is looked at in every fault.
struct View {
  PageSet held;     // the pages count
  PageSet barriers; // nothing grows over these: in transition, viewed, of nobody
  PageSet starts;   // nor from before one of these to it
};

// has(state) -> bool, without branches.
template <class Has> View look(const Block& block, Has has) {
  View view;
  for (unsigned word = 0; word < PageSet::kWords; ++word) {
    uint64_t held = 0, barriers = 0, starts = 0;
    for (unsigned i = 0; i < 64; ++i) {
      const PageState state = block.pages[word * 64 + i];
      const bool barrier = int(!state.managed()) | int(state.locked()) | int(state.viewed());
      held |= uint64_t{has(state)} << i;
      barriers |= uint64_t{barrier} << i;
      starts |= uint64_t{state.starts_allocation()} << i;
    }
    view.held.word(word) = held, view.barriers.word(word) = barriers, view.starts.word(word) = starts;
  }
  return view;
}

View look(const Block& block, Processor p, bool upgrade) {
  if (!upgrade) return look(block, [=](PageState state) { return state.hold(p) != Hold::Invalid; });
  return look(block, [=](PageState state) {
    const int alone = int(state.hold(p) == Hold::Remote) & int(state.hold(kCpu) == Hold::Invalid);
    return bool(int(state.hold(p) == Hold::Exclusive) | alone);
  });
}

// The pages that belong to the same allocation as this one, as far as none is in transition or viewed.
Numbers within_allocation(const View& view, unsigned page) {
  Numbers result{view.starts.last(page), view.starts.next(page + 1, true)};
  if (result.begin == kPagesPerBlock) result.begin = 0;
  if (page > 0)
    if (const unsigned barrier = view.barriers.last(page - 1); barrier != kPagesPerBlock)
      result.begin = std::max(result.begin, barrier + 1);
  result.end = std::min(result.end, view.barriers.next(page + 1, true));
  return result;
}

// Whether the fault takes others' right to the page, and no content.
bool is_upgrade(PageState state, Processor p) {
  return p == kCpu ? state.hold(p) == Hold::Shared || state.remote() : state.hold(p) == Hold::Remote;
}

} // namespace

Pages grow(Block& block, uint64_t address, Processor p, GrowthPolicy policy) {
  if (!policy.grow) return {address, address + kPage};
  const unsigned page = static_cast<unsigned>((address - block.address) / kPage);
  const bool upgrade = is_upgrade(block.pages[page], p);
  const View view = look(block, p, upgrade);
  const Numbers limits = within_allocation(view, page);
  const bool goes_on = page > limits.begin && view.held[page - 1];
  const unsigned leaf = std::max(!upgrade || goes_on ? kChunkPages : 1, policy.first_pages);
  Numbers region = clip(aligned_around(page, leaf), limits);
  for (unsigned size = 2 * leaf; size <= kPagesPerBlock; size *= 2) {
    const Numbers subtree = clip(aligned_around(page, size), limits);
    const unsigned resident = region.count() + view.held.count(subtree.begin, region.begin) +
                              view.held.count(region.end, subtree.end);
    // Larger subtrees are tried even when this one is too empty: the largest that qualifies wins.
    if (resident * 100 > subtree.count() * policy.threshold) region = subtree;
  }
  return block.range(region.begin, region.end);
}

} // namespace hmm
