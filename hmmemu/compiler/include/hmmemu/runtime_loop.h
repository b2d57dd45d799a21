// Kernels whose threads never wait for one another: a loop over the threads of each block, for the vectoriser.
//
// The fast copy runs when the launch is in range (checked once): blockIdx.x * blockDim.x + threadIdx.x then has no
// unsigned wrap, and giving threadIdx.x as `base + t` minus the product lets the compiler see contiguous access.
// The exact copy has no such assumption and stores each thread's index before its code; it serves launches out of
// range, launches that look for a fault (HMM_LAUNCH_PRECISE), and kernels that need their index stored.
#pragma once

// Threads of a block without barriers are independent, so the vectoriser need not prove it; HMM_NO_IVDEP is set for
// modules with arrays local to a thread, which GCC would let the lanes share.
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
      : x(unsigned(first % grid.x)), y(unsigned(first / grid.x % grid.y)), z(unsigned(first / grid.x / grid.y)) {}
  HMM_INLINE void next(const hmm_dim3& grid) {
    if (++x < grid.x) return;
    x = 0;
    if (++y < grid.y) return;
    y = 0, ++z;
  }
};

HMM_INLINE bool hmm_in_range(const hmm_launch* l) {
  return uint64_t(l->grid.x) * l->block.x <= 0x7fffffffu - HMM_MAX_THREADS && l->grid.y <= 65535 && l->grid.z <= 65535;
}

HMM_INLINE void hmm_assume_range(const hmm_dim3& g, const hmm_dim3& b) {
  HMM_ASSUME(b.x >= 1 && b.x <= 1024 && b.y >= 1 && b.y <= 1024 && b.z >= 1 && b.z <= 1024);
  HMM_ASSUME(g.x >= 1 && g.x <= 0x7fffffffu && g.y >= 1 && g.y <= 65535 && g.z >= 1 && g.z <= 65535);
}

template <auto Kernel, class... A>
__attribute__((noinline)) void hmm_loop_fast(hmm_worker* w, hmm_runtime* rt, const hmm_launch* l, uint64_t first,
                                             uint64_t end, A... a) {
  const hmm_dim3 g = l->grid, b = l->block;
  hmm_block_cursor at(g, first);
  hmm_assume_range(g, b);
  for (uint64_t i = first; i < end; ++i, at.next(g)) {
    HMM_ASSUME(at.x < g.x && at.y < g.y && at.z < g.z);
    hmm_store(w->block, hmm_uint3(at.x, at.y, at.z));
    const int base = int(at.x * b.x), n = int(b.x);
    HMM_ASSUME(base >= 0 && base <= 0x7fffffff - HMM_MAX_THREADS && n >= 1 && n <= HMM_MAX_THREADS);
    for (unsigned tz = 0; tz < b.z; ++tz)
      for (unsigned ty = 0; ty < b.y; ++ty) {
        HMM_ASSUME(ty < 1024 && tz < 1024);
        HMM_THREADS
        for (int t = 0; t < n; ++t) {
          unsigned tx = unsigned(base + t) - at.x * b.x;
          HMM_ASSUME(tx < 1024);
          hmm_ctx c;
          c.thread = hmm_uint3(tx, ty, tz), c.block = hmm_uint3(at.x, at.y, at.z);
          c.block_dim = hmm_to_dim3(b), c.grid_dim = hmm_to_dim3(g);
          c.worker = w, c.rt = rt, c.me = nullptr;
          Kernel(c, a...);
        }
      }
  }
}

template <auto Kernel, class... A>
__attribute__((noinline)) void hmm_loop_exact(hmm_worker* w, hmm_runtime* rt, const hmm_launch* l, uint64_t first,
                                              uint64_t end, A... a) {
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
