// A kernel module written by hand against abi.h, for the tests of the device process: no compiler
// of ours involved.
#include "hmmemu/abi.h"
#include <stdio.h>
#include <string.h>

template <class T> static const T& params(const hmm_launch* l) { return *static_cast<const T*>(l->params); }

static uint64_t threads_of(const hmm_launch* l) { return uint64_t(l->block.x) * l->block.y * l->block.z; }

static void enter_block(hmm_worker* w, const hmm_launch* l, uint64_t number) {
  w->block.x = uint32_t(number % l->grid.x);
  w->block.y = uint32_t(number / l->grid.x % l->grid.y);
  w->block.z = uint32_t(number / l->grid.x / l->grid.y);
}

static void empty(hmm_worker*, const hmm_launch*, uint64_t, uint64_t) {}

// out[block] = value + block number; workers[block] = worker
struct Store {
  uint32_t* out;
  uint32_t* workers;
  uint32_t value;
};
static void store(hmm_worker* w, const hmm_launch* l, uint64_t first, uint64_t end) {
  const auto& p = params<Store>(l);
  for (uint64_t b = first; b < end; b++) {
    p.out[b] = p.value + uint32_t(b);
    if (p.workers) p.workers[b] = w->index;
  }
}

// Keeps a worker busy for some time: the other workers must take the other blocks.
struct Busy {
  uint32_t* workers;
  uint64_t turns;
};
static void busy(hmm_worker* w, const hmm_launch* l, uint64_t first, uint64_t end) {
  const auto& p = params<Busy>(l);
  for (uint64_t b = first; b < end; b++) {
    for (uint64_t i = 0; i < p.turns; i++) {
      asm volatile("");
    }
    p.workers[b] = w->index + 1;
  }
}

// state = state * 3 + value: order and loss both show.
struct Chain {
  uint64_t* state;
  uint64_t value;
};
static void chain(hmm_worker*, const hmm_launch* l, uint64_t, uint64_t) {
  const auto& p = params<Chain>(l);
  *p.state = *p.state * 3 + p.value;
}

struct Print {
  uint32_t bytes, times;
};
static void print(hmm_worker* w, const hmm_launch* l, uint64_t first, uint64_t end) {
  const auto& p = params<Print>(l);
  static char text[65536];
  for (uint64_t b = first; b < end; b++)
    for (uint32_t i = 0; i < p.times; i++) {
      char line[64];
      const int n =
          snprintf(line, sizeof line, "block %llu line %u\n", static_cast<unsigned long long>(b), i);
      w->services->print(w, p.bytes ? text : line, p.bytes ? p.bytes : size_t(n));
    }
}

struct Fail {
  int32_t failure;
  uint32_t block;
};
static void fail(hmm_worker* w, const hmm_launch* l, uint64_t first, uint64_t end) {
  const auto& p = params<Fail>(l);
  for (uint64_t b = first; b < end; b++) {
    enter_block(w, l, b);
    if (b != p.block) continue;
    w->services->print(w, "last words\n", 11);
    w->thread.x = 7;
    w->thread.y = 0;
    w->thread.z = 0;
    w->thread_known = 1;
    w->services->fail(w, p.failure, "t.cu:12: fail: Assertion `x > 0` failed.");
  }
}

// One thread of one block goes wild. As in a vectorised loop, the thread is kept only in a precise
// run.
enum Deed { kRead = 0, kWrite, kExecute, kDivide, kSpinWhenPrecise, kCalmWhenPrecise, kAbort };
struct Wild {
  uint64_t address;
  uint32_t block, thread, deed;
};
static volatile uint32_t sink, zero;
static void misbehave(const Wild& p, bool precise) {
  auto* const at = reinterpret_cast<volatile uint32_t*>(p.address);
  if (precise && p.deed == kCalmWhenPrecise) return;
  while (precise && p.deed == kSpinWhenPrecise) {}
  if (p.deed == kExecute) reinterpret_cast<void (*)()>(p.address)();
  if (p.deed == kDivide) sink = 1000 / zero;
  if (p.deed == kAbort) __builtin_trap();
  if (p.deed == kRead)
    sink = *at;
  else
    *at = 1;
}
static void wild(hmm_worker* w, const hmm_launch* l, uint64_t first, uint64_t end) {
  const auto& p = params<Wild>(l);
  const bool precise = l->flags & HMM_LAUNCH_PRECISE;
  for (uint64_t b = first; b < end; b++) {
    enter_block(w, l, b);
    for (uint64_t t = 0; t < threads_of(l); t++) {
      if (precise) {
        w->thread.x = uint32_t(t % l->block.x);
        w->thread.y = uint32_t(t / l->block.x % l->block.y);
        w->thread.z = uint32_t(t / l->block.x / l->block.y);
        w->thread_known = 1;
      }
      if (b == p.block && t == p.thread) misbehave(p, precise);
    }
  }
}

