// CUDA's __half and __half2 (cuda_fp16.h): 16-bit storage, arithmetic rounded to nearest even after every
// operation.
//
// Operations compute in float and round once more: with 11 significant bits that is the correctly rounded
// result. Only sources that include <cuda_fp16.h> pay for this file.
#pragma once

#ifndef __FLT16_MANT_DIG__
#error "cuda_fp16.h needs a C++ compiler with _Float16 (g++ 12 or clang 15 on x86-64, and later)"
#endif

#include "hmmemu/cuda/round_to_odd.h"

namespace hmm_cuda {
HMM_INLINE unsigned short hmm_half_bits(float x) { return __builtin_bit_cast(unsigned short, (_Float16)x); }
HMM_INLINE float hmm_half_value(unsigned short bits) { return (float)__builtin_bit_cast(_Float16, bits); }
} // namespace hmm_cuda

#define HMM_SMALL __half
#define HMM_SMALL2 __half2
#define HMM_SMALL_RAW __half_raw
#define HMM_SMALL2_RAW __half2_raw
#define HMM_NAME half
#define HMM_NAME2 half2
#define HMM_WIDE float
#define HMM_BITS hmm_cuda::hmm_half_bits
#define HMM_VALUE hmm_cuda::hmm_half_value
#include "hmmemu/cuda/small_float.h"

typedef __half half;
typedef __half2 half2;
typedef __half nv_half;
typedef __half2 nv_half2;
#define CUDART_INF_FP16 __ushort_as_half((unsigned short)0x7c00u)
#define CUDART_NAN_FP16 __ushort_as_half((unsigned short)0x7fffu)
#define CUDART_ONE_FP16 __ushort_as_half((unsigned short)0x3c00u)
#define CUDART_ZERO_FP16 __ushort_as_half((unsigned short)0x0000u)
#define CUDART_MAX_NORMAL_FP16 __ushort_as_half((unsigned short)0x7bffu)
