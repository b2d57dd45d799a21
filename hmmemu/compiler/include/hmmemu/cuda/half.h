// CUDA's __half and __half2 (cuda_fp16.h): 16-bit storage, arithmetic rounded to nearest even after every
// operation.
//
// Operations compute in float (fma in double) and round once more: with 11 significant bits that is the
// correctly rounded result. Only sources that include <cuda_fp16.h> pay for this file.
#pragma once

#ifndef __FLT16_MANT_DIG__
#error "cuda_fp16.h needs a C++ compiler with _Float16 (g++ 12 or clang 15 on x86-64, and later)"
#endif

#define HMM_SMALL __half
#define HMM_SMALL2 __half2
#define HMM_SMALL_RAW __half_raw
#define HMM_SMALL2_RAW __half2_raw

namespace hmm_cuda {
HMM_INLINE unsigned short hmm_half_bits(float x) { return __builtin_bit_cast(unsigned short, (_Float16)x); }
HMM_INLINE float hmm_half_value(unsigned short bits) { return (float)__builtin_bit_cast(_Float16, bits); }
// From double in one rounding: to odd in float first, so that the second rounding sees what the first
// dropped.
HMM_INLINE unsigned short hmm_half_bits(double x) {
  float toward_zero = __double2float_rz(x);
  unsigned int bits = __float_as_uint(toward_zero);
  if ((double)toward_zero != x && x == x) bits |= 1;
  return hmm_half_bits(__uint_as_float(bits));
}
} // namespace hmm_cuda

struct __half_raw {
  unsigned short x;
};
struct __half2_raw {
  unsigned short x, y;
};

struct __attribute__((aligned(2))) __half {
  unsigned short __x;

  __half() = default;
  constexpr __half(const __half_raw& raw) : __x(raw.x) {}
  HMM_INLINE __half(float x) : __x(hmm_cuda::hmm_half_bits(x)) {}
  HMM_INLINE __half(double x) : __x(hmm_cuda::hmm_half_bits(x)) {}
#define HMM_FROM_INTEGER(T)                                                                                  \
  HMM_INLINE __half(T x) : __x(hmm_cuda::hmm_half_bits((double)x)) {}
  HMM_FROM_INTEGER(short)
  HMM_FROM_INTEGER(unsigned short)
  HMM_FROM_INTEGER(int)
  HMM_FROM_INTEGER(unsigned int)
  HMM_FROM_INTEGER(long)
  HMM_FROM_INTEGER(unsigned long)
  HMM_FROM_INTEGER(long long)
  HMM_FROM_INTEGER(unsigned long long)
#undef HMM_FROM_INTEGER
  template <class T> HMM_INLINE __half& operator=(T x) { return *this = __half(x); }
  constexpr operator __half_raw() const { return {__x}; }
  HMM_INLINE operator float() const { return hmm_cuda::hmm_half_value(__x); }
  HMM_INLINE explicit operator bool() const { return (__x & 0x7fff) != 0; }
};

#include "hmmemu/cuda/small_float.h"

namespace hmm_cuda {

HMM_INLINE __half __float2half(float x) { return __half(x); }
HMM_INLINE __half __float2half_rn(float x) { return __half(x); }
HMM_INLINE __half __double2half(double x) { return __half(x); }
HMM_INLINE float __half2float(__half x) { return (float)x; }
HMM_INLINE unsigned short __half_as_ushort(__half x) { return x.__x; }
HMM_INLINE short __half_as_short(__half x) { return (short)x.__x; }
HMM_INLINE __half __ushort_as_half(unsigned short bits) { return __half_raw{bits}; }
HMM_INLINE __half __short_as_half(short bits) { return __half_raw{(unsigned short)bits}; }
HMM_INLINE __half2 __floats2half2_rn(float low, float high) { return {__half(low), __half(high)}; }
HMM_INLINE __half2 __float22half2_rn(float2 v) { return {__half(v.x), __half(v.y)}; }
HMM_INLINE __half2 __float2half2_rn(float x) { return {__half(x), __half(x)}; }
HMM_INLINE float2 __half22float2(__half2 v) { return {(float)v.x, (float)v.y}; }
HMM_INLINE __half2 __half2half2(__half x) { return {x, x}; }
HMM_INLINE __half2 make_half2(__half x, __half y) { return {x, y}; }

// A float rounded to half in a mode: the neighbour where the nearest lies on the wrong side.
// Magnitudes of one sign are in the order of their bits.
inline __half hmm_half_in(float x, hmm_mode mode) {
  __half nearest(x);
  float value = nearest;
  if (!(x - x == 0) || value == x) return nearest;
  bool grew = __builtin_fabsf(value) > __builtin_fabsf(x);
  bool negative = x < 0;
  bool wants_larger = mode == hmm_mode::up ? !negative : mode == hmm_mode::down && negative;
  if (grew && !wants_larger) return __half_raw{(unsigned short)(nearest.__x - 1)};
  if (!grew && wants_larger) return __half_raw{(unsigned short)(nearest.__x + 1)};
  return nearest;
}
HMM_INLINE __half __float2half_rz(float x) { return hmm_half_in(x, hmm_mode::zero); }
HMM_INLINE __half __float2half_ru(float x) { return hmm_half_in(x, hmm_mode::up); }
HMM_INLINE __half __float2half_rd(float x) { return hmm_half_in(x, hmm_mode::down); }

// Integers: to them saturating as all conversions of CUDA, from them to nearest.
#define HMM_HALF_TO(name, T)                                                                                 \
  HMM_INLINE T __half2##name##_rn(__half x) { return hmm_to_integer<T, hmm_mode::nearest>((float)x); }       \
  HMM_INLINE T __half2##name##_rz(__half x) { return hmm_to_integer<T, hmm_mode::zero>((float)x); }          \
  HMM_INLINE T __half2##name##_ru(__half x) { return hmm_to_integer<T, hmm_mode::up>((float)x); }            \
  HMM_INLINE T __half2##name##_rd(__half x) { return hmm_to_integer<T, hmm_mode::down>((float)x); }          \
  HMM_INLINE __half __##name##2half_rn(T x) { return __half((double)x); }
HMM_HALF_TO(short, short)
HMM_HALF_TO(ushort, unsigned short)
HMM_HALF_TO(int, int)
HMM_HALF_TO(uint, unsigned int)
HMM_HALF_TO(ll, long long)
HMM_HALF_TO(ull, unsigned long long)
#undef HMM_HALF_TO

} // namespace hmm_cuda

typedef __half half;
typedef __half2 half2;
typedef __half nv_half;
typedef __half2 nv_half2;
#define CUDART_INF_FP16 __ushort_as_half((unsigned short)0x7c00u)
#define CUDART_NAN_FP16 __ushort_as_half((unsigned short)0x7fffu)
#define CUDART_ONE_FP16 __ushort_as_half((unsigned short)0x3c00u)
#define CUDART_ZERO_FP16 __ushort_as_half((unsigned short)0x0000u)
#define CUDART_MAX_NORMAL_FP16 __ushort_as_half((unsigned short)0x7bffu)
