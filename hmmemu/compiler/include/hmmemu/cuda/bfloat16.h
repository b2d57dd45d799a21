// CUDA's __nv_bfloat16 and __nv_bfloat162 (cuda_bf16.h): the upper half of a float, rounded to nearest even.
//
// Operations compute in double, since a product may underflow in float. Only sources that include
// <cuda_bf16.h> pay for this file.
#pragma once

#include "hmmemu/cuda/round_to_odd.h"

namespace hmm_cuda {
HMM_INLINE unsigned short hmm_bfloat16_bits(float x) {
  unsigned int bits = __float_as_uint(x);
  if (x != x) return 0x7fff;
  return (unsigned short)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}
HMM_INLINE float hmm_bfloat16_value(unsigned short bits) { return __uint_as_float((unsigned int)bits << 16); }
} // namespace hmm_cuda

#define HMM_SMALL __nv_bfloat16
#define HMM_SMALL2 __nv_bfloat162
#define HMM_SMALL_RAW __nv_bfloat16_raw
#define HMM_SMALL2_RAW __nv_bfloat162_raw
#define HMM_NAME bfloat16
#define HMM_NAME2 bfloat162
#define HMM_WIDE double
#define HMM_BITS hmm_cuda::hmm_bfloat16_bits
#define HMM_VALUE hmm_cuda::hmm_bfloat16_value
#include "hmmemu/cuda/small_float.h"

typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;
#define CUDART_INF_BF16 __ushort_as_bfloat16((unsigned short)0x7f80u)
#define CUDART_NAN_BF16 __ushort_as_bfloat16((unsigned short)0x7fffu)
#define CUDART_ONE_BF16 __ushort_as_bfloat16((unsigned short)0x3f80u)
#define CUDART_ZERO_BF16 __ushort_as_bfloat16((unsigned short)0x0000u)
