#include "protocol/transition.h"

namespace hmm {
namespace {

// The processor to copy from: the writer, or else the first reader (the CPU before devices).
Processor holder(PageState state) {
  for (Processor q = 0; q < kMaxProcessors; ++q)
    if (state.hold(q) != Hold::Invalid) return q;
  return kCpu;
}

uint16_t holders_but(PageState state, Processor p) {
  uint16_t mask = 0;
  for (Processor q = 0; q < kMaxProcessors; ++q)
    if (q != p && state.hold(q) != Hold::Invalid) mask |= 1u << q;
  return mask;
}

PageState only(PageState state, Processor p) {
  state.set_holds(0);
  state.set(p, Hold::Exclusive);
  return state;
}

} // namespace

Transition transition(PageState state, Processor p, Access access, ProtocolPolicy policy) {
  const Hold mine = state.hold(p);
  const bool read = access == Access::Read;
  if (mine == Hold::Exclusive || (read && mine == Hold::Shared)) return {.next = state};
  if (state.untouched()) return {.step = Step::FirstTouch, .next = only(state, p)};
  if (mine == Hold::Shared)
    return {.step = Step::Upgrade, .zap = holders_but(state, p), .next = only(state, p)};

  const Processor source = holder(state);
  const bool writer = state.hold(source) == Hold::Exclusive;
  if (read && policy.read_duplication) {
    PageState next = state;
    next.set(source, Hold::Shared);
    next.set(p, Hold::Shared);
    return {.step = Step::Duplicate, .source = source, .protect = writer, .next = next};
  }
  return {.step = Step::Migrate,
          .source = source,
          .protect = writer,
          .zap = holders_but(state, p),
          .next = only(state, p)};
}

const char* broken_rule(PageState state) {
  unsigned writers = 0, readers = 0;
  for (Processor q = 0; q < kMaxProcessors; ++q) {
    if (static_cast<unsigned>(state.hold(q)) == 3) return "a hold is none of Invalid, Shared, Exclusive";
    writers += state.hold(q) == Hold::Exclusive;
    readers += state.hold(q) == Hold::Shared;
  }
  if (writers > 1) return "more than one processor may write";
  if (writers && readers) return "one processor may write while another holds a copy";
  if (!state.managed() && (writers || readers)) return "a page that nobody owns is held";
  return nullptr;
}

} // namespace hmm
