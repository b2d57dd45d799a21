// CUDA's approximate functions (__sinf, __expf, ...). A CPU gains nothing from CUDA's
// approximations, so these are the full functions: always at least as near as CUDA promises. The
// names are `extern "C"` because glibc's <math.h> declares some of them (and then exports none).
#pragma once

extern "C" {
HMM_C_INLINE float __sinf(float x) HMM_NOTHROW { return sinf(x); }
HMM_C_INLINE float __cosf(float x) HMM_NOTHROW { return cosf(x); }
HMM_C_INLINE float __tanf(float x) HMM_NOTHROW { return tanf(x); }
HMM_C_INLINE float __tanhf(float x) HMM_NOTHROW { return tanhf(x); }
HMM_C_INLINE float __expf(float x) HMM_NOTHROW { return expf(x); }
HMM_C_INLINE float __exp10f(float x) HMM_NOTHROW { return exp10f(x); }
HMM_C_INLINE float __logf(float x) HMM_NOTHROW { return logf(x); }
HMM_C_INLINE float __log2f(float x) HMM_NOTHROW { return log2f(x); }
HMM_C_INLINE float __log10f(float x) HMM_NOTHROW { return log10f(x); }
HMM_C_INLINE float __powf(float x, float y) HMM_NOTHROW { return powf(x, y); }
HMM_C_INLINE void __sincosf(float x, float* sine, float* cosine) HMM_NOTHROW { sincosf(x, sine, cosine); }
}

namespace hmm_cuda {

HMM_INLINE float __fdividef(float x, float y) { return x / y; }
HMM_INLINE float fdividef(float x, float y) { return x / y; }
// Into [0, 1]; NaN becomes 0.
HMM_INLINE float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

} // namespace hmm_cuda
