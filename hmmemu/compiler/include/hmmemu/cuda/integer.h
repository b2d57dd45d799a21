// Integer intrinsics: counting and reversing bits, funnel shifts, byte permutation, high products,
// dot products.
//
// All are defined for every operand (zero, INT_MIN, any shift), as in CUDA; unsigned arithmetic
// keeps C++ from calling an overflow undefined.
#pragma once

namespace hmm_cuda {

HMM_INLINE int __popc(unsigned int x) { return __builtin_popcount(x); }
HMM_INLINE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
HMM_INLINE int __clz(int x) { return x ? __builtin_clz((unsigned int)x) : 32; }
HMM_INLINE int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
HMM_INLINE int __ffs(int x) { return __builtin_ffs(x); }
HMM_INLINE int __ffsll(long long x) { return __builtin_ffsll(x); }

HMM_INLINE unsigned int __brev(unsigned int x) {
  x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
  x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
  x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
  return __builtin_bswap32(x);
}
HMM_INLINE unsigned long long __brevll(unsigned long long x) {
  return (unsigned long long)__brev((unsigned int)x) << 32 | __brev((unsigned int)(x >> 32));
}
// The offset-th set bit at or above `base` (offset > 0), or below it (offset < 0); 0 asks whether
// `base` is set.
HMM_INLINE unsigned int __fns(unsigned int mask, unsigned int base, int offset) {
  if (base > 31) return 0xffffffffu;
  if (offset == 0) return mask >> base & 1 ? base : 0xffffffffu;
  int step = offset > 0 ? 1 : -1, left = offset > 0 ? offset : -offset;
  for (int bit = (int)base; bit >= 0 && bit < 32; bit += step)
    if ((mask >> bit & 1) && --left == 0) return (unsigned int)bit;
  return 0xffffffffu;
}

// Byte i of the result is the byte of y:x that the low three bits of nibble i of `selector` name.
HMM_INLINE unsigned int __byte_perm(unsigned int x, unsigned int y, unsigned int selector) {
  unsigned long long bytes = (unsigned long long)y << 32 | x;
  unsigned int result = 0;
  for (int i = 0; i < 4; ++i) {
    unsigned int pick = selector >> 4 * i & 7;
    result |= ((unsigned int)(bytes >> 8 * pick) & 255) << 8 * i;
  }
  return result;
}

// The 64 bits high:low shifted; `_l` and `_lc` give the upper half, `_r` and `_rc` the lower. `c`
// clamps at 32.
HMM_INLINE unsigned int hmm_funnel_left(unsigned int low, unsigned int high, unsigned int by) {
  return (unsigned int)(((unsigned long long)high << 32 | low) << by >> 32);
}
HMM_INLINE unsigned int hmm_funnel_right(unsigned int low, unsigned int high, unsigned int by) {
  return (unsigned int)(((unsigned long long)high << 32 | low) >> by);
}
HMM_INLINE unsigned int __funnelshift_l(unsigned int low, unsigned int high, unsigned int shift) {
  return hmm_funnel_left(low, high, shift & 31);
}
HMM_INLINE unsigned int __funnelshift_lc(unsigned int low, unsigned int high, unsigned int shift) {
  return hmm_funnel_left(low, high, shift < 32 ? shift : 32);
}
HMM_INLINE unsigned int __funnelshift_r(unsigned int low, unsigned int high, unsigned int shift) {
  return hmm_funnel_right(low, high, shift & 31);
}
HMM_INLINE unsigned int __funnelshift_rc(unsigned int low, unsigned int high, unsigned int shift) {
  return hmm_funnel_right(low, high, shift < 32 ? shift : 32);
}

HMM_INLINE int __mulhi(int x, int y) { return (int)((long long)x * y >> 32); }
HMM_INLINE unsigned int __umulhi(unsigned int x, unsigned int y) {
  return (unsigned int)((unsigned long long)x * y >> 32);
}
HMM_INLINE long long __mul64hi(long long x, long long y) { return (long long)((__int128)x * y >> 64); }
HMM_INLINE unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return (unsigned long long)((unsigned __int128)x * y >> 64);
}
HMM_INLINE int hmm_low24(int x) { return (int)((unsigned int)x << 8) >> 8; }
HMM_INLINE int __mul24(int x, int y) {
  return (int)((unsigned int)hmm_low24(x) * (unsigned int)hmm_low24(y));
}
HMM_INLINE unsigned int __umul24(unsigned int x, unsigned int y) { return (x & 0xffffffu) * (y & 0xffffffu); }

