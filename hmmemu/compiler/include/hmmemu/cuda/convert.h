// Casts of bits and conversions with a stated rounding (__float_as_int, __float2int_rz,
// __ll2float_rd, ...).
//
// Conversions to integers saturate and turn NaN into 0, as PTX's cvt does; a plain C++ cast would
// be undefined.
#pragma once

namespace hmm_cuda {

#define HMM_BITS(name, to, from)                                                                             \
  constexpr HMM_INLINE to name(from x) { return __builtin_bit_cast(to, x); }
HMM_BITS(__float_as_int, int, float)
HMM_BITS(__float_as_uint, unsigned int, float)
HMM_BITS(__int_as_float, float, int)
HMM_BITS(__uint_as_float, float, unsigned int)
HMM_BITS(__double_as_longlong, long long, double)
HMM_BITS(__longlong_as_double, double, long long)
#undef HMM_BITS
HMM_INLINE int __double2hiint(double x) { return (int)(__double_as_longlong(x) >> 32); }
HMM_INLINE int __double2loint(double x) { return (int)__double_as_longlong(x); }
HMM_INLINE double __hiloint2double(int high, int low) {
  return __longlong_as_double((long long)((unsigned long long)(unsigned int)high << 32 | (unsigned int)low));
}

template <hmm_mode mode, class F> HMM_INLINE F hmm_whole(F x) {
  constexpr bool single = sizeof(F) == sizeof(float);
  if constexpr (mode == hmm_mode::nearest)
    return single ? __builtin_rintf(x) : __builtin_rint(x);
  else if constexpr (mode == hmm_mode::zero)
    return single ? __builtin_truncf(x) : __builtin_trunc(x);
  else if constexpr (mode == hmm_mode::up)
    return single ? __builtin_ceilf(x) : __builtin_ceil(x);
  else
    return single ? __builtin_floorf(x) : __builtin_floor(x);
}
// From a float to integer I, saturating.
template <class I, hmm_mode mode, class F> HMM_INLINE I hmm_to_integer(F x) {
  constexpr bool is_signed = (I)-1 < (I)0;
  constexpr int bits = 8 * sizeof(I) - is_signed;
  constexpr I greatest = (I)(~0ull >> (64 - bits));
  constexpr F end = (F)2 * (F)(1ull << (bits - 1)); // first value too large, exact
  constexpr F least = is_signed ? -end : (F)0;
  F whole = hmm_whole<mode>(x);
  if (whole >= end) return greatest;
  if (whole >= least) return (I)whole;
  return whole != whole ? (I)0 : (I)least;
}
template <class F, hmm_mode mode, class I> HMM_INLINE F hmm_from_integer(I x) {
  F nearest = (F)x;
  if constexpr (mode == hmm_mode::nearest) return nearest;
  __int128 difference = (__int128)x - (__int128)nearest;
  return hmm_round_to(nearest, difference > 0 ? 1 : difference < 0 ? -1 : 0, mode);
}

#define HMM_MODES(macro, ...)                                                                                \
  macro(rn, nearest, __VA_ARGS__) macro(rz, zero, __VA_ARGS__) macro(ru, up, __VA_ARGS__)                    \
      macro(rd, down, __VA_ARGS__)
#define HMM_TO(suffix, mode, name, I, F)                                                                     \
  HMM_INLINE I name##_##suffix(F x) { return hmm_to_integer<I, hmm_mode::mode>(x); }
#define HMM_FROM(suffix, mode, name, F, I)                                                                   \
  HMM_INLINE F name##_##suffix(I x) { return hmm_from_integer<F, hmm_mode::mode>(x); }
HMM_MODES(HMM_TO, __float2int, int, float)
HMM_MODES(HMM_TO, __float2uint, unsigned int, float)
HMM_MODES(HMM_TO, __float2ll, long long, float)
HMM_MODES(HMM_TO, __float2ull, unsigned long long, float)
HMM_MODES(HMM_TO, __double2int, int, double)
HMM_MODES(HMM_TO, __double2uint, unsigned int, double)
HMM_MODES(HMM_TO, __double2ll, long long, double)
HMM_MODES(HMM_TO, __double2ull, unsigned long long, double)
HMM_MODES(HMM_FROM, __int2float, float, int)
HMM_MODES(HMM_FROM, __uint2float, float, unsigned int)
HMM_MODES(HMM_FROM, __ll2float, float, long long)
HMM_MODES(HMM_FROM, __ull2float, float, unsigned long long)
HMM_MODES(HMM_FROM, __ll2double, double, long long)
HMM_MODES(HMM_FROM, __ull2double, double, unsigned long long)
HMM_FROM(rn, nearest, __int2double, double, int)
HMM_FROM(rn, nearest, __uint2double, double, unsigned int)
HMM_INLINE float __double2float_rn(double x) { return (float)x; }
HMM_INLINE float __double2float_rz(double x) { return hmm_exact_to<float>(x, (float)x, hmm_mode::zero); }
HMM_INLINE float __double2float_ru(double x) { return hmm_exact_to<float>(x, (float)x, hmm_mode::up); }
HMM_INLINE float __double2float_rd(double x) { return hmm_exact_to<float>(x, (float)x, hmm_mode::down); }
#undef HMM_TO
#undef HMM_FROM
#undef HMM_MODES

} // namespace hmm_cuda
