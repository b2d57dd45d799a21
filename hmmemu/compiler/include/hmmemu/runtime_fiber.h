// Ring fibers: the threads of a block as fibers of one worker, each switching to the next one in the block.
//
// Fiber i's stack pointer is slot[i]; the worker's own is slot[threads]. A switch saves at `me`, takes the
// next slot and jumps, so one trip round the ring runs every fiber up to its next wait and ends in the
// worker, which starts the next trip. With __syncthreads as the only kind of wait, a trip is a barrier, and
// nothing is counted: at its end every fiber that has not ended stands at a barrier. Kernels with warp
// operations, or that spin, count arrivals instead (`slow`); for those a trip without progress is a deadlock.
// Fibers last: after a kernel's end they stay parked, and are used again for the next block and launch.
#pragma once
#if defined(__x86_64__) && !defined(HMM_PORTABLE_FIBERS)
#include "hmmemu/runtime_switch_x86.h"
#else
#include "hmmemu/runtime_switch_portable.h"
#endif

HMM_INLINE void hmm_set_thread(hmm_runtime* rt, void** me) {
  hmm_store(rt->worker->thread, rt->thread_of[me - rt->slot]);
  rt->worker->thread_known = 1;
}

// A switch of kernels that are `slow`.
HMM_INLINE void hmm_switch_slow(hmm_runtime* rt, void**& me) {
  hmm_switch(me);
  if (rt->precise) hmm_set_thread(rt, me);
}

static __attribute__((noinline)) void hmm_barrier_counted(void** me) {
  hmm_runtime* rt = hmm_runtime_of(me);
  unsigned phase = rt->phase;
  ++rt->arrived, ++rt->progress;
  do hmm_switch_slow(rt, me);
  while (rt->phase == phase);
}

HMM_INLINE void hmm_ctx::sync() const {
  void** m = me;
  if (HMM_LIKELY(!hmm_runtime_of(m)->slow))
    hmm_switch(m);
  else
    hmm_barrier_counted(m);
  me = m;
}

HMM_INLINE void hmm_vote(void** me, int predicate) {
  hmm_runtime* rt = hmm_runtime_of(me);
  ++rt->voters, rt->votes += predicate != 0;
}

HMM_INLINE int hmm_ctx::sync_count(int predicate) const {
  hmm_vote(me, predicate);
  sync();
  return int(hmm_runtime_of(me)->last_votes);
}
HMM_INLINE int hmm_ctx::sync_and(int predicate) const {
  hmm_vote(me, predicate);
  sync();
  return hmm_runtime_of(me)->last_votes == hmm_runtime_of(me)->last_voters;
}
HMM_INLINE int hmm_ctx::sync_or(int predicate) const { return sync_count(predicate) != 0; }

// Called in loops that wait for another thread: lets the block's other threads run, and now and then other
// workers.
HMM_INLINE void hmm_ctx::spin() const {
  ++rt->spins;
  if ((++rt->waits & 255) == 0) worker->services->wait(worker);
  if (!me) return;
  void** m = me;
  hmm_switch_slow(rt, m);
  me = m;
}

static void hmm_fiber_end(hmm_runtime* rt, void** me) {
  unsigned i = unsigned(me - rt->slot), warp = i / HMM_WARP;
  --rt->live, ++rt->progress;
  if (!rt->slow) return;
  rt->warps.present[warp] &= ~(1u << i % HMM_WARP);
  if (rt->warps.arrived[warp]) hmm_warp_recheck(rt, warp);
}

// The life of a fiber: its share of each block, then round the ring until the next block.
extern "C" __attribute__((used, noinline, visibility("hidden"))) void hmm_fiber_main(hmm_runtime* rt,
                                                                                     void** me) {
  for (;;) {
    unsigned epoch = rt->epoch;
    if (rt->precise) hmm_set_thread(rt, me);
    rt->entry(rt, me);
    hmm_fiber_end(rt, me);
    do hmm_switch(me);
    while (rt->epoch == epoch);
  }
}

// Why nobody moves, in the user's words. Bounded text; no allocation.
static __attribute__((noinline)) void hmm_tell_deadlock(hmm_runtime* rt) {
  unsigned in_warp = 0, asked = 0;
  for (unsigned warp = 0; warp < HMM_WARPS; ++warp) {
    in_warp += unsigned(__builtin_popcount(rt->warps.arrived[warp]));
    if (rt->warps.arrived[warp]) asked = warp;
  }
  char text[512];
  unsigned lane = in_warp ? unsigned(__builtin_ctz(rt->warps.arrived[asked])) : 0,
           t = asked * HMM_WARP + lane;
  uint3 at = rt->thread_of[t], b = rt->block;
  if (rt->arrived && in_warp)
    __builtin_snprintf(
        text, sizeof text,
        "deadlock in block (%u, %u, %u): %u threads wait in __syncthreads for %u threads that wait in a "
        "warp operation; thread (%u, %u, %u) waits there for the lanes of mask 0x%08x, of which 0x%08x "
        "came. Every thread of a block must reach the barrier, and every lane named in a mask must "
        "make the same call",
        b.x, b.y, b.z, rt->arrived, in_warp, at.x, at.y, at.z, rt->warps.mask[t],
        rt->warps.arrived[asked] & rt->warps.mask[t]);
  else
    __builtin_snprintf(
        text, sizeof text,
        "deadlock in block (%u, %u, %u): thread (%u, %u, %u) waits in a warp operation for the lanes of "
        "mask 0x%08x, of which 0x%08x came and make the same call. Every lane named in a mask must call "
        "the operation with that mask",
        b.x, b.y, b.z, at.x, at.y, at.z, rt->warps.mask[t], rt->warps.arrived[asked] & rt->warps.mask[t]);
  rt->worker->services->fail(rt->worker, HMM_FAIL_BARRIER, text);
}

HMM_INLINE void hmm_rotate_votes(hmm_runtime* rt) {
  rt->last_voters = rt->voters, rt->last_votes = rt->votes;
  rt->voters = rt->votes = 0;
}

// End of a trip round the ring of a counted kernel; `before` is the progress seen at its start.
inline void hmm_round_counted(hmm_runtime* rt, uint64_t before) {
  if (rt->arrived && rt->arrived == rt->live) {
    rt->arrived = 0, ++rt->phase, ++rt->progress;
    hmm_rotate_votes(rt);
  } else if (rt->progress == before && !rt->spins && rt->live) {
    hmm_tell_deadlock(rt);
  }
  rt->spins = 0;
}

inline void hmm_reset_block(hmm_runtime* rt) {
  unsigned n = rt->threads;
  rt->live = n, ++rt->epoch;
  rt->arrived = rt->voters = rt->votes = rt->spins = 0;
  if (!rt->slow) return;
  for (unsigned warp = 0; warp < HMM_WARPS; ++warp) {
    unsigned left = n > warp * HMM_WARP ? n - warp * HMM_WARP : 0;
    rt->warps.present[warp] = left >= HMM_WARP ? 0xffffffffu : (1u << left) - 1;
    rt->warps.arrived[warp] = rt->warps.asking[warp] = 0;
  }
  for (unsigned i = 0; i < n; ++i) rt->warps.waiting[i] = 0;
}

inline void hmm_fiber_block(hmm_runtime* rt) {
  hmm_reset_block(rt);
  do {
    uint64_t before = rt->progress;
    hmm_switch_from(&rt->slot[rt->threads], &rt->slot[0]);
    if (rt->slow)
      hmm_round_counted(rt, before);
    else
      hmm_rotate_votes(rt);
  } while (rt->live);
}
