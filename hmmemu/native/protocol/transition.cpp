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

// Whether the CPU may have written to its Shared copy without anybody noticing yet.
bool unguarded(PageState state) {
  return state.tracker() == Tracker::Async && state.hold(kCpu) == Hold::Shared;
}

// p alone, with as much right as protectors and other owners of the page leave.
PageState only(PageState state, Processor p, Access access) {
  const bool may_write = !state.watched() && (access != Access::Read || !state.several());
  state.set_holds(0);
  state.set(p, may_write ? Hold::Exclusive : Hold::Shared);
  return state;
}

// Whether a read of p leaves the others their copies.
bool duplicates(PageState state, Processor p, ProtocolPolicy policy) {
  if (state.several()) return true;
  const bool beside_cpu = p == kCpu || state.hold(kCpu) != Hold::Invalid;
  return policy.read_duplication && !(policy.all_caught && beside_cpu && state.tracker() == Tracker::Async);
}

Transition migrate(PageState state, Processor p, Access access) {
  const Processor source = holder(state);
  const bool may_write = state.hold(source) == Hold::Exclusive || (source == kCpu && unguarded(state));
  return {.step = Step::Migrate,
          .source = source,
          .protect = may_write,
          .zap = holders_but(state, kMaxProcessors), // p's own copy too, if the source's may be newer
          .next = only(state, p, access)};
}

// Whether a device that is Remote may do that.
bool is_enough(PageState state, Access access) {
  return access == Access::Alone ? state.hold(kCpu) == Hold::Invalid : access != Access::Own;
}

// A step towards an access by p that goes beyond what p may do with a page that some devices map.
Transition join_or_end(PageState state, Processor p, Access access) {
  PageState next = state;
  if (state.hold(kCpu) == Hold::Invalid) {
    next.set(kCpu, Hold::Exclusive);
    return {.step = Step::Admit, .source = state.remote(), .next = next};
  }
  const uint16_t devices = holders_but(state, kCpu);
  if (access == Access::Own) {
    next.set_holds(0);
    next.set(kCpu, Hold::Exclusive);
    return {.step = Step::Recall, .zap = devices, .next = next};
  }
  if (access == Access::Alone) {
    next.set_holds(0);
    next.set(p, Hold::Remote);
    return {.step = Step::Exclude, .zap = static_cast<uint16_t>(devices & ~(1u << p)), .next = next};
  }
  next.set(p, Hold::Remote);
  return {.step = Step::Remote, .next = next};
}

} // namespace

// Private memory's frame can be put where devices reach it, but a huge page's.
bool lendable(PageState state) {
  const MemoryKind kind = state.kind();
  return kind.shared ? kind.open : !kind.huge;
}

Transition transition(PageState state, Processor p, Access access, ProtocolPolicy policy) {
  const Hold mine = state.hold(p);
  const bool read = access == Access::Read, can_map = !read && lendable(state);
  if ((mine == Hold::Exclusive && !(access == Access::Share && can_map)) || (read && mine == Hold::Shared))
    return {.next = state};
  if (mine == Hold::Remote && is_enough(state, access)) return {.next = state};
  if (state.remote()) return join_or_end(state, p, access);
  if (!read && state.watched()) {
    PageState next = state;
    next.set_watched(false);
    return {.step = Step::Notify, .next = next};
  }
  if ((access == Access::Atomic || access == Access::Alone || access == Access::Share) && can_map) {
    PageState next = state;
    if (state.hold(kCpu) != Hold::Exclusive) return {.step = Step::Home, .next = next};
    next.set(p, Hold::Remote);
    if (access == Access::Alone) next.set(kCpu, Hold::Invalid);
    return {.step = Step::Remote, .next = next};
  }
  if (state.untouched()) return {.step = Step::FirstTouch, .next = only(state, p, access)};
  if (mine == Hold::Shared) {
    if (p != kCpu && unguarded(state)) return migrate(state, p, access);
    return {.step = Step::Upgrade, .zap = holders_but(state, p), .next = only(state, p, access)};
  }
  if (!read || !duplicates(state, p, policy)) return migrate(state, p, access);

  const Processor source = holder(state);
  PageState next = state;
  next.set(source, Hold::Shared);
  next.set(p, Hold::Shared);
  return {.step = Step::Duplicate,
          .source = source,
          .protect = state.hold(source) == Hold::Exclusive,
          .next = next};
}

Settling settling(PageState other, Access access) {
  Settling s{.next = other};
  if (other.untouched()) return s;
  s.show = other.hold(kCpu) == Hold::Invalid;
  if (s.show) s.next = transition(other, kCpu, Access::Read, {}).next;
  if (access != Access::Read) {
    s.zap = holders_but(s.next, kMaxProcessors);
    s.next.set_holds(0);
  } else if (s.next.hold(kCpu) == Hold::Exclusive) {
    s.protect = true;
    s.next.set(kCpu, Hold::Shared);
  }
  return s;
}

Transition eviction(PageState state, Processor p) {
  if (state.hold(p) == Hold::Invalid || state.remote()) return {.next = state}; // no memory of the device's
  if (holders_but(state, p) == 0) return migrate(state, kCpu, Access::Read);
  PageState next = state;
  next.set(p, Hold::Invalid);
  return {.step = Step::Drop, .zap = static_cast<uint16_t>(1u << p), .next = next};
}

const char* broken_rule(PageState state) {
  unsigned writers = 0, readers = 0, remote = 0;
  for (Processor q = 0; q < kMaxProcessors; ++q) {
    remote += state.hold(q) == Hold::Remote;
    writers += state.hold(q) == Hold::Exclusive;
    readers += state.hold(q) == Hold::Shared;
  }
  if (writers > 1) return "more than one processor may write";
  if (remote && (readers || (state.hold(kCpu) != Hold::Exclusive && (writers || remote > 1))))
    return "a device maps a frame that is not the CPU's alone";
  if (writers && readers) return "one processor may write while another holds a copy";
  if ((writers || remote) && state.watched()) return "somebody may write a page that a protector watches";
  if (state.merged() && state.hold(kCpu) != Hold::Shared)
    return "a merged page that the CPU cannot read, or may write";
  if (!state.managed() && !state.untouched()) return "a page that nobody owns is held";
  return nullptr;
}

} // namespace hmm
