// What every 16-bit float of CUDA has: the types, conversions, operators, __hadd ... __hfma, comparisons,
// h-functions, atomicAdd.
//
// Included by the header of each such type, so no `#pragma once`. It defines: HMM_SMALL and HMM_SMALL2, the
// types; their raw forms with _RAW; HMM_NAME and HMM_NAME2, what their functions are called by (half, half2);
// HMM_WIDE, a type in which sums, products and quotients of two round innocently; HMM_BITS(float) and
// HMM_VALUE(bits), the conversions. All of these are removed at the end.

#define HMM_PASTE_(a, b, c) a##b##c
#define HMM_PASTE(a, b, c) HMM_PASTE_(a, b, c)

struct HMM_SMALL_RAW {
  unsigned short x;
};
struct HMM_SMALL2_RAW {
  unsigned short x, y;
};

struct __attribute__((aligned(2))) HMM_SMALL {
  unsigned short __x;

  HMM_SMALL() = default;
  constexpr HMM_SMALL(const HMM_SMALL_RAW& raw) : __x(raw.x) {}
  HMM_INLINE HMM_SMALL(float x) : __x(HMM_BITS(x)) {}
  HMM_INLINE HMM_SMALL(double x) : __x(HMM_BITS(hmm_cuda::hmm_float_to_odd(x))) {}
#define HMM_FROM_INTEGER(T)                                                                                  \
  HMM_INLINE HMM_SMALL(T x) : HMM_SMALL(hmm_cuda::hmm_double_to_odd(x)) {}
  HMM_FROM_INTEGER(short)
  HMM_FROM_INTEGER(unsigned short)
  HMM_FROM_INTEGER(int)
  HMM_FROM_INTEGER(unsigned int)
  HMM_FROM_INTEGER(long)
  HMM_FROM_INTEGER(unsigned long)
  HMM_FROM_INTEGER(long long)
  HMM_FROM_INTEGER(unsigned long long)
#undef HMM_FROM_INTEGER
  template <class T> HMM_INLINE HMM_SMALL& operator=(T x) { return *this = HMM_SMALL(x); }
  constexpr operator HMM_SMALL_RAW() const { return {__x}; }
  HMM_INLINE operator float() const { return HMM_VALUE(__x); }
  HMM_INLINE explicit operator bool() const { return (__x & 0x7fff) != 0; }
};

struct __attribute__((aligned(4))) HMM_SMALL2 {
  HMM_SMALL x, y;

  HMM_SMALL2() = default;
  HMM_INLINE HMM_SMALL2(const HMM_SMALL& low, const HMM_SMALL& high) : x(low), y(high) {}
  HMM_INLINE HMM_SMALL2(const HMM_SMALL2_RAW& raw) : x(HMM_SMALL_RAW{raw.x}), y(HMM_SMALL_RAW{raw.y}) {}
  HMM_INLINE operator HMM_SMALL2_RAW() const { return {x.__x, y.__x}; }
};

namespace hmm_cuda {

// Binary operations: a function for one and for two, and one that clamps to [0, 1].
#define HMM_BINARY(name, expression)                                                                         \
  HMM_INLINE HMM_SMALL __h##name(HMM_SMALL a, HMM_SMALL b) {                                                 \
    HMM_WIDE p = (float)a, q = (float)b;                                                                     \
    return HMM_SMALL((HMM_WIDE)(expression));                                                                \
  }                                                                                                          \
  HMM_INLINE HMM_SMALL2 __h##name##2(HMM_SMALL2 a, HMM_SMALL2 b) {                                           \
    return {__h##name(a.x, b.x), __h##name(a.y, b.y)};                                                       \
  }
