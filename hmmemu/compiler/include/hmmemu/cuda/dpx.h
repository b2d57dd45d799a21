// CUDA's functions for dynamic programming (DPX): maxima and minima of three, of a sum and a value, with a
// floor at zero; on 32-bit integers and on pairs of 16-bit ones. Sums wrap, as in CUDA.
#pragma once

namespace hmm_cuda {

template <class T> HMM_INLINE T hmm_wrapped_sum(T a, T b) { return (T)((unsigned int)a + (unsigned int)b); }

// Applies `f` to both halfwords (of type T) of a, b and c.
template <class T, class F>
HMM_INLINE unsigned int hmm_halfwords(unsigned int a, unsigned int b, unsigned int c, F f) {
  unsigned int low = (unsigned short)f((T)a, (T)b, (T)c);
  unsigned int high = (unsigned short)f((T)(a >> 16), (T)(b >> 16), (T)(c >> 16));
  return high << 16 | low;
}

// `name_s32` and the like from one expression of a, b, c of type T.
#define HMM_DPX_32(name, T, suffix, expression)                                                              \
  HMM_INLINE T __vi##name##_##suffix(T a, T b, T c) { return expression; }
#define HMM_DPX_16(name, T, suffix, expression)                                                              \
  HMM_INLINE unsigned int __vi##name##_##suffix(unsigned int x, unsigned int y, unsigned int z) {            \
    return hmm_halfwords<T>(x, y, z, [](T a, T b, T c) -> T { return expression; });                         \
  }
#define HMM_DPX(name, expression)                                                                            \
  HMM_DPX_32(name, int, s32, expression)                                                                     \
  HMM_DPX_32(name, unsigned int, u32, expression)                                                            \
  HMM_DPX_16(name, short, s16x2, expression)                                                                 \
  HMM_DPX_16(name, unsigned short, u16x2, expression)
#define HMM_DPX_RELU(name, expression)                                                                       \
  HMM_DPX_32(name, int, s32_relu, hmm_max(expression, 0))                                                    \
  HMM_DPX_16(name, short, s16x2_relu, hmm_max<short>(expression, 0))
HMM_DPX(max3, hmm_max(hmm_max(a, b), c))
HMM_DPX(min3, hmm_min(hmm_min(a, b), c))
HMM_DPX(addmax, hmm_max(hmm_wrapped_sum(a, b), c))
HMM_DPX(addmin, hmm_min(hmm_wrapped_sum(a, b), c))
HMM_DPX_RELU(max3, hmm_max(hmm_max(a, b), c))
HMM_DPX_RELU(min3, hmm_min(hmm_min(a, b), c))
HMM_DPX_RELU(addmax, hmm_max(hmm_wrapped_sum(a, b), c))
HMM_DPX_RELU(addmin, hmm_min(hmm_wrapped_sum(a, b), c))
#undef HMM_DPX
#undef HMM_DPX_RELU
#undef HMM_DPX_16
#undef HMM_DPX_32

HMM_INLINE int __vimax_s32_relu(int a, int b) { return __vimax3_s32(a, b, 0); }
HMM_INLINE int __vimin_s32_relu(int a, int b) { return hmm_max(hmm_min(a, b), 0); }
HMM_INLINE unsigned int __vimax_s16x2_relu(unsigned int a, unsigned int b) { return __vimax3_s16x2(a, b, 0); }
HMM_INLINE unsigned int __vimin_s16x2_relu(unsigned int a, unsigned int b) {
  return __vimin3_s16x2_relu(a, b, b);
}

// Which of the two it was: true for the first, also where both are equal.
template <class T> HMM_INLINE T hmm_max_of(T a, T b, bool* first) { return (*first = a >= b) ? a : b; }
template <class T> HMM_INLINE T hmm_min_of(T a, T b, bool* first) { return (*first = a <= b) ? a : b; }
HMM_INLINE int __vibmax_s32(int a, int b, bool* first) { return hmm_max_of(a, b, first); }
HMM_INLINE int __vibmin_s32(int a, int b, bool* first) { return hmm_min_of(a, b, first); }
HMM_INLINE unsigned int __vibmax_u32(unsigned int a, unsigned int b, bool* first) {
  return hmm_max_of(a, b, first);
}
HMM_INLINE unsigned int __vibmin_u32(unsigned int a, unsigned int b, bool* first) {
  return hmm_min_of(a, b, first);
}
#define HMM_DPX_PAIR(name, T, which)                                                                         \
  HMM_INLINE unsigned int name(unsigned int a, unsigned int b, bool* first_high, bool* first_low) {          \
    unsigned int low = (unsigned short)which((T)a, (T)b, first_low);                                         \
    unsigned int high = (unsigned short)which((T)(a >> 16), (T)(b >> 16), first_high);                       \
    return high << 16 | low;                                                                                 \
  }
HMM_DPX_PAIR(__vibmax_s16x2, short, hmm_max_of)
HMM_DPX_PAIR(__vibmax_u16x2, unsigned short, hmm_max_of)
HMM_DPX_PAIR(__vibmin_s16x2, short, hmm_min_of)
HMM_DPX_PAIR(__vibmin_u16x2, unsigned short, hmm_min_of)
#undef HMM_DPX_PAIR

} // namespace hmm_cuda