HMM_INLINE unsigned int __sad(int x, int y, unsigned int z) {
  return z + (x > y ? (unsigned int)x - (unsigned int)y : (unsigned int)y - (unsigned int)x);
}
HMM_INLINE unsigned int __usad(unsigned int x, unsigned int y, unsigned int z) {
  return z + (x > y ? x - y : y - x);
}
HMM_INLINE int __hadd(int x, int y) { return (int)(((long long)x + y) >> 1); }
HMM_INLINE int __rhadd(int x, int y) { return (int)(((long long)x + y + 1) >> 1); }
HMM_INLINE unsigned int __uhadd(unsigned int x, unsigned int y) {
  return (unsigned int)(((unsigned long long)x + y) >> 1);
}
HMM_INLINE unsigned int __urhadd(unsigned int x, unsigned int y) {
  return (unsigned int)(((unsigned long long)x + y + 1) >> 1);
}

// c + dot(a, b): of four bytes (dp4a), or of two halfwords with the low or high two bytes (dp2a).
template <class A, class B> HMM_INLINE unsigned int hmm_dot(int count, int a, int b, int b_shift) {
  constexpr int bits_a = 8 * sizeof(A), bits_b = 8 * sizeof(B);
  unsigned int sum = 0;
  for (int i = 0; i < count; ++i)
    sum += (unsigned int)(A)(a >> bits_a * i) * (unsigned int)(B)(b >> (bits_b * i + b_shift));
  return sum;
}
#define HMM_DOT(name, count, A, B, shift)                                                                    \
  HMM_INLINE int name(int a, int b, int c) {                                                                 \
    return (int)((unsigned int)c + hmm_dot<signed A, signed B>(count, a, b, shift));                         \
  }                                                                                                          \
  HMM_INLINE unsigned int name(unsigned int a, unsigned int b, unsigned int c) {                             \
    return c + hmm_dot<unsigned A, unsigned B>(count, (int)a, (int)b, shift);                                \
  }
HMM_DOT(__dp4a, 4, char, char, 0)
HMM_DOT(__dp2a_lo, 2, short, char, 0)
HMM_DOT(__dp2a_hi, 2, short, char, 16)
#undef HMM_DOT
HMM_INLINE int __dp4a(char4 a, char4 b, int c) {
  return __dp4a(__builtin_bit_cast(int, a), __builtin_bit_cast(int, b), c);
}
HMM_INLINE unsigned int __dp4a(uchar4 a, uchar4 b, unsigned int c) {
  return __dp4a(__builtin_bit_cast(unsigned int, a), __builtin_bit_cast(unsigned int, b), c);
}
HMM_INLINE int __dp2a_lo(short2 a, char4 b, int c) {
  return __dp2a_lo(__builtin_bit_cast(int, a), __builtin_bit_cast(int, b), c);
}
HMM_INLINE unsigned int __dp2a_lo(ushort2 a, uchar4 b, unsigned int c) {
  return __dp2a_lo(__builtin_bit_cast(unsigned int, a), __builtin_bit_cast(unsigned int, b), c);
}
HMM_INLINE int __dp2a_hi(short2 a, char4 b, int c) {
  return __dp2a_hi(__builtin_bit_cast(int, a), __builtin_bit_cast(int, b), c);
}
HMM_INLINE unsigned int __dp2a_hi(ushort2 a, uchar4 b, unsigned int c) {
  return __dp2a_hi(__builtin_bit_cast(unsigned int, a), __builtin_bit_cast(unsigned int, b), c);
}

} // namespace hmm_cuda
