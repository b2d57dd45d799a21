// CUDA's <cuComplex.h>: complex numbers as float2 and double2, with functions and no operators.
// Quotients and absolute values are scaled, so that they overflow only where the result does.
#pragma once

typedef float2 cuFloatComplex;
typedef double2 cuDoubleComplex;
typedef cuFloatComplex cuComplex;

// REAL, its complex type, and the ends of the names: make_cuFloatComplex, cuCaddf.
#define HMM_CUCOMPLEX(REAL, C, MAKE, END)                                                                    \
  HMM_INLINE C make_##MAKE(REAL re, REAL im) {                                                               \
    C z;                                                                                                     \
    z.x = re, z.y = im;                                                                                      \
    return z;                                                                                                \
  }                                                                                                          \
  HMM_INLINE REAL cuCreal##END(C z) { return z.x; }                                                          \
  HMM_INLINE REAL cuCimag##END(C z) { return z.y; }                                                          \
  HMM_INLINE C cuConj##END(C z) { return make_##MAKE(z.x, -z.y); }                                           \
  HMM_INLINE C cuCadd##END(C a, C b) { return make_##MAKE(a.x + b.x, a.y + b.y); }                           \
  HMM_INLINE C cuCsub##END(C a, C b) { return make_##MAKE(a.x - b.x, a.y - b.y); }                           \
  HMM_INLINE C cuCmul##END(C a, C b) { return make_##MAKE(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x); }   \
  HMM_INLINE C cuCfma##END(C a, C b, C c) { return cuCadd##END(cuCmul##END(a, b), c); }                      \
  HMM_INLINE C cuCdiv##END(C a, C b) {                                                                       \
    REAL one = REAL(1) / (__builtin_fabs##END(b.x) + __builtin_fabs##END(b.y));                              \
    C u = make_##MAKE(a.x * one, a.y * one), v = make_##MAKE(b.x * one, b.y * one);                          \
    REAL scale = REAL(1) / (v.x * v.x + v.y * v.y);                                                          \
    return make_##MAKE((u.x * v.x + u.y * v.y) * scale, (u.y * v.x - u.x * v.y) * scale);                    \
  }                                                                                                          \
  HMM_INLINE REAL cuCabs##END(C z) { return __builtin_hypot##END(z.x, z.y); }

HMM_CUCOMPLEX(float, cuFloatComplex, cuFloatComplex, f)
HMM_CUCOMPLEX(double, cuDoubleComplex, cuDoubleComplex, )
#undef HMM_CUCOMPLEX

HMM_INLINE cuComplex make_cuComplex(float re, float im) { return make_cuFloatComplex(re, im); }
HMM_INLINE cuDoubleComplex cuComplexFloatToDouble(cuFloatComplex z) { return make_cuDoubleComplex(z.x, z.y); }
HMM_INLINE cuFloatComplex cuComplexDoubleToFloat(cuDoubleComplex z) {
  return make_cuFloatComplex((float)z.x, (float)z.y);
}
