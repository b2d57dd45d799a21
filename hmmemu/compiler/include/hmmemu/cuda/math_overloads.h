// sin(float) and the like: C++'s overloads of the C functions, with CUDA's choice of type.
//
// One template a name takes any mix of arithmetic types: double if one of them is, else float if
// one of them is, else (all integers) double. That is what NVRTC picks wherever it does not call
// the mix ambiguous. Taking a parameter pack makes each of them lose to any other function or
// template that fits, such as those of <cmath> (see all.h).
#pragma once

namespace hmm_cuda {

// 0: not arithmetic, 1: integer, 2: float, 3: double
template <class T> struct hmm_arithmetic {
  static constexpr int value = __is_enum(T) ? 1 : 0;
};
#define HMM_ARITHMETIC_TYPE(type, number)                                                                    \
  template <> struct hmm_arithmetic<type> {                                                                  \
    static constexpr int value = number;                                                                     \
  };
HMM_ARITHMETIC_TYPE(bool, 1)
HMM_ARITHMETIC_TYPE(char, 1)
HMM_ARITHMETIC_TYPE(signed char, 1)
HMM_ARITHMETIC_TYPE(unsigned char, 1)
HMM_ARITHMETIC_TYPE(short, 1)
HMM_ARITHMETIC_TYPE(unsigned short, 1)
HMM_ARITHMETIC_TYPE(int, 1)
HMM_ARITHMETIC_TYPE(unsigned int, 1)
HMM_ARITHMETIC_TYPE(long, 1)
HMM_ARITHMETIC_TYPE(unsigned long, 1)
HMM_ARITHMETIC_TYPE(long long, 1)
HMM_ARITHMETIC_TYPE(unsigned long long, 1)
HMM_ARITHMETIC_TYPE(float, 2)
HMM_ARITHMETIC_TYPE(double, 3)
#undef HMM_ARITHMETIC_TYPE

template <int count, class... A> constexpr int hmm_real_kind() {
  constexpr bool fits = sizeof...(A) == count && (... && (hmm_arithmetic<A>::value > 0));
  constexpr bool any_float = (... || (hmm_arithmetic<A>::value == 2));
  constexpr bool any_double = (... || (hmm_arithmetic<A>::value == 3));
  return !fits ? 0 : any_float && !any_double ? 2 : 3;
}
template <int kind> struct hmm_real_type {};
template <> struct hmm_real_type<2> {
  using type = float;
};
template <> struct hmm_real_type<3> {
  using type = double;
};
// The type in which a function of `count` arguments computes; no type (so no such overload) for
// other arguments.
template <int count, class... A> using hmm_real = typename hmm_real_type<hmm_real_kind<count, A...>()>::type;
template <class T, class R> struct hmm_then {
  using type = R;
};
template <int count, class R, class... A>
using hmm_if_real = typename hmm_then<hmm_real<count, A...>, R>::type;

#define HMM_OVERLOAD(count, name)                                                                            \
  template <class... A> HMM_INLINE hmm_real<count, A...> name(A... a) {                                      \
    using R = hmm_real<count, A...>;                                                                         \
    if constexpr (sizeof(R) == sizeof(float))                                                                \
      return ::name##f((R)a...);                                                                             \
    else                                                                                                     \
      return ::name((R)a...);                                                                                \
  }
HMM_OVERLOAD(1, acos)
HMM_OVERLOAD(1, acosh)
HMM_OVERLOAD(1, asin)
HMM_OVERLOAD(1, asinh)
HMM_OVERLOAD(1, atan)
HMM_OVERLOAD(1, atanh)
HMM_OVERLOAD(1, cbrt)
HMM_OVERLOAD(1, ceil)
HMM_OVERLOAD(1, cos)
HMM_OVERLOAD(1, cosh)
HMM_OVERLOAD(1, erf)
HMM_OVERLOAD(1, erfc)
HMM_OVERLOAD(1, exp)
HMM_OVERLOAD(1, exp10)
HMM_OVERLOAD(1, exp2)
HMM_OVERLOAD(1, expm1)
HMM_OVERLOAD(1, fabs)
HMM_OVERLOAD(1, floor)
HMM_OVERLOAD(1, j0)
HMM_OVERLOAD(1, j1)
HMM_OVERLOAD(1, lgamma)
HMM_OVERLOAD(1, log)
HMM_OVERLOAD(1, log10)
HMM_OVERLOAD(1, log1p)
HMM_OVERLOAD(1, log2)
HMM_OVERLOAD(1, logb)
HMM_OVERLOAD(1, nearbyint)
HMM_OVERLOAD(1, rint)
HMM_OVERLOAD(1, round)
HMM_OVERLOAD(1, sin)
HMM_OVERLOAD(1, sinh)
HMM_OVERLOAD(1, sqrt)
HMM_OVERLOAD(1, tan)
HMM_OVERLOAD(1, tanh)
HMM_OVERLOAD(1, tgamma)
HMM_OVERLOAD(1, trunc)
HMM_OVERLOAD(1, y0)
HMM_OVERLOAD(1, y1)
HMM_OVERLOAD(2, atan2)
HMM_OVERLOAD(2, copysign)
HMM_OVERLOAD(2, fdim)
HMM_OVERLOAD(2, fmax)
HMM_OVERLOAD(2, fmin)
HMM_OVERLOAD(2, fmod)
HMM_OVERLOAD(2, hypot)
HMM_OVERLOAD(2, nextafter)
HMM_OVERLOAD(2, pow)
HMM_OVERLOAD(2, remainder)
HMM_OVERLOAD(3, fma)
#undef HMM_OVERLOAD

// Functions with a result or a second argument of another type: the double form is the C function,
// the float form is here, a template (of nothing) for the same reason.
#define HMM_FLOAT(result, name, parameters, call)                                                            \
  template <int = 0> HMM_INLINE result name parameters { return ::call; }
HMM_FLOAT(float, frexp, (float x, int* exponent), frexpf(x, exponent))
HMM_FLOAT(float, ldexp, (float x, int exponent), ldexpf(x, exponent))
HMM_FLOAT(float, scalbn, (float x, int exponent), scalbnf(x, exponent))
HMM_FLOAT(float, scalbln, (float x, long exponent), scalblnf(x, exponent))
HMM_FLOAT(float, modf, (float x, float* whole), modff(x, whole))
HMM_FLOAT(float, remquo, (float x, float y, int* quotient), remquof(x, y, quotient))
HMM_FLOAT(float, jn, (int order, float x), jnf(order, x))
HMM_FLOAT(float, yn, (int order, float x), ynf(order, x))
HMM_FLOAT(void, sincos, (float x, float* sine, float* cosine), sincosf(x, sine, cosine))
HMM_FLOAT(int, ilogb, (float x), ilogbf(x))
HMM_FLOAT(long, lrint, (float x), lrintf(x))
HMM_FLOAT(long, lround, (float x), lroundf(x))
HMM_FLOAT(long long, llrint, (float x), llrintf(x))
HMM_FLOAT(long long, llround, (float x), llroundf(x))
#undef HMM_FLOAT

// CUDA's own return int.
#define HMM_CLASSIFY(name)                                                                                   \
  template <class... A> HMM_INLINE hmm_if_real<1, int, A...> name(A... a) {                                  \
    return hmm_##name((hmm_real<1, A...>)a...);                                                              \
  }
template <class T> HMM_INLINE int hmm_isnan(T x) { return __builtin_isnan(x); }
template <class T> HMM_INLINE int hmm_isinf(T x) { return __builtin_isinf(x) != 0; }
template <class T> HMM_INLINE int hmm_isfinite(T x) { return __builtin_isfinite(x); }
template <class T> HMM_INLINE int hmm_signbit(T x) {
  if constexpr (sizeof(T) == sizeof(float))
    return __builtin_signbitf(x) != 0;
  else
    return __builtin_signbit(x) != 0;
}
HMM_CLASSIFY(isnan)
HMM_CLASSIFY(isinf)
HMM_CLASSIFY(isfinite)
HMM_CLASSIFY(signbit)
#undef HMM_CLASSIFY

// min and max: of integers by the usual conversions (max(int, unsigned) is unsigned, as in CUDA),
// of floats with fmin's treatment of NaN. abs keeps the type.
template <int count, class... A> constexpr int hmm_number_kind() {
  constexpr bool integers = sizeof...(A) == count && (... && (hmm_arithmetic<A>::value == 1));
  return integers ? 1 : hmm_real_kind<count, A...>();
}
template <int kind, class... A> struct hmm_number_type : hmm_real_type<kind> {};
template <class A> struct hmm_number_type<1, A> {
  using type = decltype(+A());
};
template <class A, class B> struct hmm_number_type<1, A, B> {
  using type = decltype(A() + B());
};
template <int count, class... A>
using hmm_number = typename hmm_number_type<hmm_number_kind<count, A...>(), A...>::type;

template <class T> HMM_INLINE T hmm_max(T x, T y) { return x > y || y != y ? x : y; }
template <class T> HMM_INLINE T hmm_min(T x, T y) { return x < y || y != y ? x : y; }
HMM_INLINE float hmm_abs(float x) { return __builtin_fabsf(x); }
HMM_INLINE double hmm_abs(double x) { return __builtin_fabs(x); }
template <class T> HMM_INLINE T hmm_abs(T x) { // the least integer stays as it is
  return x < 0 ? (T)(0 - (unsigned long long)x) : x;
}
template <class... A> HMM_INLINE hmm_number<2, A...> max(A... a) {
  return hmm_max((hmm_number<2, A...>)a...);
}
template <class... A> HMM_INLINE hmm_number<2, A...> min(A... a) {
  return hmm_min((hmm_number<2, A...>)a...);
}
template <class... A> HMM_INLINE hmm_number<1, A...> abs(A... a) {
  return hmm_abs((hmm_number<1, A...>)a...);
}
HMM_INLINE unsigned int umin(unsigned int x, unsigned int y) { return hmm_min(x, y); }
HMM_INLINE unsigned int umax(unsigned int x, unsigned int y) { return hmm_max(x, y); }
HMM_INLINE long long llmin(long long x, long long y) { return hmm_min(x, y); }
HMM_INLINE long long llmax(long long x, long long y) { return hmm_max(x, y); }
HMM_INLINE unsigned long long ullmin(unsigned long long x, unsigned long long y) { return hmm_min(x, y); }
HMM_INLINE unsigned long long ullmax(unsigned long long x, unsigned long long y) { return hmm_max(x, y); }

} // namespace hmm_cuda
