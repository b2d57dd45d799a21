// CUDA's device library for kernels that run on a CPU: everything a kernel may call that depends
// neither on who the thread is nor on other threads (those parts are in hmmemu/runtime*.h).
//
// Rules of this folder:
//  - No standard header, except the C ones abi.h needs: they would cost half a second a kernel.
//  libc and libm
//    functions are declared by hand, exactly as glibc declares them, so that a user may include any
//    header later.
//  - What libc declares too (sinf, fmaxf, clock, __sinf) is `extern "C"` in the global namespace:
//  the same entity,
//    whoever declares it, so that nothing is ambiguous.
//  - What only C++ or CUDA has (sin(float), rsqrtf, atomicAdd) lives in namespace hmm_cuda, opened
//  by a using directive.
//    Overloads that the standard library or a newer libm has as well are templates, because a
//    template loses to an ordinary function: with <cmath>, <algorithm> and `using namespace std`
//    every call stays unambiguous.
//  - Nothing here keeps state; kernels may call everything from any thread.
#pragma once

#include "hmmemu/abi.h"

#include "hmmemu/cuda/attributes.h"

#include "hmmemu/cuda/vector_types.h"

#include "hmmemu/cuda/memory.h"

#include "hmmemu/cuda/opaque.h"

#include "hmmemu/cuda/libm.h"

#include "hmmemu/cuda/math_overloads.h"

#include "hmmemu/cuda/math_extra.h"

#include "hmmemu/cuda/math_special.h"

#include "hmmemu/cuda/fast_math.h"

#include "hmmemu/cuda/rounding.h"

#include "hmmemu/cuda/convert.h"

#include "hmmemu/cuda/integer.h"

#include "hmmemu/cuda/packed.h"

#include "hmmemu/cuda/dpx.h"

#include "hmmemu/cuda/atomics.h"

#include "hmmemu/cuda/print.h"

using namespace hmm_cuda;

// `::atomicMax` means CUDA's beside an overload of the user's own, too: a name that is declared here hides
// what the line above brings.
#define HMM_HERE(name)                                                                                       \
  using hmm_cuda::name;                                                                                      \
  using hmm_cuda::name##_block;                                                                              \
  using hmm_cuda::name##_system;
HMM_HERE(atomicAdd)
HMM_HERE(atomicSub)
HMM_HERE(atomicExch)
HMM_HERE(atomicMin)
HMM_HERE(atomicMax)
HMM_HERE(atomicInc)
HMM_HERE(atomicDec)
HMM_HERE(atomicAnd)
HMM_HERE(atomicOr)
HMM_HERE(atomicXor)
HMM_HERE(atomicCAS)