#define HMM_ALSO_SATURATED(name)                                                                             \
  HMM_INLINE HMM_SMALL __h##name##_sat(HMM_SMALL a, HMM_SMALL b) {                                           \
    return HMM_SMALL(__saturatef(__h##name(a, b)));                                                          \
  }                                                                                                          \
  HMM_INLINE HMM_SMALL2 __h##name##2_sat(HMM_SMALL2 a, HMM_SMALL2 b) {                                       \
    return {__h##name##_sat(a.x, b.x), __h##name##_sat(a.y, b.y)};                                           \
  }                                                                                                          \
  HMM_INLINE HMM_SMALL __h##name##_rn(HMM_SMALL a, HMM_SMALL b) { return __h##name(a, b); }                  \
  HMM_INLINE HMM_SMALL2 __h##name##2_rn(HMM_SMALL2 a, HMM_SMALL2 b) { return __h##name##2(a, b); }
HMM_BINARY(add, p + q)
HMM_BINARY(sub, p - q)
HMM_BINARY(mul, p* q)
HMM_BINARY(max, hmm_max(p, q))
HMM_BINARY(min, hmm_min(p, q))
HMM_BINARY(max_nan, p != p || q != q ? NAN : hmm_max(p, q))
HMM_BINARY(min_nan, p != p || q != q ? NAN : hmm_min(p, q))
HMM_ALSO_SATURATED(add)
HMM_ALSO_SATURATED(sub)
HMM_ALSO_SATURATED(mul)
#undef HMM_BINARY
#undef HMM_ALSO_SATURATED
HMM_INLINE HMM_SMALL __hdiv(HMM_SMALL a, HMM_SMALL b) {
  return HMM_SMALL((HMM_WIDE)(float)a / (HMM_WIDE)(float)b);
}
HMM_INLINE HMM_SMALL2 __h2div(HMM_SMALL2 a, HMM_SMALL2 b) { return {__hdiv(a.x, b.x), __hdiv(a.y, b.y)}; }
// In double the product is exact; the sum is rounded to odd, so that the last rounding sees what it dropped.
HMM_INLINE HMM_SMALL __hfma(HMM_SMALL a, HMM_SMALL b, HMM_SMALL c) {
  double product = (double)(float)a * (double)(float)b, term = (float)c, sum = product + term;
  return HMM_SMALL(hmm_to_odd(sum, hmm_sum_error(product, term, sum)));
}
HMM_INLINE HMM_SMALL __hfma_sat(HMM_SMALL a, HMM_SMALL b, HMM_SMALL c) {
  return HMM_SMALL(__saturatef(__hfma(a, b, c)));
}
HMM_INLINE HMM_SMALL __hfma_relu(HMM_SMALL a, HMM_SMALL b, HMM_SMALL c) {
  HMM_SMALL r = __hfma(a, b, c);
  return (float)r < 0 ? HMM_SMALL(0.0f) : r;
}
HMM_INLINE HMM_SMALL2 __hfma2(HMM_SMALL2 a, HMM_SMALL2 b, HMM_SMALL2 c) {
  return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
HMM_INLINE HMM_SMALL2 __hfma2_sat(HMM_SMALL2 a, HMM_SMALL2 b, HMM_SMALL2 c) {
  return {__hfma_sat(a.x, b.x, c.x), __hfma_sat(a.y, b.y, c.y)};
}
HMM_INLINE HMM_SMALL2 __hfma2_relu(HMM_SMALL2 a, HMM_SMALL2 b, HMM_SMALL2 c) {
  return {__hfma_relu(a.x, b.x, c.x), __hfma_relu(a.y, b.y, c.y)};
}
HMM_INLINE HMM_SMALL __hneg(HMM_SMALL a) { return HMM_SMALL_RAW{(unsigned short)(a.__x ^ 0x8000)}; }
HMM_INLINE HMM_SMALL __habs(HMM_SMALL a) { return HMM_SMALL_RAW{(unsigned short)(a.__x & 0x7fff)}; }
HMM_INLINE HMM_SMALL2 __hneg2(HMM_SMALL2 a) { return {__hneg(a.x), __hneg(a.y)}; }
HMM_INLINE HMM_SMALL2 __habs2(HMM_SMALL2 a) { return {__habs(a.x), __habs(a.y)}; }

// Comparisons: `u` forms are true for NaN. __hbeq2 asks for both, __heq2 gives 1 or 0 each, __heq2_mask all
// bits each.
#define HMM_COMPARE(name, condition)                                                                         \
  HMM_INLINE bool __h##name(HMM_SMALL a, HMM_SMALL b) {                                                      \
    float p = a, q = b;                                                                                      \
    return condition;                                                                                        \
  }                                                                                                          \
  HMM_INLINE bool __hb##name##2(HMM_SMALL2 a, HMM_SMALL2 b) {                                                \
    return __h##name(a.x, b.x) && __h##name(a.y, b.y);                                                       \
  }                                                                                                          \
  HMM_INLINE HMM_SMALL2 __h##name##2(HMM_SMALL2 a, HMM_SMALL2 b) {                                           \
    return {HMM_SMALL(__h##name(a.x, b.x) ? 1.0f : 0.0f), HMM_SMALL(__h##name(a.y, b.y) ? 1.0f : 0.0f)};     \
  }                                                                                                          \
  HMM_INLINE unsigned int __h##name##2_mask(HMM_SMALL2 a, HMM_SMALL2 b) {                                    \
    return (__h##name(a.x, b.x) ? 0xffffu : 0u) | (__h##name(a.y, b.y) ? 0xffff0000u : 0u);                  \
  }
HMM_COMPARE(eq, p == q)
HMM_COMPARE(ne, p<q || p> q)
HMM_COMPARE(lt, p < q)
HMM_COMPARE(le, p <= q)
HMM_COMPARE(gt, p > q)
HMM_COMPARE(ge, p >= q)
HMM_COMPARE(equ, !(p < q || p > q))
HMM_COMPARE(neu, p != q)
HMM_COMPARE(ltu, !(p >= q))
HMM_COMPARE(leu, !(p > q))
HMM_COMPARE(gtu, !(p <= q))
HMM_COMPARE(geu, !(p < q))
#undef HMM_COMPARE
HMM_INLINE bool __hisnan(HMM_SMALL a) { return __builtin_isnan((float)a); }
HMM_INLINE int __hisinf(HMM_SMALL a) { return __builtin_isinf((float)a) ? ((float)a > 0 ? 1 : -1) : 0; }
HMM_INLINE HMM_SMALL2 __hisnan2(HMM_SMALL2 a) {
  return {HMM_SMALL(__hisnan(a.x) ? 1.0f : 0.0f), HMM_SMALL(__hisnan(a.y) ? 1.0f : 0.0f)};
}

// Functions: h for one, h2 for two.
#define HMM_FUNCTION(name, expression)                                                                       \
  HMM_INLINE HMM_SMALL h##name(HMM_SMALL a) {                                                                \
    float x = a;                                                                                             \
    return HMM_SMALL(expression);                                                                            \
  }                                                                                                          \
  HMM_INLINE HMM_SMALL2 h2##name(HMM_SMALL2 a) { return {h##name(a.x), h##name(a.y)}; }
