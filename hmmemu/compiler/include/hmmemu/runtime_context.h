// What a kernel knows about where it runs: `hmm_ctx`, one per CUDA thread, and `hmm_runtime`, one per worker.
//
// The rewriter gives every kernel, and every device function that needs it, a parameter `hmm_ctx& hmm_c` and
// at its opening brace locals `threadIdx` ... `gridDim` made from it; the user's body stays as written.
// Functions that cannot take a parameter (member functions, lambdas without captures) ask `hmm_here()`
// instead.
//
// No locks: a worker's runtime is touched by its own thread only.
#pragma once

#ifndef HMM_INLINE
#define HMM_INLINE inline __attribute__((always_inline))
#endif
#define HMM_ASSUME(c)                                                                                        \
  do {                                                                                                       \
    if (!(c)) __builtin_unreachable();                                                                       \
  } while (0)
#define HMM_LIKELY(c) __builtin_expect(!!(c), 1)
#define HMM_UNLIKELY(c) __builtin_expect(!!(c), 0)

enum { HMM_WARP = 32, HMM_WARPS = HMM_MAX_THREADS / HMM_WARP, HMM_AHEAD = 4 };

// Warp operations of one worker's current block. Lane arrays are indexed by the thread's number in the block,
// so that the 32 entries of a warp are contiguous and the thread that completes an operation works on all of
// them at once.
struct hmm_warps {
  uint32_t present[HMM_WARPS]; // lanes that have not ended
  uint32_t arrived[HMM_WARPS]; // lanes that wait in an operation with a mask
  uint32_t asking[HMM_WARPS];  // lanes that wait in __activemask
  alignas(64) uint64_t value[HMM_MAX_THREADS];
  alignas(64) uint64_t result[HMM_MAX_THREADS];
  alignas(64) uint32_t mask[HMM_MAX_THREADS];
  alignas(64) uint32_t argument[HMM_MAX_THREADS];
  alignas(64) uint32_t kind[HMM_MAX_THREADS];
  alignas(64) uint32_t waiting[HMM_MAX_THREADS];
};

// A worker's state, kept at hmm_worker::runtime from launch to launch and shared by all modules of one build.
struct hmm_runtime {
  // The ring: stack pointers of the block's fibers, then the worker's own at index `threads`. First, so that
  // a slot's number follows from its address; padded, because a switch prefetches the stack HMM_AHEAD places
  // further on.
  void* slot[HMM_MAX_THREADS + 1 + HMM_AHEAD];
  uint64_t magic;
  hmm_worker* worker;
  const hmm_launch* launch;
  const void* owner; // the module whose code the parked fibers are in
  uint32_t prepared; // fibers that have a stack pointer
  uint32_t running;  // set while blocks run: still set at the next launch if one was cut off by a failure
  uint32_t fibers;   // the current kernel runs as fibers
  uint32_t slow;     // barriers count arrivals, or `thread` is kept exact
  uint32_t precise;  // store hmm_worker::thread after every switch
  uint32_t threads;  // of a block
  uint32_t live;     // fibers that have not ended in this block
  uint32_t epoch;    // number of the block, for fibers that wait for the next one
  uint32_t arrived, phase; // the counted barrier
  uint32_t voters, votes;  // of the __syncthreads_count under way
  uint32_t last_voters, last_votes;
  uint64_t progress;             // grows whenever a fiber arrives somewhere or is let go
  uint32_t spins;                // turns of spinning fibers in this round
  uint32_t waits;                // ... and ever
  unsigned char* device_shared;  // __shared__ variables of device functions
  unsigned char* dynamic_shared; // extern __shared__
  uint3 block;
  dim3 block_dim, grid_dim;
  void (*entry)(hmm_runtime*, void**);
  uint3 thread_of[HMM_MAX_THREADS]; // threadIdx by the thread's number; right for `table_dim`
  hmm_dim3 table_dim;
  hmm_warps warps;
};

// A runtime begins at a multiple of HMM_RUNTIME_ALIGN and its slots fit in that, so a fiber that knows its
// slot knows its runtime without a load.
enum { HMM_RUNTIME_ALIGN = 65536 };
HMM_INLINE hmm_runtime* hmm_runtime_of(void** me) {
  return reinterpret_cast<hmm_runtime*>(reinterpret_cast<uintptr_t>(me) & ~uintptr_t(HMM_RUNTIME_ALIGN - 1));
}

