// The module's tables (abi.h): a kernel's way to run, its parameters, the variables in shared memory.
#pragma once

// How a kernel runs; given by the compiler's analysis.
enum hmm_way {
  HMM_WAY_LOOP,        // no thread waits for another
  HMM_WAY_LOOP_STORED, // the same, and some function asks hmm_here()
  HMM_WAY_FISSION,     // cut at its barriers; as fibers where that cannot be
  HMM_WAY_RING,        // fibers; __syncthreads is the only wait
  HMM_WAY_COUNTED      // fibers that count arrivals: warp operations, spinning
};

template <auto Kernel> struct hmm_kernel_of;

template <class... A, void (*Kernel)(const hmm_ctx&, A...)> struct hmm_kernel_of<Kernel> {
  static constexpr int count = sizeof...(A);
  static constexpr hmm_params<A...> layout{};

  template <int... I> static HMM_INLINE void call(const hmm_ctx& c, const void* p, hmm_ints<I...>) {
    (void)p;
    Kernel(c, hmm_load<A>(p, layout.offset[I])...);
  }

  static void fiber(hmm_runtime* rt, void** me) {
    hmm_ctx c;
    c.thread = rt->thread_of[me - rt->slot], c.block = rt->block;
    c.block_dim = rt->block_dim, c.grid_dim = rt->grid_dim;
    c.worker = rt->worker, c.rt = rt, c.me = me;
    call(c, rt->launch->params, hmm_count_to<count>());
  }

  template <class Tag, bool Counted>
  static void run_fibers(hmm_worker* w, const hmm_launch* l, uint64_t first, uint64_t end) {
    hmm_runtime* rt = hmm_begin(w, l, hmm_shared_use<Tag>::bytes);
    hmm_run_fibers(w, rt, l, first, end, Counted, &fiber);
  }

  template <class Tag, int... I>
  static HMM_INLINE void loop(hmm_worker* w, const hmm_launch* l, uint64_t first, uint64_t end, bool exact,
                              hmm_ints<I...>) {
    hmm_runtime* rt = hmm_begin(w, l, hmm_shared_use<Tag>::bytes);
    if (exact)
      hmm_loop_exact<Kernel, A...>(w, rt, l, first, end, hmm_load<A>(l->params, layout.offset[I])...);
    else
      hmm_loop_fast<Kernel, A...>(w, rt, l, first, end, hmm_load<A>(l->params, layout.offset[I])...);
  }
  template <class Tag>
  static void run_loop(hmm_worker* w, const hmm_launch* l, uint64_t first, uint64_t end) {
    loop<Tag>(w, l, first, end, (l->flags & HMM_LAUNCH_PRECISE) || !hmm_in_range(l), hmm_count_to<count>());
  }
  template <class Tag, int... I>
  static HMM_INLINE void stored(hmm_worker* w, const hmm_launch* l, uint64_t first, uint64_t end,
                                hmm_ints<I...>) {
    hmm_runtime* rt = hmm_begin(w, l, hmm_shared_use<Tag>::bytes);
    hmm_loop_exact<Kernel, A...>(w, rt, l, first, end, hmm_load<A>(l->params, layout.offset[I])...);
  }
  template <class Tag>
  static void run_stored(hmm_worker* w, const hmm_launch* l, uint64_t first, uint64_t end) {
    stored<Tag>(w, l, first, end, hmm_count_to<count>());
  }

  template <auto Block, class Tag, int... I>
  static HMM_INLINE void pieces(hmm_worker* w, const hmm_launch* l, uint64_t first, uint64_t end,
                                hmm_ints<I...>) {
    hmm_runtime* rt = hmm_begin(w, l, hmm_shared_use<Tag>::bytes);
    hmm_run_pieces<Block, A...>(w, rt, l, first, end, hmm_load<A>(l->params, layout.offset[I])...);
  }
  template <auto Block, class Tag>
  static void run_pieces(hmm_worker* w, const hmm_launch* l, uint64_t first, uint64_t end) {
    if ((l->flags & HMM_LAUNCH_PRECISE) || !hmm_in_range(l))
      run_fibers<Tag, false>(w, l, first, end);
    else
      pieces<Block, Tag>(w, l, first, end, hmm_count_to<count>());
  }

  // Only the chosen way is instantiated.
  template <class Tag, hmm_way Way, auto Block> static constexpr auto run() {
    if constexpr (Way == HMM_WAY_FISSION)
      return &run_pieces<Block, Tag>;
    else if constexpr (Way == HMM_WAY_LOOP)
      return &run_loop<Tag>;
    else if constexpr (Way == HMM_WAY_LOOP_STORED)
      return &run_stored<Tag>;
    else
      return &run_fibers<Tag, Way == HMM_WAY_COUNTED>;
  }

  static void describe(const hmm_written* written, hmm_param* to) {
    const uint32_t size[] = {uint32_t(sizeof(A))..., 0}, kind[] = {hmm_kind<A>()..., 0};
    const uint32_t sign[] = {hmm_sign<A>::value..., 0},
                   constant[] = {uint32_t(hmm_pointee<A>::is_const)..., 0};
    const uint32_t pointee[] = {hmm_pointee<A>::size..., 0};
    for (int i = 0; i < count; ++i)
      to[i] = hmm_param{written[i].name, written[i].type, layout.offset[i], size[i],
                        kind[i],         sign[i],         constant[i],      pointee[i]};
  }
};

// Fills one entry of the kernel table; `params` has room for the kernel's parameters.
template <auto Kernel, class Tag, hmm_way Way, auto Block = 0, int Written>
inline void hmm_describe(hmm_kernel& k, const char* name, const hmm_written (&written)[Written],
                         hmm_param* params, uint32_t max_threads, uint32_t waits) {
  typedef hmm_kernel_of<Kernel> of;
  static_assert(Written == of::count + 1,
                "hmmemu: the parser and the compiler disagree about a kernel's parameters");
  of::describe(written, params);
  k.name = name, k.mode = Way <= HMM_WAY_LOOP_STORED ? "loop" : Way == HMM_WAY_FISSION ? "fission" : "fiber";
  k.params = params, k.param_count = of::count, k.param_bytes = of::layout.offset[of::count];
  k.static_shared =
      hmm_round_up(hmm_shared_use<Tag>::bytes, 16) + hmm_shared_use<hmm_device_functions>::bytes;
  k.waits = waits, k.max_threads = max_threads, k.run = of::template run<Tag, Way, Block>();
}
