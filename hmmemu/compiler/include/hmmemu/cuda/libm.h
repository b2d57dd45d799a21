// The C library's mathematics, declared by hand and as glibc declares it.
//
// With g++ on x86-64 glibc the functions that libmvec has carry a vector variant, so that a loop
// over threads that calls expf still vectorises (link with -lmvec). libmvec is within 4 ulp, as
// CUDA's own functions are within 1 to 9. HMMEMU_STRICT_MATH leaves only the scalar functions: same
// result alone or in a loop. Functions that a CPU has an instruction for, but that g++ would call
// for the sake of a NaN's last bit or errno, have bodies here.
#pragma once

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) &&                 \
    !defined(HMMEMU_STRICT_MATH)
#define HMM_VECTOR_MATH 1
#define HMM_SIMD __attribute__((const, simd("notinbranch")))
#if __GLIBC__ > 2 || __GLIBC_MINOR__ >= 35
#define HMM_SIMD_2_35 HMM_SIMD
#endif
#endif
#ifndef HMM_SIMD
#define HMM_SIMD
#endif
#ifndef HMM_SIMD_2_35
#define HMM_SIMD_2_35
#endif

#define HMM_F1(attribute, name)                                                                              \
  attribute double name(double x) HMM_NOTHROW;                                                               \
  attribute float name##f(float x) HMM_NOTHROW;
#define HMM_F2(attribute, name)                                                                              \
  attribute double name(double x, double y) HMM_NOTHROW;                                                     \
  attribute float name##f(float x, float y) HMM_NOTHROW;

extern "C" {
// in libmvec since 2.22, and since 2.35
HMM_F1(HMM_SIMD, sin)
HMM_F1(HMM_SIMD, exp)
HMM_F1(HMM_SIMD, log)
HMM_F2(HMM_SIMD, pow)
HMM_F1(HMM_SIMD_2_35, acos)
HMM_F1(HMM_SIMD_2_35, acosh)
HMM_F1(HMM_SIMD_2_35, asin)
HMM_F1(HMM_SIMD_2_35, asinh)
HMM_F1(HMM_SIMD_2_35, atan)
HMM_F1(HMM_SIMD_2_35, atanh)
HMM_F2(HMM_SIMD_2_35, atan2)
HMM_F1(HMM_SIMD_2_35, cbrt)
HMM_F1(HMM_SIMD_2_35, cosh)
HMM_F1(HMM_SIMD_2_35, erf)
HMM_F1(HMM_SIMD_2_35, erfc)
HMM_F1(HMM_SIMD_2_35, exp10)
HMM_F1(HMM_SIMD_2_35, exp2)
HMM_F1(HMM_SIMD_2_35, expm1)
HMM_F2(HMM_SIMD_2_35, hypot)
HMM_F1(HMM_SIMD_2_35, log10)
HMM_F1(HMM_SIMD_2_35, log1p)
HMM_F1(HMM_SIMD_2_35, log2)
HMM_F1(HMM_SIMD_2_35, sinh)
HMM_F1(HMM_SIMD_2_35, tan)
HMM_F1(HMM_SIMD_2_35, tanh)

// g++ turns sin and cos of one angle into one call of sincos, which has no vector variant. Times a one that
// it cannot see through, the cosine's angle is another one.
HMM_F1(HMM_SIMD, cos)
#ifdef HMM_VECTOR_MATH
HMM_C_INLINE double cos(double x) HMM_NOTHROW {
  return __builtin_cos(__builtin_constant_p(x) ? x : x * hmm_one_double);
}
HMM_C_INLINE float cosf(float x) HMM_NOTHROW {
  return __builtin_cosf(__builtin_constant_p(x) ? x : x * hmm_one_float);
}
#endif
HMM_C_INLINE void sincos(double x, double* sine, double* cosine) HMM_NOTHROW {
  *sine = sin(x);
  *cosine = cos(x);
}
HMM_C_INLINE void sincosf(float x, float* sine, float* cosine) HMM_NOTHROW {
  *sine = sinf(x);
  *cosine = cosf(x);
}

// scalar only
HMM_F1(, ceil)
HMM_F1(, fabs)
HMM_F1(, floor)
HMM_F1(, j0)
HMM_F1(, j1)
HMM_F1(, lgamma)
HMM_F1(, logb)
HMM_F1(, nearbyint)
HMM_F1(, rint)
HMM_F1(, round)
HMM_F1(, sqrt)
HMM_F1(, tgamma)
HMM_F1(, trunc)
HMM_F1(, y0)
HMM_F1(, y1)
HMM_F2(, copysign)
HMM_F2(, fdim)
HMM_F2(, fmod)
HMM_F2(, nextafter)
HMM_F2(, remainder)
double fma(double x, double y, double z) HMM_NOTHROW;
float fmaf(float x, float y, float z) HMM_NOTHROW;
double frexp(double x, int* exponent) HMM_NOTHROW;
float frexpf(float x, int* exponent) HMM_NOTHROW;
double ldexp(double x, int exponent) HMM_NOTHROW;
float ldexpf(float x, int exponent) HMM_NOTHROW;
double scalbn(double x, int exponent) HMM_NOTHROW;
float scalbnf(float x, int exponent) HMM_NOTHROW;
double scalbln(double x, long exponent) HMM_NOTHROW;
float scalblnf(float x, long exponent) HMM_NOTHROW;
double modf(double x, double* whole) HMM_NOTHROW;
float modff(float x, float* whole) HMM_NOTHROW;
double remquo(double x, double y, int* quotient) HMM_NOTHROW;
float remquof(float x, float y, int* quotient) HMM_NOTHROW;
double jn(int order, double x) HMM_NOTHROW;
float jnf(int order, float x) HMM_NOTHROW;
double yn(int order, double x) HMM_NOTHROW;
float ynf(int order, float x) HMM_NOTHROW;
double nan(const char* tag) HMM_NOTHROW;
float nanf(const char* tag) HMM_NOTHROW;
int ilogb(double x) HMM_NOTHROW;
int ilogbf(float x) HMM_NOTHROW;
long lrint(double x) HMM_NOTHROW;
long lrintf(float x) HMM_NOTHROW;
long lround(double x) HMM_NOTHROW;
long lroundf(float x) HMM_NOTHROW;
long long llrint(double x) HMM_NOTHROW;
long long llrintf(float x) HMM_NOTHROW;
long long llround(double x) HMM_NOTHROW;
long long llroundf(float x) HMM_NOTHROW;
int abs(int x) HMM_NOTHROW;
long labs(long x) HMM_NOTHROW;
long long llabs(long long x) HMM_NOTHROW;

// A NaN loses to a number. Written as a comparison, these vectorise; libm's would be calls.
HMM_C_INLINE double fmax(double x, double y) HMM_NOTHROW { return x > y || y != y ? x : y; }
HMM_C_INLINE float fmaxf(float x, float y) HMM_NOTHROW { return x > y || y != y ? x : y; }
HMM_C_INLINE double fmin(double x, double y) HMM_NOTHROW { return x < y || y != y ? x : y; }
HMM_C_INLINE float fminf(float x, float y) HMM_NOTHROW { return x < y || y != y ? x : y; }
} // extern "C"

#undef HMM_F1
#undef HMM_F2

// In CUDA these come with its own headers; the same tokens as in glibc's, so that <math.h> may
// repeat them.
#define INFINITY (__builtin_inff())
#define NAN (__builtin_nanf(""))
