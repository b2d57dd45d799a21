// Arithmetic with a stated rounding: __fadd_rd, __dmul_rz, __fsqrt_ru, __fma_rn and the rest, exact
// in every mode.
//
// The CPU's rounding mode is never touched (compilers assume that it stays "to nearest"). Instead
// the nearest result is compared with the exact one in a type twice as wide (double for float, 113
// bits for double), and moved one step where the mode asks for it. Zeros and overflows follow IEEE
// 754.
#pragma once

namespace hmm_cuda {

enum class hmm_mode { nearest, zero, up, down };

template <class F> struct hmm_wider;
template <> struct hmm_wider<float> {
  using type = double;
};
#if defined(__aarch64__)
template <> struct hmm_wider<double> {
  using type = long double;
};
#else
template <> struct hmm_wider<double> {
  using type = __float128;
};
#endif
template <class F> using hmm_wide = typename hmm_wider<F>::type;

HMM_INLINE float hmm_next(float x, int direction) {
  return nextafterf(x, direction > 0 ? INFINITY : -INFINITY);
}
HMM_INLINE double hmm_next(double x, int direction) {
  return ::nextafter(x, direction > 0 ? (double)INFINITY : -(double)INFINITY);
}

// `nearest` as `mode` would have rounded it; `side` is the sign of (exact result - nearest).
template <class F> inline F hmm_round_to(F nearest, int side, hmm_mode mode) {
  if (mode == hmm_mode::up) return side > 0 ? hmm_next(nearest, 1) : nearest;
  if (mode == hmm_mode::down) return side < 0 ? hmm_next(nearest, -1) : nearest;
  if (mode == hmm_mode::zero && nearest > 0 && side < 0) return hmm_next(nearest, -1);
  if (mode == hmm_mode::zero && nearest < 0 && side > 0) return hmm_next(nearest, 1);
  return nearest;
}
// An infinity out of finite operands lies beyond the exact result, which is finite.
template <class F> HMM_INLINE int hmm_overflow_side(F nearest) { return nearest > 0 ? -1 : 1; }
template <class W> HMM_INLINE int hmm_sign_of(W x) { return (x > 0) - (x < 0); }

// x + y = sum + error, exactly (Knuth), for finite results
template <class W> HMM_INLINE W hmm_sum_error(W x, W y, W sum) {
  W back = sum - x;
  return (x - (sum - back)) + (y - back);
}

// x + y, x and y in the wide type, exact: products of two narrow numbers fit.
template <class F> inline F hmm_add_to(hmm_wide<F> x, hmm_wide<F> y, F nearest, hmm_mode mode) {
  hmm_wide<F> sum = x + y;
  if (__builtin_isnan((double)nearest) || sum - sum != 0) return nearest;
  if (sum == 0) { // an exact zero of opposite signs is negative when rounding down
    bool negative = __builtin_signbit((double)x) || __builtin_signbit((double)y);
    return mode == hmm_mode::down && negative ? (F)-0.0 : nearest;
  }
  if (__builtin_isinf((double)nearest)) return hmm_round_to(nearest, hmm_overflow_side(nearest), mode);
  int side = sum != nearest ? hmm_sign_of(sum - nearest) : hmm_sign_of(hmm_sum_error(x, y, sum));
  return hmm_round_to(nearest, side, mode);
}

// `exact` has no rounding error: products, and quotients or roots multiplied out
template <class F> HMM_INLINE F hmm_exact_to(hmm_wide<F> exact, F nearest, hmm_mode mode) {
  if (exact - exact != 0) return nearest; // infinite or NaN operands
  if (__builtin_isinf((double)nearest)) return hmm_round_to(nearest, hmm_overflow_side(nearest), mode);
  return hmm_round_to(nearest, exact > nearest ? 1 : exact < nearest ? -1 : 0, mode);
}

// Fused multiply-add, rounded once. Not fma(): its side is judged against the exact sum below.
HMM_INLINE float hmm_fma(float x, float y, float z) { return fmaf(x, y, z); }
HMM_INLINE double hmm_fma(double x, double y, double z) { return ::fma(x, y, z); }
HMM_INLINE float hmm_sqrt(float x) { return sqrtf(x); }
HMM_INLINE double hmm_sqrt(double x) { return ::sqrt(x); }

template <class F> inline F hmm_add(F x, F y, hmm_mode mode) { return hmm_add_to<F>(x, y, x + y, mode); }
template <class F> inline F hmm_mul(F x, F y, hmm_mode mode) {
  return hmm_exact_to<F>((hmm_wide<F>)x * y, x * y, mode);
}
template <class F> inline F hmm_mul_add(F x, F y, F z, hmm_mode mode) {
  return hmm_add_to<F>((hmm_wide<F>)x * y, z, hmm_fma(x, y, z), mode);
}
template <class F> inline F hmm_div(F x, F y, hmm_mode mode) {
  F quotient = x / y;
  if (quotient - quotient != 0) { // infinite or NaN
    bool overflow = __builtin_isinf((double)quotient) && x - x == 0 && y != 0;
    return overflow ? hmm_round_to(quotient, hmm_overflow_side(quotient), mode) : quotient;
  }
  if (__builtin_isinf((double)y)) return quotient;
  int side = hmm_sign_of((hmm_wide<F>)x - (hmm_wide<F>)quotient * y);
  return hmm_round_to(quotient, y < 0 ? -side : side, mode);
}
template <class F> inline F hmm_root(F x, hmm_mode mode) {
  F root = hmm_sqrt(x);
  if (!(x > 0) || __builtin_isinf((double)x)) return root;
  return hmm_round_to(root, hmm_sign_of((hmm_wide<F>)x - (hmm_wide<F>)root * root), mode);
}

// To nearest: the plain operation, but never fused with its neighbours into an fma, which CUDA rules out for
// these and compilers do by default where the CPU has one. There, the operation is itself an fma that rounds
// once: x * y + -0, and x * 1 + y, with constants that the compiler cannot see through. Both still vectorise.
#if defined(__FMA__) || defined(__aarch64__)
HMM_INLINE float hmm_lone_mul(float x, float y) { return __builtin_fmaf(x, y, hmm_minus_zero_float); }
HMM_INLINE double hmm_lone_mul(double x, double y) { return __builtin_fma(x, y, hmm_minus_zero_double); }
HMM_INLINE float hmm_lone_add(float x, float y) { return __builtin_fmaf(x, hmm_one_float, y); }
HMM_INLINE double hmm_lone_add(double x, double y) { return __builtin_fma(x, hmm_one_double, y); }
#else
template <class F> HMM_INLINE F hmm_lone_mul(F x, F y) { return x * y; }
template <class F> HMM_INLINE F hmm_lone_add(F x, F y) { return x + y; }
#endif

#define HMM_NEAREST(F, name, parameters, expression)                                                         \
  HMM_INLINE F name##_rn parameters { return expression; }
#define HMM_DIRECTED(F, name, parameters, function, ...)                                                     \
  HMM_INLINE F name##_rz parameters { return function<F>(__VA_ARGS__, hmm_mode::zero); }                     \
  HMM_INLINE F name##_ru parameters { return function<F>(__VA_ARGS__, hmm_mode::up); }                       \
  HMM_INLINE F name##_rd parameters { return function<F>(__VA_ARGS__, hmm_mode::down); }
#define HMM_ARITHMETIC(F, p, fma_name)                                                                       \
  HMM_NEAREST(F, __##p##add, (F x, F y), hmm_lone_add(x, y))                                                 \
  HMM_NEAREST(F, __##p##sub, (F x, F y), hmm_lone_add(x, -y))                                                \
  HMM_NEAREST(F, __##p##mul, (F x, F y), hmm_lone_mul(x, y))                                                 \
  HMM_NEAREST(F, __##p##div, (F x, F y), x / y)                                                              \
  HMM_NEAREST(F, __##p##rcp, (F x), (F)1 / x)                                                                \
  HMM_NEAREST(F, __##p##sqrt, (F x), hmm_sqrt(x))                                                            \
  HMM_NEAREST(F, fma_name, (F x, F y, F z), hmm_fma(x, y, z))                                                \
  HMM_DIRECTED(F, __##p##add, (F x, F y), hmm_add, x, y)                                                     \
  HMM_DIRECTED(F, __##p##sub, (F x, F y), hmm_add, x, -y)                                                    \
  HMM_DIRECTED(F, __##p##mul, (F x, F y), hmm_mul, x, y)                                                     \
  HMM_DIRECTED(F, __##p##div, (F x, F y), hmm_div, x, y)                                                     \
  HMM_DIRECTED(F, __##p##rcp, (F x), hmm_div, (F)1, x)                                                       \
  HMM_DIRECTED(F, __##p##sqrt, (F x), hmm_root, x)                                                           \
  HMM_DIRECTED(F, fma_name, (F x, F y, F z), hmm_mul_add, x, y, z)
HMM_ARITHMETIC(float, f, __fmaf)
HMM_ARITHMETIC(double, d, __fma)
HMM_NEAREST(float, __fmaf_ieee, (float x, float y, float z), fmaf(x, y, z))
HMM_DIRECTED(float, __fmaf_ieee, (float x, float y, float z), hmm_mul_add, x, y, z)
HMM_NEAREST(float, __frsqrt, (float x), (float)(1.0 / ::sqrt((double)x)))

#undef HMM_NEAREST
#undef HMM_DIRECTED
#undef HMM_ARITHMETIC

} // namespace hmm_cuda
