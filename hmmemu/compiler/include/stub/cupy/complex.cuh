// CuPy's <cupy/complex.cuh>. Without the prelude (when only the preprocessor runs) it defines nothing.
#pragma once
#ifdef HMM_ASSERT
#include <complex>

#include "hmmemu/cuda/complex.h"
using thrust::acos;
using thrust::acosh;
using thrust::arg;
using thrust::asin;
using thrust::asinh;
using thrust::atan;
using thrust::atanh;
using thrust::complex;
using thrust::conj;
using thrust::cos;
using thrust::cosh;
using thrust::exp;
using thrust::imag;
using thrust::log;
using thrust::log10;
using thrust::real;
using thrust::sin;
using thrust::sinh;
using thrust::tan;
using thrust::tanh;
#endif
