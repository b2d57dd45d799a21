// Complex numbers as CuPy's kernels have them (<cupy/complex.cuh>): thrust::complex<float> and <double>.
//
// Products and sums are the plain formulas, as thrust has them: no second look at infinities, as std::complex
// takes one. Quotients are scaled, so that they overflow only where the result does; functions are those of
// the C++ library. Only sources that include <cupy/complex.cuh> pay for this file.
#pragma once

namespace thrust {

template <class T> struct alignas(2 * sizeof(T)) complex {
  typedef T value_type;

  complex() = default; // no values: it may lie in __shared__ memory
  complex(const complex& z) = default;
  complex& operator=(const complex& z) = default;
  HMM_INLINE complex(const T& re) : parts{re, T()} {}
  HMM_INLINE complex(const T& re, const T& im) : parts{re, im} {}
  template <class U> HMM_INLINE complex(const complex<U>& z) : parts{T(z.real()), T(z.imag())} {}

  HMM_INLINE T real() const { return parts[0]; }
  HMM_INLINE T imag() const { return parts[1]; }
  HMM_INLINE T real() const volatile { return parts[0]; }
  HMM_INLINE T imag() const volatile { return parts[1]; }
  HMM_INLINE void real(T re) { parts[0] = re; }
  HMM_INLINE void imag(T im) { parts[1] = im; }
  HMM_INLINE void real(T re) volatile { parts[0] = re; }
  HMM_INLINE void imag(T im) volatile { parts[1] = im; }

  HMM_INLINE complex& operator+=(const complex z) { return *this = *this + z; }
  HMM_INLINE complex& operator-=(const complex z) { return *this = *this - z; }
  HMM_INLINE complex& operator*=(const complex z) { return *this = *this * z; }
  HMM_INLINE complex& operator/=(const complex z) { return *this = *this / z; }

 private:
  T parts[2];
};

template <class T> HMM_INLINE T real(const complex<T>& z) { return z.real(); }
template <class T> HMM_INLINE T imag(const complex<T>& z) { return z.imag(); }
template <class T> HMM_INLINE complex<T> conj(const complex<T>& z) { return {z.real(), -z.imag()}; }
template <class T> HMM_INLINE T norm(const complex<T>& z) {
  return z.real() * z.real() + z.imag() * z.imag();
}

template <class T> HMM_INLINE complex<T> operator+(const complex<T>& z) { return z; }
template <class T> HMM_INLINE complex<T> operator-(const complex<T>& z) { return {-z.real(), -z.imag()}; }

template <class T> HMM_INLINE complex<T> operator+(const complex<T>& a, const complex<T>& b) {
  return {a.real() + b.real(), a.imag() + b.imag()};
}
template <class T> HMM_INLINE complex<T> operator-(const complex<T>& a, const complex<T>& b) {
  return {a.real() - b.real(), a.imag() - b.imag()};
}
template <class T> HMM_INLINE complex<T> operator*(const complex<T>& a, const complex<T>& b) {
  return {a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real()};
}
template <class T> HMM_INLINE complex<T> operator/(const complex<T>& a, const complex<T>& b) {
  T size = (b.real() < 0 ? -b.real() : b.real()) + (b.imag() < 0 ? -b.imag() : b.imag());
  T one = T(1) / size; // b times this is of the order of 1
  complex<T> u(a.real() * one, a.imag() * one), v(b.real() * one, b.imag() * one);
  T scale = T(1) / norm(v);
  return {(u.real() * v.real() + u.imag() * v.imag()) * scale,
          (u.imag() * v.real() - u.real() * v.imag()) * scale};
}

// A number is a complex one without an imaginary part; T is the complex number's, as thrust has it.
#define HMM_WITH_NUMBERS(OP)                                                                                 \
  template <class T> HMM_INLINE complex<T> operator OP(const complex<T>& a, const T& b) {                    \
    return a OP complex<T>(b);                                                                               \
  }                                                                                                          \
  template <class T> HMM_INLINE complex<T> operator OP(const T& a, const complex<T>& b) {                    \
    return complex<T>(a) OP b;                                                                               \
  }
HMM_WITH_NUMBERS(+)
HMM_WITH_NUMBERS(-)
#undef HMM_WITH_NUMBERS
template <class T> HMM_INLINE complex<T> operator*(const complex<T>& a, const T& b) {
  return {a.real() * b, a.imag() * b};
}
template <class T> HMM_INLINE complex<T> operator*(const T& a, const complex<T>& b) { return b * a; }
template <class T> HMM_INLINE complex<T> operator/(const complex<T>& a, const T& b) {
  return {a.real() / b, a.imag() / b};
}
template <class T> HMM_INLINE complex<T> operator/(const T& a, const complex<T>& b) {
  return complex<T>(a) / b;
}

template <class T> HMM_INLINE bool operator==(const complex<T>& a, const complex<T>& b) {
  return a.real() == b.real() && a.imag() == b.imag();
}
template <class T> HMM_INLINE bool operator==(const complex<T>& a, const T& b) { return a == complex<T>(b); }
template <class T> HMM_INLINE bool operator==(const T& a, const complex<T>& b) { return complex<T>(a) == b; }
template <class T> HMM_INLINE bool operator!=(const complex<T>& a, const complex<T>& b) { return !(a == b); }
template <class T> HMM_INLINE bool operator!=(const complex<T>& a, const T& b) { return !(a == b); }
template <class T> HMM_INLINE bool operator!=(const T& a, const complex<T>& b) { return !(a == b); }

// The C++ library's functions, and the way there and back.
template <class T> HMM_INLINE std::complex<T> hmm_std(const complex<T>& z) { return {z.real(), z.imag()}; }
template <class T> HMM_INLINE complex<T> hmm_back(const std::complex<T>& z) { return {z.real(), z.imag()}; }

template <class T> HMM_INLINE T abs(const complex<T>& z) { return std::abs(hmm_std(z)); }
template <class T> HMM_INLINE T arg(const complex<T>& z) { return std::arg(hmm_std(z)); }
template <class T> HMM_INLINE complex<T> proj(const complex<T>& z) { return hmm_back(std::proj(hmm_std(z))); }
template <class T> HMM_INLINE complex<T> polar(const T& m, const T& theta = 0) {
  return {m * std::cos(theta), m * std::sin(theta)};
}
#define HMM_OF_STD(NAME)                                                                                     \
  template <class T> HMM_INLINE complex<T> NAME(const complex<T>& z) {                                       \
    return hmm_back(std::NAME(hmm_std(z)));                                                                  \
  }
HMM_OF_STD(exp)
HMM_OF_STD(log)
HMM_OF_STD(log10)
HMM_OF_STD(sqrt)
HMM_OF_STD(sin)
HMM_OF_STD(cos)
HMM_OF_STD(tan)
HMM_OF_STD(asin)
HMM_OF_STD(acos)
HMM_OF_STD(atan)
HMM_OF_STD(sinh)
HMM_OF_STD(cosh)
HMM_OF_STD(tanh)
HMM_OF_STD(asinh)
HMM_OF_STD(acosh)
HMM_OF_STD(atanh)
#undef HMM_OF_STD
template <class T> HMM_INLINE complex<T> pow(const complex<T>& x, const complex<T>& y) {
  return hmm_back(std::pow(hmm_std(x), hmm_std(y)));
}
template <class T> HMM_INLINE complex<T> pow(const complex<T>& x, const T& y) {
  return pow(x, complex<T>(y));
}
template <class T> HMM_INLINE complex<T> pow(const T& x, const complex<T>& y) {
  return pow(complex<T>(x), y);
}

} // namespace thrust

template <class T> HMM_INLINE bool isnan(thrust::complex<T> z) {
  return __builtin_isnan(z.real()) || __builtin_isnan(z.imag());
}
template <class T> HMM_INLINE bool isinf(thrust::complex<T> z) {
  return __builtin_isinf(z.real()) || __builtin_isinf(z.imag());
}
template <class T> HMM_INLINE bool isfinite(thrust::complex<T> z) {
  return __builtin_isfinite(z.real()) && __builtin_isfinite(z.imag());
}
