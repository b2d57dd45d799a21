// Rounding to odd: an inexact result takes the neighbour whose last bit is one. A second, coarser rounding
// then comes out as if there had been no first (Boldo and Melquiond, "Emulation of a FMA and correctly
// rounded sums", 2008).
#pragma once

namespace hmm_cuda {

// `nearest`, of an exact value that is off by `error` (only its sign counts).
HMM_INLINE double hmm_to_odd(double nearest, double error) {
  bool even = (__double_as_longlong(nearest) & 1) == 0;
  if (error == 0 || error != error || !even || __builtin_isinf(nearest)) return nearest;
  return hmm_next(nearest, error > 0 ? 1 : -1);
}
HMM_INLINE float hmm_float_to_odd(double x) {
  float below = __double2float_rz(x);
  if ((double)below == x || x != x) return below;
  return __uint_as_float(__float_as_uint(below) | 1);
}
template <class I> HMM_INLINE double hmm_double_to_odd(I x) {
  if constexpr (sizeof(I) < 8) return (double)x;
  double below = hmm_from_integer<double, hmm_mode::zero>(x);
  return (__int128)below == (__int128)x ? below : __longlong_as_double(__double_as_longlong(below) | 1);
}

} // namespace hmm_cuda
