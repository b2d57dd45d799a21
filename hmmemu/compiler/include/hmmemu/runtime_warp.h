// Warp operations: the lane that arrives last does the work of the whole warp.
//
// An operation's group is the set of its mask's lanes that have not ended. Each lane leaves its value and
// waits; the lane that completes the group computes every lane's result and lets all go. A result is written
// to the lane's own place, which nothing overwrites before that lane's next operation: no double buffer, no
// second barrier. Groups with disjoint masks of one warp do not disturb one another.
#pragma once

enum hmm_warp_kind {
  HMM_OP_SYNC,
  HMM_OP_SHUFFLE,
  HMM_OP_BALLOT,
  HMM_OP_MATCH,
  HMM_OP_ADD,
  HMM_OP_MIN,
  HMM_OP_MAX,
  HMM_OP_MIN_SIGNED,
  HMM_OP_MAX_SIGNED,
  HMM_OP_AND,
  HMM_OP_OR,
  HMM_OP_XOR
};

static inline uint32_t hmm_fold(unsigned kind, uint32_t a, uint32_t b) {
  switch (kind) {
  case HMM_OP_ADD:
    return a + b;
  case HMM_OP_MIN:
    return a < b ? a : b;
  case HMM_OP_MAX:
    return a > b ? a : b;
  case HMM_OP_MIN_SIGNED:
    return int32_t(a) < int32_t(b) ? a : b;
  case HMM_OP_MAX_SIGNED:
    return int32_t(a) > int32_t(b) ? a : b;
  case HMM_OP_AND:
    return a & b;
  case HMM_OP_OR:
    return a | b;
  default:
    return a ^ b;
  }
}

// Only the group's lanes: others may not have read the result of an earlier operation yet.
HMM_INLINE void hmm_deliver(hmm_warps& w, unsigned first, uint32_t group, unsigned lane, uint64_t result) {
  w.result[first + lane] = (group >> lane & 1) ? result : w.result[first + lane];
}

static void hmm_warp_shuffle(hmm_warps& w, unsigned first, uint32_t group) {
  for (unsigned lane = 0; lane < HMM_WARP; ++lane) {
    unsigned from = w.argument[first + lane] & 31; // a lane that takes no part has no value: keep one's own
    hmm_deliver(w, first, group, lane, w.value[first + ((group >> from & 1) ? from : lane)]);
  }
}

// Every lane gets the predicates in the low half and the group in the high half.
static void hmm_warp_ballot(hmm_warps& w, unsigned first, uint32_t group) {
  uint32_t bits = 0;
  for (unsigned lane = 0; lane < HMM_WARP; ++lane) bits |= uint32_t(w.value[first + lane] != 0) << lane;
  uint64_t result = uint64_t(group) << 32 | (bits & group);
  for (unsigned lane = 0; lane < HMM_WARP; ++lane) hmm_deliver(w, first, group, lane, result);
}

static void hmm_warp_match(hmm_warps& w, unsigned first, uint32_t group) {
  for (unsigned lane = 0; lane < HMM_WARP; ++lane) {
    uint32_t same = 0;
    for (unsigned other = 0; other < HMM_WARP; ++other)
      same |= uint32_t(w.value[first + other] == w.value[first + lane]) << other;
    hmm_deliver(w, first, group, lane, uint64_t(group) << 32 | (same & group));
  }
}

static void hmm_warp_fold(hmm_warps& w, unsigned first, uint32_t group, unsigned kind) {
  uint32_t result = 0;
  bool begun = false;
  for (uint32_t rest = group; rest; rest &= rest - 1) {
    uint32_t value = uint32_t(w.value[first + unsigned(__builtin_ctz(rest))]);
    result = begun ? hmm_fold(kind, result, value) : value;
    begun = true;
  }
  for (unsigned lane = 0; lane < HMM_WARP; ++lane) hmm_deliver(w, first, group, lane, result);
}