struct hmm_ctx;
static void hmm_barrier_counted(void** me);

// `me` is the fiber's slot, null where no fibers are used. It is mutable because lambdas that copy their
// context copy it as const, and because a switch hands the register that holds it to the next fiber. Its
// address is never taken: it must stay in a register.
struct hmm_ctx {
  uint3 thread, block;
  dim3 block_dim, grid_dim;
  hmm_worker* worker;
  hmm_runtime* rt;
  mutable void** me;

  HMM_INLINE unsigned number() const { return thread.x + block_dim.x * (thread.y + block_dim.y * thread.z); }
  HMM_INLINE void sync() const;
  HMM_INLINE int sync_count(int predicate) const;
  HMM_INLINE int sync_and(int predicate) const;
  HMM_INLINE int sync_or(int predicate) const;
  HMM_INLINE void spin() const;

  HMM_INLINE uint64_t warp_op(unsigned kind, unsigned mask, uint64_t value, unsigned argument) const;
  HMM_INLINE void syncwarp(unsigned mask = 0xffffffffu) const;
  HMM_INLINE unsigned ballot(unsigned mask, int predicate) const;
  HMM_INLINE int any(unsigned mask, int predicate) const;
  HMM_INLINE int all(unsigned mask, int predicate) const;
  HMM_INLINE unsigned activemask(unsigned site) const;
  template <class T> HMM_INLINE T shfl(unsigned mask, T value, int lane, int width = HMM_WARP) const;
  template <class T> HMM_INLINE T shfl_up(unsigned mask, T value, unsigned delta, int width = HMM_WARP) const;
  template <class T>
  HMM_INLINE T shfl_down(unsigned mask, T value, unsigned delta, int width = HMM_WARP) const;
  template <class T> HMM_INLINE T shfl_xor(unsigned mask, T value, int lanes, int width = HMM_WARP) const;
  template <class T> HMM_INLINE unsigned match_any(unsigned mask, T value) const;
  template <class T> HMM_INLINE unsigned match_all(unsigned mask, T value, int* predicate) const;
  template <class T> HMM_INLINE T reduce(unsigned kind, unsigned mask, T value) const;
};

HMM_INLINE uint3 hmm_uint3(unsigned x, unsigned y, unsigned z) {
  uint3 v;
  v.x = x, v.y = y, v.z = z;
  return v;
}

HMM_INLINE dim3 hmm_to_dim3(const hmm_dim3& d) {
  dim3 v;
  v.x = d.x, v.y = d.y, v.z = d.z;
  return v;
}

HMM_INLINE void hmm_store(volatile hmm_dim3& to, const uint3& from) {
  to.x = from.x, to.y = from.y, to.z = from.z;
}

// The context of the code that runs now, for functions that were given none: a fiber is known by the stack it
// is on; without fibers, the thread loop keeps hmm_worker::thread exact for kernels that can come here.
inline hmm_ctx hmm_here() {
  hmm_worker* w = hmmemu_worker_self;
  hmm_runtime* rt = static_cast<hmm_runtime*>(w->runtime);
  hmm_ctx c;
  c.worker = w, c.rt = rt, c.me = nullptr;
  c.block = hmm_uint3(w->block.x, w->block.y, w->block.z);
  c.block_dim = hmm_to_dim3(rt->launch->block), c.grid_dim = hmm_to_dim3(rt->launch->grid);
  if (rt->fibers) {
    size_t from = size_t(static_cast<unsigned char*>(__builtin_frame_address(0)) - w->stacks);
    unsigned i = unsigned(from / HMM_STACK_BYTES);
    c.me = &rt->slot[i], c.thread = rt->thread_of[i];
  } else {
    c.thread = hmm_uint3(w->thread.x, w->thread.y, w->thread.z);
  }
  return c;
}

static inline hmm_dim3 hmm_plain(unsigned x, unsigned y, unsigned z) {
  hmm_dim3 d = {x, y, z};
  return d;
}

static inline bool hmm_position(hmm_dim3& block, hmm_dim3& thread) {
  hmm_ctx c = hmm_here();
  block = hmm_plain(c.block.x, c.block.y, c.block.z), thread = hmm_plain(c.thread.x, c.thread.y, c.thread.z);
  return c.rt->fibers || c.worker->thread_known;
}