// As `wild`, but the precise run touches another page on its way: `detour` is the handler's to resolve.
struct Detour {
  Wild wild;
  uint64_t detour;
};
static void detour(hmm_worker* w, const hmm_launch* l, uint64_t first, uint64_t end) {
  const auto& p = params<Detour>(l);
  if (l->flags & HMM_LAUNCH_PRECISE) *reinterpret_cast<volatile uint32_t*>(p.detour) = 99;
  wild(w, l, first, end);
}

// One word in each page: out[1024 * block] = value + block
static void stride(hmm_worker*, const hmm_launch* l, uint64_t first, uint64_t end) {
  const auto& p = params<Store>(l);
  for (uint64_t b = first; b < end; b++) p.out[1024 * b] = p.value + uint32_t(b);
}

static uint64_t deep(uint64_t n) {
  volatile char frame[512];
  frame[n % 512] = char(n);
  return n == 0 ? 0 : deep(n - 1) + uint64_t(frame[n % 512]);
}
static void recurse(hmm_worker* w, const hmm_launch* l, uint64_t first, uint64_t) {
  enter_block(w, l, first);
  sink = uint32_t(deep(1u << 30));
}
static void fiber_overflow(hmm_worker* w, const hmm_launch* l, uint64_t first, uint64_t) {
  enter_block(w, l, first);
  w->thread_known = 1;
  w->stacks[5 * HMM_STACK_BYTES + 4095] = 1; // the guard page of fiber 5
}

static void forever(hmm_worker*, const hmm_launch*, uint64_t, uint64_t) {
  for (;;) {
    asm volatile("");
  }
}
static void forever_yielding(hmm_worker* w, const hmm_launch*, uint64_t, uint64_t) {
  for (;;) w->services->yield(w);
}

// Blocks 0 and 1 wait for each other.
struct Meet {
  uint32_t* arrived;
  uint32_t blocks;
};
static void meet(hmm_worker* w, const hmm_launch* l, uint64_t first, uint64_t end) {
  const auto& p = params<Meet>(l);
  for (uint64_t b = first; b < end; b++) {
    __atomic_fetch_add(p.arrived, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(p.arrived, __ATOMIC_SEQ_CST) < p.blocks) w->services->yield(w);
  }
}

// The worker's own memory: all of the arena, and the whole of every stack but its guard.
static void own_memory(hmm_worker* w, const hmm_launch* l, uint64_t, uint64_t) {
  const auto& p = params<Store>(l);
  memset(w->shared, 0x5a, HMM_SHARED_BYTES);
  for (uint32_t i = 0; i < HMM_MAX_THREADS; i++) {
    w->stacks[i * HMM_STACK_BYTES + 4096] = 1;
    w->stacks[(i + 1) * HMM_STACK_BYTES - 1] = 1;
  }
  *p.out = w->shared[HMM_SHARED_BYTES - 1] + (hmmemu_worker_self == w);
}

struct Global {
  uint64_t value;
};
static uint64_t* counter;
static uint32_t* table;
static const uint64_t counter_initial = 41;
static const uint32_t table_initial[1000] = {7, 8, 9};
static void count(hmm_worker*, const hmm_launch*, uint64_t, uint64_t) { *counter = *counter + table[1]; }

static hmm_global globals[2];
__attribute__((constructor)) static void place_globals() {
  counter = static_cast<uint64_t*>(hmmemu_global_address("counter", 8, 8, &counter_initial));
  table = static_cast<uint32_t*>(hmmemu_global_address("table", sizeof table_initial, 256, table_initial));
  globals[0] = {"counter", "unsigned long", counter, 8, 0, 0};
  globals[1] = {"table", "unsigned int[1000]", table, sizeof table_initial, 1, 0};
}

static const hmm_param store_params[] = {
    {"out", "unsigned int*", 0, 8, HMM_PARAM_POINTER, 0, 0, 4},
    {"workers", "unsigned \"int\"*", 8, 8, HMM_PARAM_POINTER, 0, 1, 4},
    {"value", "unsigned int", 16, 4, HMM_PARAM_INTEGER, 0, 0, 0},
};
#define KERNEL(name, bytes) {#name, "loop", nullptr, 0, bytes, 0, HMM_MAX_THREADS, 0, 0, name}
static const hmm_kernel kernels[] = {
    KERNEL(empty, 0),
    {"store", "loop", store_params, 3, 24, 1024, 256, 0, 0, store},
    KERNEL(busy, sizeof(Busy)),
    KERNEL(chain, sizeof(Chain)),
    KERNEL(print, sizeof(Print)),
    KERNEL(fail, sizeof(Fail)),
    KERNEL(wild, sizeof(Wild)),
    KERNEL(detour, sizeof(Detour)),
    KERNEL(stride, sizeof(Store)),
    KERNEL(recurse, 0),
    KERNEL(fiber_overflow, 0),
    KERNEL(forever, 0),
    KERNEL(forever_yielding, 0),
    KERNEL(meet, sizeof(Meet)),
    KERNEL(own_memory, sizeof(Store)),
    KERNEL(count, 0),
};
static const hmm_module module_table = {HMMEMU_ABI, sizeof kernels / sizeof *kernels, 2, 0, kernels, globals};

extern "C" const hmm_module* hmmemu_module(void) { return &module_table; }
