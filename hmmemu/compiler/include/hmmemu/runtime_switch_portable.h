// Switching between ring fibers where there is no assembly for the processor: ucontext, with the same
// interface.
//
// A slot holds a pointer to the fiber's ucontext_t, which lies at the top of its stack (the worker's own:
// below).
#pragma once
#include <ucontext.h>

inline void hmm_switch(void**& me) {
  void** mine = me;
  swapcontext(static_cast<ucontext_t*>(mine[0]), static_cast<ucontext_t*>(mine[1]));
  me = mine;
}

inline void hmm_switch_from(void** from, void** to) {
  ucontext_t here;
  *from = &here;
  swapcontext(&here, static_cast<ucontext_t*>(*to));
}

extern "C" void hmm_fiber_main(hmm_runtime* rt, void** me);

// makecontext passes ints only: the two pointers travel in halves.
inline void hmm_fiber_start(unsigned rt_high, unsigned rt_low, unsigned me_high, unsigned me_low) {
  hmm_fiber_main(reinterpret_cast<hmm_runtime*>(uint64_t(rt_high) << 32 | rt_low),
                 reinterpret_cast<void**>(uint64_t(me_high) << 32 | me_low));
}

inline void* hmm_new_fiber(hmm_runtime* rt, unsigned char* top) {
  unsigned i = unsigned(size_t(top - rt->worker->stacks) / HMM_STACK_BYTES);
  unsigned char* guard_end = rt->worker->stacks + size_t(i) * HMM_STACK_BYTES + 4096;
  ucontext_t* context = reinterpret_cast<ucontext_t*>(top - (sizeof(ucontext_t) + 63) / 64 * 64);
  uint64_t r = reinterpret_cast<uint64_t>(rt), m = reinterpret_cast<uint64_t>(&rt->slot[i]);
  getcontext(context);
  context->uc_stack.ss_sp = guard_end;
  context->uc_stack.ss_size = size_t(reinterpret_cast<unsigned char*>(context) - guard_end);
  context->uc_link = nullptr;
  makecontext(context, reinterpret_cast<void (*)()>(&hmm_fiber_start), 4, unsigned(r >> 32), unsigned(r),
              unsigned(m >> 32), unsigned(m));
  return context;
}
