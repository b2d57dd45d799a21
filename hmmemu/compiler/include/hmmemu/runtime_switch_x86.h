// Switching between ring fibers on x86-64: two pushes, a jump, and everything else left to the compiler.
//
// The compiler sees an instruction that clobbers every register, so it saves only what lives across it. The
// resume address is jumped to and never returned to: `ret` would mispredict each time. Modules are compiled
// without a red zone, because the pushes use the stack below the pointer. `me` enters and leaves in the same
// register; the fiber that goes on finds its own slot there.
#pragma once
#ifdef __AVX512F__
#define HMM_CLOBBER_512                                                                                      \
  , "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26",       \
      "xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k2", "k3", "k4", "k5", "k6", "k7"
#else
#define HMM_CLOBBER_512
#endif
#define HMM_CLOBBERS                                                                                         \
  "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc", "xmm0",  \
      "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",     \
      "xmm13", "xmm14", "xmm15" HMM_CLOBBER_512

// Saves the running fiber in *me and goes on with the next slot.
HMM_INLINE void hmm_switch(void**& me) {
  char* ahead = static_cast<char*>(me[HMM_AHEAD]);
  __builtin_prefetch(ahead);
  __builtin_prefetch(ahead + 64);
  unsigned long scratch;
  asm volatile("push %%rbp\n\t"
               "lea 1f(%%rip), %%rax\n\t"
               "push %%rax\n\t"
               "mov %%rsp, (%0)\n\t"
               "add $8, %0\n\t"
               "mov (%0), %%rsp\n\t"
               "pop %%rax\n\t"
               "jmp *%%rax\n\t"
               ".p2align 4\n"
               "1: pop %%rbp\n\t"
               : "+D"(me), "=S"(scratch)
               :
               : HMM_CLOBBERS);
}

// Saves the worker in *from and starts a trip at *to; returns when the trip has come back.
HMM_INLINE void hmm_switch_from(void** from, void** to) {
  unsigned long scratch, scratch2;
  asm volatile("push %%rbp\n\t"
               "lea 1f(%%rip), %%rax\n\t"
               "push %%rax\n\t"
               "mov %%rsp, (%0)\n\t"
               "mov %1, %0\n\t"
               "mov (%0), %%rsp\n\t"
               "pop %%rax\n\t"
               "jmp *%%rax\n\t"
               ".p2align 4\n"
               "1: pop %%rbp\n\t"
               : "=D"(scratch), "=S"(scratch2)
               : "0"(from), "1"(to)
               : HMM_CLOBBERS);
}

// Where a new fiber begins: its slot is in rdi, its runtime on top of its stack.
asm(".text\n"
    ".p2align 4\n"
    "hmm_fiber_start:\n\t"
    "popq %rsi\n\t"
    "xchgq %rdi, %rsi\n\t"
    "xorl %ebp, %ebp\n\t"
    "call hmm_fiber_main\n\t"
    "ud2\n");
extern "C" void hmm_fiber_start() __attribute__((visibility("hidden")));

// A stack pointer for a fiber that has not begun. `top` is 64-byte aligned.
inline void* hmm_new_fiber(hmm_runtime* rt, unsigned char* top) {
  void** sp = reinterpret_cast<void**>(top);
  *--sp = nullptr;
  *--sp = nullptr;
  *--sp = rt;
  *--sp = reinterpret_cast<void*>(&hmm_fiber_start);
  return sp;
}
