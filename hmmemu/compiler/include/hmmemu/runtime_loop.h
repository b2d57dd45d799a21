// Kernels whose threads never wait for one another: a loop over the threads of each block, for the
// vectoriser.
//
// The fast copy runs when the launch is in range (checked once): then blockIdx.x * blockDim.x + threadIdx.x
// stays below 2**31, and the compiler is shown so. It must see that no index wraps, or it will not vectorise.
// The exact copy has no such assumption and stores each thread's index before its code; it serves launches
// out of range, launches that look for a fault (HMM_LAUNCH_PRECISE), and kernels that need their index
// stored.
#pragma once

// Threads of a block without barriers are independent, so the vectoriser need not prove it; HMM_NO_IVDEP is
// set for modules with arrays local to a thread, which GCC would let the lanes share.
#if defined(HMM_NO_IVDEP)
#define HMM_THREADS
#elif defined(__clang__)
#define HMM_THREADS _Pragma("clang loop vectorize(assume_safety)")
#else
#define HMM_THREADS _Pragma("GCC ivdep")
#endif

// Steps through block numbers in CUDA's order: x first.
struct hmm_block_cursor {
  unsigned x, y, z;
  HMM_INLINE hmm_block_cursor(const hmm_dim3& grid, uint64_t first)
      : x(unsigned(first % grid.x)), y(unsigned(first / grid.x % grid.y)),
        z(unsigned(first / grid.x / grid.y)) {}
  HMM_INLINE void next(const hmm_dim3& grid) {
    if (++x < grid.x) return;
    x = 0;
    if (++y < grid.y) return;
    y = 0, ++z;
  }
};

enum { HMM_SMALL_GRID_X = 1 << 21, HMM_SMALL_GRID_YZ = 1 << 16 };

HMM_INLINE bool hmm_in_range(const hmm_launch* l) {
  return l->grid.x <= HMM_SMALL_GRID_X && l->grid.y <= HMM_SMALL_GRID_YZ && l->grid.z <= HMM_SMALL_GRID_YZ;
}

// For launches in range these change no value. They are arithmetic because the compiler keeps what arithmetic
// says about a value's range, where it forgets an assumption (`if (!c) __builtin_unreachable()`) after a few
// passes.
HMM_INLINE unsigned hmm_at_most(unsigned n, unsigned limit) { return n < limit ? n : limit; }
HMM_INLINE hmm_dim3 hmm_small_block(const hmm_dim3& b) {
  hmm_dim3 d = {hmm_at_most(b.x, 1024), hmm_at_most(b.y, 1024), hmm_at_most(b.z, 1024)};
  return d;
}
HMM_INLINE uint3 hmm_small_index(const hmm_block_cursor& at) {
  return hmm_uint3(at.x & (HMM_SMALL_GRID_X - 1), at.y & (HMM_SMALL_GRID_YZ - 1),
                   at.z & (HMM_SMALL_GRID_YZ - 1));
}

template <auto Kernel, class... A>
__attribute__((noinline)) void hmm_loop_fast(hmm_worker* w, hmm_runtime* rt, const hmm_launch* l,
                                             uint64_t first, uint64_t end, A... a) {
  const hmm_dim3 g = l->grid, b = hmm_small_block(l->block);
  hmm_block_cursor at(g, first);
  for (uint64_t i = first; i < end; ++i, at.next(g)) {
    const uint3 block = hmm_small_index(at);
    hmm_store(w->block, block);
    const int base = int(block.x * b.x);
    for (unsigned tz = 0; tz < b.z; ++tz)
      for (unsigned ty = 0; ty < b.y; ++ty) {
        HMM_ASSUME(ty < 1024 && tz < 1024);
        HMM_THREADS
        for (int t = 0; t < int(b.x); ++t) {
          const unsigned tx = unsigned(base + t) - block.x * b.x; // t, told so that base cancels in indices
          HMM_ASSUME(tx < HMM_MAX_THREADS);
          hmm_ctx c;
          c.thread = hmm_uint3(tx, ty, tz), c.block = block;
          c.block_dim = hmm_to_dim3(b), c.grid_dim = hmm_to_dim3(g);
          c.worker = w, c.rt = rt, c.me = nullptr;
          Kernel(c, a...);
        }
      }
  }
}

template <auto Kernel, class... A>
__attribute__((noinline)) void hmm_loop_exact(hmm_worker* w, hmm_runtime* rt, const hmm_launch* l,
                                              uint64_t first, uint64_t end, A... a) {
  const hmm_dim3 g = l->grid, b = l->block;
  hmm_block_cursor at(g, first);
  w->thread_known = 1;
  for (uint64_t i = first; i < end; ++i, at.next(g)) {
    hmm_store(w->block, hmm_uint3(at.x, at.y, at.z));
    for (unsigned tz = 0; tz < b.z; ++tz)
      for (unsigned ty = 0; ty < b.y; ++ty)
        for (unsigned tx = 0; tx < b.x; ++tx) {
          hmm_ctx c;
          c.thread = hmm_uint3(tx, ty, tz), c.block = hmm_uint3(at.x, at.y, at.z);
          c.block_dim = hmm_to_dim3(b), c.grid_dim = hmm_to_dim3(g);
          c.worker = w, c.rt = rt, c.me = nullptr;
          hmm_store(w->thread, c.thread);
          Kernel(c, a...);
        }
  }
  w->thread_known = 0;
}
