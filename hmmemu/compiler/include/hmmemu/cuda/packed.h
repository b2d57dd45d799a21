// CUDA's SIMD-within-a-word intrinsics: __vadd2 works on two halfwords of an unsigned int, __vadd4
// on four bytes.
//
// One loop over lanes serves all; g++ turns it into vector instructions or plain shifts.
#pragma once

namespace hmm_cuda {

// Applies `f` to the lanes (of type T) of a and b.
template <class T, class F> HMM_INLINE unsigned int hmm_lanes(unsigned int a, unsigned int b, F f) {
  constexpr int bits = 8 * sizeof(T);
  constexpr unsigned int mask = 0xffffffffu >> (32 - bits);
  unsigned int result = 0;
  for (int shift = 0; shift < 32; shift += bits)
    result |= ((unsigned int)f((int)(T)(a >> shift), (int)(T)(b >> shift)) & mask) << shift;
  return result;
}
template <class T> HMM_INLINE int hmm_saturate(int x) {
  constexpr int bits = 8 * sizeof(T);
  constexpr int least = (T)-1 < 0 ? -(1 << (bits - 1)) : 0;
  constexpr int greatest = (T)-1 < 0 ? (1 << (bits - 1)) - 1 : (1 << bits) - 1;
  return x < least ? least : x > greatest ? greatest : x;
}
template <class T> HMM_INLINE unsigned int hmm_lane_distance_sum(unsigned int a, unsigned int b) {
  constexpr int bits = 8 * sizeof(T);
  unsigned int sum = 0;
  for (int shift = 0; shift < 32; shift += bits) {
    int x = (T)(a >> shift), y = (T)(b >> shift);
    sum += (unsigned int)(x > y ? x - y : y - x);
  }
  return sum;
}

#define HMM_LANES2(name, type, n, expression)                                                                \
  HMM_INLINE unsigned int __v##name##n(unsigned int a, unsigned int b) {                                     \
    return hmm_lanes<type>(a, b, [](int x, int y) -> int { return expression; });                            \
  }
#define HMM_LANES1(name, type, n, expression)                                                                \
  HMM_INLINE unsigned int __v##name##n(unsigned int a) {                                                     \
    return hmm_lanes<type>(a, 0, [](int x, int) -> int { return expression; });                              \
  }
#define HMM_COMPARE(name, type, n, relation)                                                                 \
  HMM_LANES2(cmp##name, type, n, x relation y ? -1 : 0)                                                      \
  HMM_LANES2(set##name, type, n, x relation y ? 1 : 0)
#define HMM_PACKED(s, u, n)                                                                                  \
  HMM_LANES2(add, u, n, x + y)                                                                               \
  HMM_LANES2(addss, s, n, hmm_saturate<s>(x + y))                                                            \
  HMM_LANES2(addus, u, n, hmm_saturate<u>(x + y))                                                            \
  HMM_LANES2(sub, u, n, x - y)                                                                               \
  HMM_LANES2(subss, s, n, hmm_saturate<s>(x - y))                                                            \
  HMM_LANES2(subus, u, n, hmm_saturate<u>(x - y))                                                            \
  HMM_LANES2(avgs, s, n, (x + y + (x + y >= 0)) >> 1)                                                        \
  HMM_LANES2(avgu, u, n, (x + y + 1) >> 1)                                                                   \
  HMM_LANES2(haddu, u, n, (x + y) >> 1)                                                                      \
  HMM_LANES2(absdiffs, s, n, x > y ? x - y : y - x)                                                          \
  HMM_LANES2(absdiffu, u, n, x > y ? x - y : y - x)                                                          \
  HMM_LANES2(maxs, s, n, x > y ? x : y)                                                                      \
  HMM_LANES2(maxu, u, n, x > y ? x : y)                                                                      \
  HMM_LANES2(mins, s, n, x < y ? x : y)                                                                      \
  HMM_LANES2(minu, u, n, x < y ? x : y)                                                                      \
  HMM_LANES1(abs, s, n, x < 0 ? -x : x)                                                                      \
  HMM_LANES1(absss, s, n, hmm_saturate<s>(x < 0 ? -x : x))                                                   \
  HMM_LANES1(neg, s, n, -x)                                                                                  \
  HMM_LANES1(negss, s, n, hmm_saturate<s>(-x))                                                               \
  HMM_COMPARE(eq, u, n, ==)                                                                                  \
  HMM_COMPARE(ne, u, n, !=)                                                                                  \
  HMM_COMPARE(ges, s, n, >=)                                                                                 \
  HMM_COMPARE(geu, u, n, >=)                                                                                 \
  HMM_COMPARE(gts, s, n, >)                                                                                  \
  HMM_COMPARE(gtu, u, n, >)                                                                                  \
  HMM_COMPARE(les, s, n, <=)                                                                                 \
  HMM_COMPARE(leu, u, n, <=)                                                                                 \
  HMM_COMPARE(lts, s, n, <)                                                                                  \
  HMM_COMPARE(ltu, u, n, <)                                                                                  \
  HMM_INLINE unsigned int __vsads##n(unsigned int a, unsigned int b) {                                       \
    return hmm_lane_distance_sum<s>(a, b);                                                                   \
  }                                                                                                          \
  HMM_INLINE unsigned int __vsadu##n(unsigned int a, unsigned int b) {                                       \
    return hmm_lane_distance_sum<u>(a, b);                                                                   \
  }
HMM_PACKED(short, unsigned short, 2)
HMM_PACKED(signed char, unsigned char, 4)
#undef HMM_LANES1
#undef HMM_LANES2
#undef HMM_COMPARE
#undef HMM_PACKED

} // namespace hmm_cuda
