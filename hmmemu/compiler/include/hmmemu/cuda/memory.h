// Loads and stores with cache hints, fences, clocks, and the ways a kernel stops itself.
//
// Cache hints mean nothing to a CPU, so those are plain accesses. All threads of a block run on one
// CPU thread: a block fence has only the compiler to hold back.
#pragma once

extern "C" {
void* malloc(size_t bytes) HMM_NOTHROW; // a kernel's own heap: memory of the device process alone, as in CUDA
void free(void* pointer) HMM_NOTHROW;
void* memcpy(void* __restrict to, const void* __restrict from, size_t bytes) HMM_NOTHROW;
void* memset(void* to, int value, size_t bytes) HMM_NOTHROW;
}

// Placement new without <new>, as in NVRTC; templates, so that <new> may define the ordinary ones.
template <class T> HMM_INLINE void* operator new(size_t, T* place) noexcept { return (void*)place; }
template <class T> HMM_INLINE void* operator new[](size_t, T* place) noexcept { return (void*)place; }

// Lets other work run while a kernel spins. The runtime may know a better way.
#ifndef HMM_YIELD
#define HMM_YIELD() hmmemu_worker_self->services->yield(hmmemu_worker_self)
#endif

// A counter that grows by about one a cycle.
static HMM_INLINE unsigned long long hmm_cycles() {
#if defined(__x86_64__) || defined(__i386__)
  return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
  unsigned long long ticks;
  __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
  return ticks;
#else
  return __builtin_readcyclecounter();
#endif
}

typedef long clock_t;
extern "C" {
HMM_C_INLINE clock_t clock(void) HMM_NOTHROW { return (clock_t)hmm_cycles(); }
}

namespace hmm_cuda {

HMM_INLINE long long clock64() { return (long long)hmm_cycles(); }

#define HMM_CACHED_LOAD(name)                                                                                \
  template <class T> HMM_INLINE T name(const T* address) { return *address; }
#define HMM_CACHED_STORE(name)                                                                               \
  template <class T> HMM_INLINE void name(T* address, T value) { *address = value; }
HMM_CACHED_LOAD(__ldg)
HMM_CACHED_LOAD(__ldca)
HMM_CACHED_LOAD(__ldcg)
HMM_CACHED_LOAD(__ldcs)
HMM_CACHED_LOAD(__ldlu)
HMM_CACHED_STORE(__stwb)
HMM_CACHED_STORE(__stcg)
HMM_CACHED_STORE(__stcs)
#undef HMM_CACHED_LOAD
#undef HMM_CACHED_STORE

// "Don't cache": these are for words that others write, so the compiler must not keep them in a
// register either.
template <class T> HMM_INLINE T __ldcv(const T* address) {
  __asm__ volatile("" ::: "memory");
  return *address;
}
template <class T> HMM_INLINE void __stwt(T* address, T value) {
  *address = value;
  __asm__ volatile("" ::: "memory");
}

HMM_INLINE void __threadfence_block() { __atomic_signal_fence(__ATOMIC_SEQ_CST); }
HMM_INLINE void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
HMM_INLINE void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// CUDA allows any time from zero to twice the one asked for.
HMM_INLINE void __nanosleep(unsigned int) { HMM_YIELD(); }

[[noreturn]] HMM_COLD inline void hmm_fail(int failure, const char* message) {
  hmm_worker* worker = hmmemu_worker_self;
  worker->services->fail(worker, failure, message);
}
[[noreturn]] HMM_INLINE void __trap() { hmm_fail(HMM_FAIL_TRAP, "__trap() was called"); }
[[noreturn]] HMM_INLINE void __brkpt(int = 0) {
  hmm_fail(HMM_FAIL_TRAP, "__brkpt() was called, and no debugger is attached");
}
HMM_INLINE void __prof_trigger(int) {}
HMM_INLINE void __prefetch_global_l1(const void* address) { __builtin_prefetch(address, 0, 3); }
HMM_INLINE void __prefetch_global_l2(const void* address) { __builtin_prefetch(address, 0, 2); }

} // namespace hmm_cuda