HMM_FUNCTION(sqrt, sqrtf(x))
HMM_FUNCTION(rsqrt, 1.0f / sqrtf(x))
HMM_FUNCTION(rcp, 1.0f / x)
HMM_FUNCTION(exp, expf(x))
HMM_FUNCTION(exp2, exp2f(x))
HMM_FUNCTION(exp10, exp10f(x))
HMM_FUNCTION(log, logf(x))
HMM_FUNCTION(log2, log2f(x))
HMM_FUNCTION(log10, log10f(x))
HMM_FUNCTION(sin, sinf(x))
HMM_FUNCTION(cos, cosf(x))
HMM_FUNCTION(tanh, tanhf(x))
HMM_FUNCTION(floor, floorf(x))
HMM_FUNCTION(ceil, ceilf(x))
HMM_FUNCTION(trunc, truncf(x))
HMM_FUNCTION(rint, rintf(x))
#undef HMM_FUNCTION

// Pairs and their parts.
#define HMM_NAMED(before, after) HMM_PASTE(before, HMM_NAME, after)
#define HMM_NAMED2(before, after) HMM_PASTE(before, HMM_NAME2, after)
HMM_INLINE HMM_SMALL HMM_NAMED(__low2, )(HMM_SMALL2 v) { return v.x; }
HMM_INLINE HMM_SMALL HMM_NAMED(__high2, )(HMM_SMALL2 v) { return v.y; }
HMM_INLINE float __low2float(HMM_SMALL2 v) { return v.x; }
HMM_INLINE float __high2float(HMM_SMALL2 v) { return v.y; }
HMM_INLINE HMM_SMALL2 HMM_NAMED2(__halves2, )(HMM_SMALL low, HMM_SMALL high) { return {low, high}; }
HMM_INLINE HMM_SMALL2 HMM_NAMED2(make_, )(HMM_SMALL x, HMM_SMALL y) { return {x, y}; }
HMM_INLINE HMM_SMALL2 HMM_NAMED2(__low2, )(HMM_SMALL2 v) { return {v.x, v.x}; }
HMM_INLINE HMM_SMALL2 HMM_NAMED2(__high2, )(HMM_SMALL2 v) { return {v.y, v.y}; }
HMM_INLINE HMM_SMALL2 __lowhigh2highlow(HMM_SMALL2 v) { return {v.y, v.x}; }
HMM_INLINE HMM_SMALL2 HMM_NAMED2(__lows2, )(HMM_SMALL2 a, HMM_SMALL2 b) { return {a.x, b.x}; }
HMM_INLINE HMM_SMALL2 HMM_NAMED2(__highs2, )(HMM_SMALL2 a, HMM_SMALL2 b) { return {a.y, b.y}; }
HMM_INLINE HMM_SMALL2 HMM_NAMED(__, HMM_PASTE(2, HMM_NAME2, ))(HMM_SMALL x) { return {x, x}; }

