// CUDA's statistical and Bessel functions: erfinv, erfcinv, erfcx, normcdf, normcdfinv,
// cyl_bessel_i0, cyl_bessel_i1.
//
// Inverses start from a textbook approximation and are polished with Halley's iteration on libm's
// erf and erfc, whose error is then theirs. Floats are computed in double.
#pragma once

namespace hmm_cuda {

inline constexpr double hmm_sqrt_pi_half = 0.88622692545275801365; // sqrt(pi) / 2

// exp(x^2), with the rounding error of the square put back
HMM_INLINE double hmm_exp_square(double x) {
  double square = x * x;
  return ::exp(square) * (1.0 + ::fma(x, x, -square));
}

// exp(x^2) erfc(x). The asymptotic series (DLMF 7.12.1) takes over where erfc nears its underflow.
inline double hmm_erfcx(double x) {
  if (!(x >= 25.0)) return hmm_exp_square(x) * ::erfc(x);
  double step = 1.0 / (2.0 * x * x), term = 1.0, sum = 1.0;
  for (int k = 1; k <= 8; ++k) {
    term *= -(2 * k - 1) * step;
    sum += term;
  }
  return sum / (2.0 * hmm_sqrt_pi_half * x);
}

// The x > 0 with erfc(x) = z, for 0 < z <= 1/2.
inline double hmm_erfc_inverse_tail(double z) {
  // Abramowitz and Stegun 26.2.23, good to 4.5e-4
  double t = ::sqrt(-2.0 * (::log(z) - 0.69314718055994530942));
  double x =
      t - ((0.010328 * t + 0.802853) * t + 2.515517) / (((0.001308 * t + 0.189269) * t + 1.432788) * t + 1.0);
  x *= 0.70710678118654752440;
  for (int i = 0; i < 3; ++i) {
    // erfc(x) - z over its derivative; through logarithms where erfc loses bits
    double excess =
        z > 1e-250 ? (::erfc(x) - z) * hmm_exp_square(x) : hmm_erfcx(x) - ::exp(::fma(x, x, ::log(z)));
    double step = -hmm_sqrt_pi_half * excess;
    x -= step / (1.0 + x * step);
  }
  return x;
}

inline double hmm_erfinv(double y) {
  double a = ::fabs(y);
  if (a > 0.5) {
    if (a == 1.0) return ::copysign((double)INFINITY, y);
    return a < 1.0 ? ::copysign(hmm_erfc_inverse_tail(1.0 - a), y) : (double)NAN;
  }
  double s = a * a; // first terms of the Maclaurin series
  double x = y * hmm_sqrt_pi_half * (1.0 + s * (0.26179938779914943654 + s * 0.14393173084921978));
  for (int i = 0; i < 2; ++i) {
    double step = (::erf(x) - y) * hmm_sqrt_pi_half * ::exp(x * x);
    x -= step / (1.0 + x * step);
  }
  return x;
}

inline double hmm_erfcinv(double z) {
  if (z == 0.0) return (double)INFINITY;
  if (z == 2.0) return -(double)INFINITY;
  if (!(z > 0.0 && z < 2.0)) return (double)NAN;
  if (z <= 0.5) return hmm_erfc_inverse_tail(z);
  if (z >= 1.5) return -hmm_erfc_inverse_tail(2.0 - z);
  return hmm_erfinv(1.0 - z);
}

// erfc(-x / sqrt 2) / 2, with the error of the quotient put back to first order
inline double hmm_normcdf(double x) {
  const double high = 0.70710678118654752440, low = -4.8336466567264567e-17;
  double t = -x * high;
  double error = ::fma(-x, high, -t) - x * low;
  double value = ::erfc(t);
  if (value > 0.0 && value < 2.0) value -= error * ::exp(-t * t) / hmm_sqrt_pi_half;
  return 0.5 * value;
}
inline double hmm_normcdfinv(double p) { return -1.41421356237309504880 * hmm_erfcinv(2.0 * p); }

// I_order(x), order 0 or 1: the power series (all terms positive) below 30, the asymptotic one
// (DLMF 10.40.1) above.
inline double hmm_bessel_i(int order, double x) {
  double a = ::fabs(x);
  if (!(a <= 1e6)) return a != a ? a : order ? ::copysign((double)INFINITY, x) : (double)INFINITY;
  long double term = 1, sum = 1;
  if (a < 30.0) {
    long double quarter = (long double)a * a / 4;
    for (int k = 1; term > sum * 1e-20L; ++k) {
      term *= quarter / ((long double)k * (k + order));
      sum += term;
    }
    if (order) sum *= (long double)x / 2;
    return (double)sum;
  }
  for (int k = 1; k < 60 && (term > 1e-20L || -term > 1e-20L); ++k) {
    term *= ((2 * k - 1) * (2 * k - 1) - 4 * order) / (8.0L * k * a);
    sum += term;
  }
  long double half = ::exp(0.5 * a); // in two halves, since exp(a) overflows before I(a) does
  double value = (double)(sum * half / ::sqrt(6.28318530717958647693 * a) * half);
  return order ? ::copysign(value, x) : value;
}
inline double hmm_cyl_bessel_i0(double x) { return hmm_bessel_i(0, x); }
inline double hmm_cyl_bessel_i1(double x) { return hmm_bessel_i(1, x); }

#define HMM_SPECIAL(name)                                                                                    \
  HMM_INLINE float hmm_##name(float x) { return (float)hmm_##name((double)x); }                              \
  HMM_FUNCTION1(name)
HMM_SPECIAL(erfcx)
HMM_SPECIAL(erfinv)
HMM_SPECIAL(erfcinv)
HMM_SPECIAL(normcdf)
HMM_SPECIAL(normcdfinv)
HMM_SPECIAL(cyl_bessel_i0)
HMM_SPECIAL(cyl_bessel_i1)
#undef HMM_SPECIAL
#undef HMM_FUNCTION1
#undef HMM_FUNCTION2

} // namespace hmm_cuda