// Completes the operation of `mask` if all its lanes that have not ended are there and make the same call.
static __attribute__((noinline)) void hmm_warp_try(hmm_runtime* rt, unsigned warp, uint32_t mask,
                                                   unsigned kind) {
  hmm_warps& w = rt->warps;
  unsigned first = warp * HMM_WARP;
  uint32_t group = mask & w.present[warp], agree = 0;
  for (unsigned lane = 0; lane < HMM_WARP; ++lane)
    agree |= uint32_t(w.mask[first + lane] == mask && w.kind[first + lane] == kind) << lane;
  if ((agree & w.arrived[warp] & group) != group) return;
  switch (kind) {
  case HMM_OP_SYNC:
    break;
  case HMM_OP_SHUFFLE:
    hmm_warp_shuffle(w, first, group);
    break;
  case HMM_OP_BALLOT:
    hmm_warp_ballot(w, first, group);
    break;
  case HMM_OP_MATCH:
    hmm_warp_match(w, first, group);
    break;
  default:
    hmm_warp_fold(w, first, group, kind);
  }
  w.arrived[warp] &= ~group;
  for (unsigned lane = 0; lane < HMM_WARP; ++lane) w.waiting[first + lane] &= (group >> lane & 1) - 1;
  ++rt->progress;
}

// A lane has ended: operations that waited for it may be complete now.
static void hmm_warp_recheck(hmm_runtime* rt, unsigned warp) {
  for (unsigned lane = 0; lane < HMM_WARP; ++lane) {
    unsigned t = warp * HMM_WARP + lane;
    if (rt->warps.arrived[warp] >> lane & 1) hmm_warp_try(rt, warp, rt->warps.mask[t], rt->warps.kind[t]);
  }
}

static inline void hmm_switch_slow(hmm_runtime* rt, void**& me);

HMM_INLINE uint64_t hmm_ctx::warp_op(unsigned kind, unsigned mask, uint64_t value, unsigned argument) const {
  void** m = me;
  hmm_runtime* r = hmm_runtime_of(m);
  hmm_warps& w = r->warps;
  unsigned t = unsigned(m - r->slot), warp = t / HMM_WARP, bit = 1u << t % HMM_WARP;
  mask |= bit; // a caller outside its own mask is undefined in CUDA; here it takes part
  w.value[t] = value, w.argument[t] = argument, w.mask[t] = mask, w.kind[t] = kind, w.waiting[t] = 1;
  w.arrived[warp] |= bit;
  ++r->progress;
  uint32_t group = mask & w.present[warp];
  if ((w.arrived[warp] & group) == group) hmm_warp_try(r, warp, mask, kind);
  while (hmm_runtime_of(m)->warps.waiting[t]) hmm_switch_slow(hmm_runtime_of(m), m);
  me = m;
  return hmm_runtime_of(m)->warps.result[t];
}

// CUDA promises no convergence, but programs expect lanes that run together to see one another. Lanes that
// reach this call within one trip round the ring do; the first to run again closes the group.
HMM_INLINE unsigned hmm_ctx::activemask(unsigned site) const {
  hmm_warps& w = rt->warps;
  unsigned t = unsigned(me - rt->slot), warp = t / HMM_WARP, first = warp * HMM_WARP;
  w.argument[t] = site, w.waiting[t] = 1;
  w.asking[warp] |= 1u << t % HMM_WARP;
  ++rt->progress;
  void** m = me;
  hmm_switch_slow(rt, m);
  me = m;
  if (!w.waiting[t]) return unsigned(w.result[t]);
  uint32_t group = 0;
  for (unsigned lane = 0; lane < HMM_WARP; ++lane)
    group |= uint32_t((w.asking[warp] >> lane & 1) && w.argument[first + lane] == site) << lane;
  for (unsigned lane = 0; lane < HMM_WARP; ++lane)
    if (group >> lane & 1) w.result[first + lane] = group, w.waiting[first + lane] = 0;
  w.asking[warp] &= ~group;
  ++rt->progress;
  return group;
}