// Conversions.
HMM_INLINE HMM_SMALL HMM_NAMED(__float2, )(float x) { return HMM_SMALL(x); }
HMM_INLINE HMM_SMALL HMM_NAMED(__float2, _rn)(float x) { return HMM_SMALL(x); }
HMM_INLINE HMM_SMALL HMM_NAMED(__double2, )(double x) { return HMM_SMALL(x); }
HMM_INLINE float HMM_NAMED(__, 2float)(HMM_SMALL x) { return x; }
HMM_INLINE unsigned short HMM_NAMED(__, _as_ushort)(HMM_SMALL x) { return x.__x; }
HMM_INLINE short HMM_NAMED(__, _as_short)(HMM_SMALL x) { return (short)x.__x; }
HMM_INLINE HMM_SMALL HMM_NAMED(__ushort_as_, )(unsigned short bits) { return HMM_SMALL_RAW{bits}; }
HMM_INLINE HMM_SMALL HMM_NAMED(__short_as_, )(short bits) { return HMM_SMALL_RAW{(unsigned short)bits}; }
HMM_INLINE HMM_SMALL2 HMM_NAMED2(__floats2, _rn)(float low, float high) {
  return {HMM_SMALL(low), HMM_SMALL(high)};
}
HMM_INLINE HMM_SMALL2 HMM_NAMED2(__float22, _rn)(float2 v) { return {HMM_SMALL(v.x), HMM_SMALL(v.y)}; }
HMM_INLINE HMM_SMALL2 HMM_NAMED2(__float2, _rn)(float x) { return {HMM_SMALL(x), HMM_SMALL(x)}; }
HMM_INLINE float2 HMM_NAMED2(__, 2float2)(HMM_SMALL2 v) { return {(float)v.x, (float)v.y}; }

// A float rounded in a mode: the neighbour where the nearest lies on the wrong side. Magnitudes of one sign
// are in the order of their bits.
HMM_INLINE HMM_SMALL hmm_small_in(HMM_SMALL nearest, float x, hmm_mode mode) {
  float value = nearest;
  if (!(x - x == 0) || value == x) return nearest;
  bool grew = __builtin_fabsf(value) > __builtin_fabsf(x), negative = x < 0;
  bool wants_larger = mode == hmm_mode::up ? !negative : mode == hmm_mode::down && negative;
  if (grew && !wants_larger) return HMM_SMALL_RAW{(unsigned short)(nearest.__x - 1)};
  if (!grew && wants_larger) return HMM_SMALL_RAW{(unsigned short)(nearest.__x + 1)};
  return nearest;
}
HMM_INLINE HMM_SMALL HMM_NAMED(__float2, _rz)(float x) {
  return hmm_small_in(HMM_SMALL(x), x, hmm_mode::zero);
}
HMM_INLINE HMM_SMALL HMM_NAMED(__float2, _ru)(float x) { return hmm_small_in(HMM_SMALL(x), x, hmm_mode::up); }
HMM_INLINE HMM_SMALL HMM_NAMED(__float2, _rd)(float x) {
  return hmm_small_in(HMM_SMALL(x), x, hmm_mode::down);
}

// Integers: to them saturating, as all conversions of CUDA, from them to nearest.
#define HMM_INTEGER(name, T)                                                                                 \
  HMM_INLINE T HMM_NAMED(__, 2##name##_rn)(HMM_SMALL x) {                                                    \
    return hmm_to_integer<T, hmm_mode::nearest>((float)x);                                                   \
  }                                                                                                          \
  HMM_INLINE T HMM_NAMED(__, 2##name##_rz)(HMM_SMALL x) {                                                    \
    return hmm_to_integer<T, hmm_mode::zero>((float)x);                                                      \
  }                                                                                                          \
  HMM_INLINE T HMM_NAMED(__, 2##name##_ru)(HMM_SMALL x) {                                                    \
    return hmm_to_integer<T, hmm_mode::up>((float)x);                                                        \
  }                                                                                                          \
  HMM_INLINE T HMM_NAMED(__, 2##name##_rd)(HMM_SMALL x) {                                                    \
    return hmm_to_integer<T, hmm_mode::down>((float)x);                                                      \
  }                                                                                                          \
  HMM_INLINE HMM_SMALL HMM_NAMED(__##name##2, _rn)(T x) { return HMM_SMALL(x); }
HMM_INTEGER(short, short)
HMM_INTEGER(ushort, unsigned short)
HMM_INTEGER(int, int)
HMM_INTEGER(uint, unsigned int)
HMM_INTEGER(ll, long long)
HMM_INTEGER(ull, unsigned long long)
#undef HMM_INTEGER
#undef HMM_NAMED
#undef HMM_NAMED2

} // namespace hmm_cuda

