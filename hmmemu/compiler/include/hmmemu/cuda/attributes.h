// CUDA's keywords as the C++ compiler sees them, and the few macros by which this library writes
// its functions.
//
// The kernel compiler rewrites what needs rewriting (__global__, __shared__, __constant__,
// __managed__) and may define any of these first: all definitions here give way. They stay defined
// for the user's source.
#pragma once

// Predefined by NVRTC. 7.5 is the oldest architecture that our sources are checked for; kernels
// that ask get the code path with the fewest special instructions.
#ifndef __CUDACC__
#define __CUDACC__ 1
#endif
#ifndef __CUDACC_RTC__
#define __CUDACC_RTC__ 1
#endif
#ifndef __CUDACC_VER_MAJOR__
#define __CUDACC_VER_MAJOR__ 12
#define __CUDACC_VER_MINOR__ 4
#define __CUDACC_VER_BUILD__ 0
#endif
#ifndef CUDART_VERSION
#define CUDART_VERSION 12040
#endif
#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 750
#endif
#ifndef __HMMEMU__
#define __HMMEMU__ 1 // the only way for a source to know that it runs on a CPU
#endif

#ifndef __global__
#define __global__
#endif
#ifndef __device__
#define __device__
#endif
#ifndef __host__
#define __host__
#endif
#ifndef __shared__
#define __shared__
#endif
#ifndef __constant__
#define __constant__
#endif
#ifndef __managed__
#define __managed__
#endif
#ifndef __grid_constant__
#define __grid_constant__
#endif
#ifndef __launch_bounds__
#define __launch_bounds__(...)
#endif
#ifndef __maxnreg__
#define __maxnreg__(...)
#endif
#ifndef __cluster_dims__
#define __cluster_dims__(...)
#endif
#ifndef __nv_pure__
#define __nv_pure__ __attribute__((pure))
#endif
#ifndef __forceinline__
#define __forceinline__ inline __attribute__((always_inline))
#endif
#ifndef __align__
#define __align__(n) __attribute__((aligned(n)))
#endif
#ifndef __builtin_align__
#define __builtin_align__(n) __align__(n)
#endif
#ifndef __device_builtin__
#define __device_builtin__
#endif
#ifndef __cudart_builtin__
#define __cudart_builtin__
#endif
// libstdc++ and compilers also write __attribute__((__noinline__)), so no macro can be an attribute
// here. Empty is valid in both places and loses only a hint; the kernel compiler may put the
// attribute into the user's own text.
#ifndef __noinline__
#define __noinline__
#endif

// clang has __builtin_assume of its own.
#if !defined(__clang__) && !defined(__builtin_assume)
#define __builtin_assume(condition) ((condition) ? (void)0 : __builtin_unreachable())
#endif
#ifndef __assume
#define __assume(condition) __builtin_assume(condition)
#endif

// -- for this library only --
#define HMM_INLINE inline __attribute__((always_inline))
// A body of ours for a function that libc declares too: used wherever the call is seen, never
// emitted.
#define HMM_C_INLINE extern inline __attribute__((gnu_inline, always_inline))
#define HMM_COLD __attribute__((noinline, cold))
#ifdef __GLIBC__
#define HMM_NOTHROW noexcept(true) // as glibc declares its functions; other C libraries leave it out
#else
#define HMM_NOTHROW
#endif
