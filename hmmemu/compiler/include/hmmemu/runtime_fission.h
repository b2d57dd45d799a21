// Kernels cut at their barriers ("loop fission"): each piece between two barriers is a loop over the block's
// threads.
//
// The rewriter (fission.py) makes a second function of such a kernel, which runs one whole block: control
// flow that is the same for all threads stays outside, and each piece is
//     HMM_PIECE_BEGIN { statements as written } HMM_PIECE_END
// Values that live from piece to piece are computed again, or kept in arrays with one element a thread. Taken
// for launches in range (runtime_loop.h); others, and those that look for a fault, run the kernel as fibers.
#pragma once

struct hmm_block {
  uint3 block;
  dim3 block_dim, grid_dim;
  hmm_worker* worker;
  hmm_runtime* rt;
  int base; // block.x * block_dim.x
};

// The context of the code outside the pieces: it has no thread.
HMM_INLINE hmm_ctx hmm_block_context(const hmm_block& b) {
  hmm_ctx c;
  c.thread = hmm_uint3(0, 0, 0), c.block = b.block, c.block_dim = b.block_dim, c.grid_dim = b.grid_dim;
  c.worker = b.worker, c.rt = b.rt, c.me = nullptr;
  return c;
}

HMM_INLINE hmm_ctx hmm_thread_context(const hmm_block& b, unsigned x, unsigned y, unsigned z) {
  hmm_ctx c = hmm_block_context(b);
  c.thread = hmm_uint3(x, y, z);
  return c;
}

// Two ways to count through a row of threads, equal in value. Pieces that use blockIdx take the second, by
// which the compiler sees that (int)(blockIdx.x * blockDim.x + threadIdx.x) + anything is contiguous; the
// others take the first, by which it sees that threadIdx.x + k does not wrap.
#define HMM_PIECE_BEGIN HMM_PIECE(unsigned, hmm_i)
#define HMM_PIECE_BEGIN_GRID HMM_PIECE(int, unsigned(hmm_b.base + hmm_i) - hmm_b.block.x * hmm_b.block_dim.x)
#define HMM_PIECE(counter, index)                                                                            \
  for (unsigned hmm_z = 0; hmm_z < hmm_b.block_dim.z; ++hmm_z)                                               \
    for (unsigned hmm_y = 0; hmm_y < hmm_b.block_dim.y; ++hmm_y) {                                           \
      HMM_ASSUME(hmm_y < 1024 && hmm_z < 1024);                                                              \
      const unsigned hmm_row = hmm_b.block_dim.x * (hmm_y + hmm_b.block_dim.y * hmm_z);                      \
      HMM_ASSUME(hmm_row < HMM_MAX_THREADS);                                                                 \
      HMM_THREADS                                                                                            \
      for (counter hmm_i = 0; hmm_i < counter(hmm_b.block_dim.x); ++hmm_i) {                                 \
        const unsigned hmm_x = index;                                                                        \
        HMM_ASSUME(hmm_x < HMM_MAX_THREADS);                                                                 \
        [[maybe_unused]] const unsigned hmm_t = hmm_row + unsigned(hmm_i);                                   \
        const hmm_ctx hmm_c = hmm_thread_context(hmm_b, hmm_x, hmm_y, hmm_z);                                \
        [[maybe_unused]] const uint3 threadIdx = hmm_c.thread;
#define HMM_PIECE_END                                                                                        \
  }                                                                                                          \
  }

// -- locals that live across pieces, one element a thread

template <class T> struct hmm_no_const {
  typedef T type;
};
template <class T> struct hmm_no_const<const T> {
  typedef T type;
};
template <class T, size_t N> struct hmm_no_const<T[N]> {
  typedef typename hmm_no_const<T>::type type[N];
};
template <class T, size_t N> struct hmm_no_const<const T[N]> {
  typedef typename hmm_no_const<T>::type type[N];
};

// Storage that nothing is written to before its use, also where the compiler fills other variables
// (build.py, for clang).
#if defined(__clang__)
#define HMM_RAW __attribute__((uninitialized))
#else
#define HMM_RAW
#endif

// Memory for one object, whose life begins where its declaration stands.
template <class T> union hmm_cell {
  T value;
  HMM_INLINE hmm_cell() {}
  HMM_INLINE ~hmm_cell() {}
};

template <class T, bool Large = (sizeof(T) > 64)> struct hmm_cells {
  alignas(64) hmm_cell<T> cells[HMM_MAX_THREADS];
  HMM_INLINE hmm_cells(const hmm_block&, unsigned&) {}
  HMM_INLINE T& operator[](unsigned t) { return cells[t].value; }
};

// Large ones lie where they would be if the threads were fibers: in the threads' own stacks. Parked fibers
// use the upper end of theirs; this takes from the lower, above the guard page, and gives back at the end of
// the scope.
template <class T> struct hmm_cells<T, true> {
  enum { first = 4096, room = HMM_STACK_BYTES - first - 12288 };
  unsigned char* base;
  unsigned& used;
  unsigned before;
  HMM_INLINE hmm_cells(const hmm_block& b, unsigned& used_) : used(used_), before(used_) {
    unsigned at = hmm_round_up(used, alignof(T) > 64 ? alignof(T) : 64);
    if (at + sizeof(T) > room)
      hmm_refuse(b.worker, "bytes of local variables a thread", at + sizeof(T), room);
    base = b.worker->stacks + first + at, used = unsigned(at + sizeof(T));
  }
  HMM_INLINE ~hmm_cells() { used = before; }
  HMM_INLINE T& operator[](unsigned t) { return *reinterpret_cast<T*>(base + size_t(t) * HMM_STACK_BYTES); }
};

template <class T> HMM_INLINE void hmm_begin_life(T& x) { ::new ((void*)&x) T; }
template <class T, size_t N> HMM_INLINE void hmm_begin_life(T (&x)[N]) {
  for (size_t i = 0; i < N; ++i) hmm_begin_life(x[i]);
}
template <class T, class U> HMM_INLINE void hmm_copy(T& to, const U& from) { to = from; }
template <class T, class U, size_t N> HMM_INLINE void hmm_copy(T (&to)[N], const U (&from)[N]) {
  for (size_t i = 0; i < N; ++i) hmm_copy(to[i], from[i]);
}

// first + x, for a first that fits: added as int where T is no wider, because the compiler may take an int
// not to wrap.
template <class T> HMM_INLINE bool hmm_index_fits(T first) {
  return sizeof(T) > 4 || static_cast<unsigned long long>(first) <= 0x7fffffff - HMM_MAX_THREADS;
}
template <class T> HMM_INLINE T hmm_index(T first, unsigned x) {
  if constexpr (sizeof(T) > 4)
    return first + x;
  else
    return T(int(first) + int(x));
}

template <auto Block, class... A>
__attribute__((noinline)) void hmm_run_pieces(hmm_worker* w, hmm_runtime* rt, const hmm_launch* l,
                                              uint64_t first, uint64_t end, A... a) {
  const hmm_dim3 g = l->grid, b = hmm_small_block(l->block);
  hmm_block_cursor at(g, first);
  for (uint64_t i = first; i < end; ++i, at.next(g)) {
    hmm_block c;
    c.block = hmm_small_index(at), c.block_dim = hmm_to_dim3(b), c.grid_dim = hmm_to_dim3(g);
    c.worker = w, c.rt = rt, c.base = int(c.block.x * b.x);
    hmm_store(w->block, c.block);
    Block(c, a...);
  }
}