// Operators, in the namespace of the types.
#define HMM_OPERATOR(sign, one, two)                                                                         \
  HMM_INLINE HMM_SMALL operator sign(const HMM_SMALL& a, const HMM_SMALL& b) { return hmm_cuda::one(a, b); } \
  HMM_INLINE HMM_SMALL& operator sign## = (HMM_SMALL & a, const HMM_SMALL& b) {                              \
    return a = hmm_cuda::one(a, b);                                                                          \
  }                                                                                                          \
  HMM_INLINE HMM_SMALL2 operator sign(const HMM_SMALL2& a, const HMM_SMALL2& b) {                            \
    return hmm_cuda::two(a, b);                                                                              \
  }                                                                                                          \
  HMM_INLINE HMM_SMALL2& operator sign## = (HMM_SMALL2 & a, const HMM_SMALL2& b) {                           \
    return a = hmm_cuda::two(a, b);                                                                          \
  }
HMM_OPERATOR(+, __hadd, __hadd2)
HMM_OPERATOR(-, __hsub, __hsub2)
HMM_OPERATOR(*, __hmul, __hmul2)
HMM_OPERATOR(/, __hdiv, __h2div)
#undef HMM_OPERATOR
#define HMM_RELATION(sign, one, two)                                                                         \
  HMM_INLINE bool operator sign(const HMM_SMALL& a, const HMM_SMALL& b) { return hmm_cuda::one(a, b); }      \
  HMM_INLINE bool operator sign(const HMM_SMALL2& a, const HMM_SMALL2& b) { return hmm_cuda::two(a, b); }
HMM_RELATION(==, __heq, __hbeq2)
HMM_RELATION(!=, __hneu, __hbneu2)
HMM_RELATION(<, __hlt, __hblt2)
HMM_RELATION(<=, __hle, __hble2)
HMM_RELATION(>, __hgt, __hbgt2)
HMM_RELATION(>=, __hge, __hbge2)
#undef HMM_RELATION
HMM_INLINE HMM_SMALL operator+(const HMM_SMALL& a) { return a; }
HMM_INLINE HMM_SMALL operator-(const HMM_SMALL& a) { return hmm_cuda::__hneg(a); }
HMM_INLINE HMM_SMALL2 operator+(const HMM_SMALL2& a) { return a; }
HMM_INLINE HMM_SMALL2 operator-(const HMM_SMALL2& a) { return hmm_cuda::__hneg2(a); }
HMM_INLINE HMM_SMALL& operator++(HMM_SMALL& a) { return a += HMM_SMALL(1.0f); }
HMM_INLINE HMM_SMALL& operator--(HMM_SMALL& a) { return a -= HMM_SMALL(1.0f); }
HMM_INLINE HMM_SMALL operator++(HMM_SMALL& a, int) {
  HMM_SMALL before = a;
  ++a;
  return before;
}
HMM_INLINE HMM_SMALL operator--(HMM_SMALL& a, int) {
  HMM_SMALL before = a;
  --a;
  return before;
}

// Adding to one, or to both of a pair (each on its own, as CUDA promises no more). After the operators.
namespace hmm_cuda {
HMM_SCOPES(, HMM_SMALL, atomicAdd, (HMM_SMALL * address, HMM_SMALL value),
           return hmm_atomic<hmm_op_add, scope>(address, value);)
HMM_SCOPES(, HMM_SMALL2, atomicAdd, (HMM_SMALL2 * address, HMM_SMALL2 value), HMM_CHECK_VECTOR();
           HMM_SMALL2 old; old.x = hmm_atomic<hmm_op_add, scope, 2>(&address->x, value.x);
           old.y = hmm_atomic<hmm_op_add, scope, 2>(&address->y, value.y); return old;)
} // namespace hmm_cuda
HMM_HERE(atomicAdd)

#undef HMM_SMALL
#undef HMM_SMALL2
#undef HMM_SMALL_RAW
#undef HMM_SMALL2_RAW
#undef HMM_NAME
#undef HMM_NAME2
#undef HMM_WIDE
#undef HMM_BITS
#undef HMM_VALUE
#undef HMM_PASTE
#undef HMM_PASTE_