// Values travel as 64 bits.
template <class T> HMM_INLINE uint64_t hmm_to_bits(const T& value) {
  static_assert(sizeof(T) <= 8, "warp operations take values of at most 8 bytes");
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <class T> HMM_INLINE T hmm_from_bits(uint64_t bits) {
  T value;
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}

HMM_INLINE void hmm_ctx::syncwarp(unsigned mask) const { warp_op(HMM_OP_SYNC, mask, 0, 0); }
HMM_INLINE unsigned hmm_ctx::ballot(unsigned mask, int p) const {
  return unsigned(warp_op(HMM_OP_BALLOT, mask, p != 0, 0));
}
HMM_INLINE int hmm_ctx::any(unsigned mask, int p) const { return ballot(mask, p) != 0; }
HMM_INLINE int hmm_ctx::all(unsigned mask, int p) const {
  uint64_t r = warp_op(HMM_OP_BALLOT, mask, p != 0, 0);
  return unsigned(r) == unsigned(r >> 32);
}

// Source lanes as the PTX manual gives them for shfl.sync: a segment of `width` lanes; out of it, one's own
// value.
template <class T> HMM_INLINE T hmm_ctx::shfl(unsigned mask, T value, int lane, int width) const {
  unsigned me_ = unsigned(me - rt->slot) % HMM_WARP, segment = me_ & ~unsigned(width - 1);
  return hmm_from_bits<T>(
      warp_op(HMM_OP_SHUFFLE, mask, hmm_to_bits(value), segment | (unsigned(lane) & unsigned(width - 1))));
}
template <class T> HMM_INLINE T hmm_ctx::shfl_up(unsigned mask, T value, unsigned delta, int width) const {
  unsigned me_ = unsigned(me - rt->slot) % HMM_WARP, inside = me_ & unsigned(width - 1);
  return hmm_from_bits<T>(
      warp_op(HMM_OP_SHUFFLE, mask, hmm_to_bits(value), delta <= inside ? me_ - delta : me_));
}
template <class T> HMM_INLINE T hmm_ctx::shfl_down(unsigned mask, T value, unsigned delta, int width) const {
  unsigned me_ = unsigned(me - rt->slot) % HMM_WARP, inside = me_ & unsigned(width - 1);
  bool in = delta < unsigned(width) - inside;
  return hmm_from_bits<T>(warp_op(HMM_OP_SHUFFLE, mask, hmm_to_bits(value), in ? me_ + delta : me_));
}
template <class T> HMM_INLINE T hmm_ctx::shfl_xor(unsigned mask, T value, int lanes, int width) const {
  unsigned me_ = unsigned(me - rt->slot) % HMM_WARP, from = me_ ^ unsigned(lanes);
  bool in =
      from <= (me_ | unsigned(width - 1)) && from < HMM_WARP; // lower segments can be read, higher ones not
  return hmm_from_bits<T>(warp_op(HMM_OP_SHUFFLE, mask, hmm_to_bits(value), in ? from : me_));
}

template <class T> HMM_INLINE unsigned hmm_ctx::match_any(unsigned mask, T value) const {
  return unsigned(warp_op(HMM_OP_MATCH, mask, hmm_to_bits(value), 0));
}
template <class T> HMM_INLINE unsigned hmm_ctx::match_all(unsigned mask, T value, int* predicate) const {
  uint64_t r = warp_op(HMM_OP_MATCH, mask, hmm_to_bits(value), 0);
  *predicate = unsigned(r) == unsigned(r >> 32);
  return *predicate ? unsigned(r) : 0;
}
// `kind` is HMM_OP_MIN or HMM_OP_MAX for both signs; the type decides.
template <class T> HMM_INLINE T hmm_ctx::reduce(unsigned kind, unsigned mask, T value) const {
  static_assert(sizeof(T) == 4, "__reduce_*_sync takes int or unsigned");
  if (T(-1) < T(0) && kind == HMM_OP_MIN) kind = HMM_OP_MIN_SIGNED;
  if (T(-1) < T(0) && kind == HMM_OP_MAX) kind = HMM_OP_MAX_SIGNED;
  return T(uint32_t(warp_op(kind, mask, uint32_t(value), 0)));
}
