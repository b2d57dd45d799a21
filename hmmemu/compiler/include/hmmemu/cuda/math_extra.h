// CUDA's functions that the C library has not, or not everywhere: rsqrt, sinpi, norms, exp10 and
// friends.
//
// Each name comes as CUDA has it: `xf(float)`, and an overloaded `x`. Errors stay within those CUDA
// states (Programming Guide, "Mathematical Functions"); tests/unit/test_cudalib_math.py says how
// far off each one may be.
#pragma once

namespace hmm_cuda {

// hmm_rsqrt(float) and hmm_rsqrt(double) become rsqrtf and rsqrt.
#define HMM_FUNCTION1(name)                                                                                  \
  template <int = 0> HMM_INLINE float name##f(float x) { return hmm_##name(x); }                             \
  template <class... A> HMM_INLINE hmm_real<1, A...> name(A... a) {                                          \
    return hmm_##name((hmm_real<1, A...>)a...);                                                              \
  }
#define HMM_FUNCTION2(name)                                                                                  \
  template <int = 0> HMM_INLINE float name##f(float x, float y) { return hmm_##name(x, y); }                 \
  template <class... A> HMM_INLINE hmm_real<2, A...> name(A... a) {                                          \
    return hmm_##name((hmm_real<2, A...>)a...);                                                              \
  }

HMM_INLINE float hmm_rsqrt(float x) { return 1.0f / sqrtf(x); }
HMM_INLINE double hmm_rsqrt(double x) { return 1.0 / ::sqrt(x); }
HMM_INLINE float hmm_rcbrt(float x) { return 1.0f / cbrtf(x); }
HMM_INLINE double hmm_rcbrt(double x) { return 1.0 / ::cbrt(x); }
HMM_FUNCTION1(rsqrt)
HMM_FUNCTION1(rcbrt)

// sin(pi x) and cos(pi x): x is brought into [-1/2, 1/2], where nothing is rounded, so that whole and half
// numbers come out exactly. One sine and no branch, so that loops vectorise.
HMM_INLINE double hmm_sine_of_half_turns(double r) { // r in [-1, 1]
  double folded = ::fabs(r) > 0.5 ? ::copysign(1.0, r) - r : r;
  return ::sin(3.14159265358979323846 * folded);
}
HMM_INLINE double hmm_modulo_two(double x) { // into [-1, 1]; a zero keeps the sign of x
  double r = x - 2.0 * __builtin_rint(0.5 * x);
  return r == 0 ? ::copysign(r, x) : r;
}
HMM_INLINE double hmm_sinpi(double x) { return hmm_sine_of_half_turns(hmm_modulo_two(x)); }
HMM_INLINE double hmm_cospi(double x) { return hmm_sine_of_half_turns(0.5 - ::fabs(hmm_modulo_two(x))); }
HMM_INLINE float hmm_sinpi(float x) { return (float)hmm_sinpi((double)x); }
HMM_INLINE float hmm_cospi(float x) { return (float)hmm_cospi((double)x); }
HMM_FUNCTION1(sinpi)
HMM_FUNCTION1(cospi)

template <int = 0> HMM_INLINE void sincospi(double x, double* sine, double* cosine) {
  *sine = hmm_sinpi(x);
  *cosine = hmm_cospi(x);
}
template <int = 0> HMM_INLINE void sincospif(float x, float* sine, float* cosine) {
  *sine = hmm_sinpi(x);
  *cosine = hmm_cospi(x);
}
template <int = 0> HMM_INLINE void sincospi(float x, float* sine, float* cosine) {
  sincospif(x, sine, cosine);
}

HMM_INLINE float hmm_fdivide(float x, float y) { return x / y; }
HMM_INLINE double hmm_fdivide(double x, double y) { return x / y; }
HMM_INLINE float hmm_rhypot(float x, float y) { return 1.0f / hypotf(x, y); }
HMM_INLINE double hmm_rhypot(double x, double y) { return 1.0 / ::hypot(x, y); }
HMM_FUNCTION2(fdivide)
HMM_FUNCTION2(rhypot)

// Norms: no overflow or underflow on the way. Floats are summed in double, doubles scaled by a
// power of two.
template <class... T> HMM_INLINE float hmm_norm(float x, T... rest) {
  return (float)::sqrt((double)x * x + (... + ((double)rest * rest)));
}
template <class... T> HMM_INLINE double hmm_norm(double x, T... rest) {
  double largest = ::fabs(x);
  ((largest = ::fmax(largest, ::fabs(rest))), ...);
  bool infinite = __builtin_isinf(x) || (... || __builtin_isinf(rest));
  if (infinite) return INFINITY;
  if (largest == 0) return x + (... + rest); // 0, or NaN where one is
  int exponent = ::ilogb(largest);
  double s = ::ldexp(x, -exponent), sum = s * s;
  ((s = ::ldexp(rest, -exponent), sum = ::fma(s, s, sum)), ...);
  return ::ldexp(::sqrt(sum), exponent);
}
template <class T> HMM_INLINE T hmm_norm_of(int count, const T* x) {
  T largest = 0;
  for (int i = 0; i < count; ++i) {
    if (__builtin_isinf(x[i])) return (T)INFINITY;
    largest = hmm_max(largest, hmm_abs(x[i]));
  }
  int exponent = largest > 0 ? ::ilogb((double)largest) : 0;
  double sum = 0;
  for (int i = 0; i < count; ++i) {
    double s = ::ldexp((double)x[i], -exponent);
    sum += s * s;
  }
  return (T)::ldexp(::sqrt(sum), exponent);
}
HMM_INLINE float norm3df(float a, float b, float c) { return hmm_norm(a, b, c); }
HMM_INLINE double norm3d(double a, double b, double c) { return hmm_norm(a, b, c); }
HMM_INLINE float rnorm3df(float a, float b, float c) { return 1.0f / hmm_norm(a, b, c); }
HMM_INLINE double rnorm3d(double a, double b, double c) { return 1.0 / hmm_norm(a, b, c); }
HMM_INLINE float norm4df(float a, float b, float c, float d) { return hmm_norm(a, b, c, d); }
HMM_INLINE double norm4d(double a, double b, double c, double d) { return hmm_norm(a, b, c, d); }
HMM_INLINE float rnorm4df(float a, float b, float c, float d) { return 1.0f / hmm_norm(a, b, c, d); }
HMM_INLINE double rnorm4d(double a, double b, double c, double d) { return 1.0 / hmm_norm(a, b, c, d); }
HMM_INLINE float normf(int count, const float* x) { return hmm_norm_of(count, x); }
HMM_INLINE double norm(int count, const double* x) { return hmm_norm_of(count, x); }
HMM_INLINE float rnormf(int count, const float* x) { return 1.0f / hmm_norm_of(count, x); }
HMM_INLINE double rnorm(int count, const double* x) { return 1.0 / hmm_norm_of(count, x); }

} // namespace hmm_cuda
