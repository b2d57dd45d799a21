#include "driver/growth.h"

#include <algorithm>

namespace hmm {
namespace {

bool free_to_move(PageState state) { return state.managed() && !state.locked() && !state.viewed(); }

// The pages of `window` that belong to the same allocation as the one at `address`, as far as none is in
// transition or viewed.
Pages within_allocation(Block& block, uint64_t address, Pages window) {
  Pages result{address, address + kPage};
  while (result.begin > window.begin && !block.page(result.begin).starts_allocation() &&
         free_to_move(block.page(result.begin - kPage)))
    result.begin -= kPage;
  while (result.end < window.end && free_to_move(block.page(result.end)) &&
         !block.page(result.end).starts_allocation())
    result.end += kPage;
  return result;
}

Pages clip(Pages a, Pages b) { return {std::max(a.begin, b.begin), std::min(a.end, b.end)}; }

Pages aligned_around(uint64_t address, uint64_t size) {
  uint64_t begin = address & ~(size - 1);
  return {begin, begin + size};
}

} // namespace

Pages grow(Block& block, uint64_t address, Processor p, GrowthPolicy policy) {
  if (!policy.grow) return {address, address + kPage};
  const PageState faulted = block.page(address);
  const bool upgrade =
      p == kCpu ? faulted.hold(p) == Hold::Shared || faulted.remote() : faulted.hold(p) == Hold::Remote;
  const auto has = [&](PageState state) {
    if (!upgrade) return state.hold(p) != Hold::Invalid;
    const bool alone = state.hold(p) == Hold::Remote && state.hold(kCpu) == Hold::Invalid;
    return state.hold(p) == Hold::Exclusive || alone;
  };
  const Pages limits = within_allocation(block, address, {block.address, block.address + kBlock});
  const bool goes_on = address > limits.begin && has(block.page(address - kPage));
  const uint64_t leaf = upgrade && !goes_on ? kPage : kChunk;
  Pages region = clip(aligned_around(address, leaf), limits);
  for (uint64_t size = 2 * leaf; size <= kBlock; size *= 2) {
    const Pages subtree = clip(aligned_around(address, size), limits);
    uint64_t resident = 0;
    for (uint64_t a = subtree.begin; a < subtree.end; a += kPage)
      resident += (a >= region.begin && a < region.end) || has(block.page(a));
    // Larger subtrees are tried even when this one is too empty: the largest that qualifies wins.
    if (resident * 100 > subtree.count() * policy.threshold) region = subtree;
  }
  return region;
}

} // namespace hmm
