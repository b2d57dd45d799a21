"""Complex numbers in kernels: CuPy's <cupy/complex.cuh> and CUDA's <cuComplex.h>, beside NumPy's."""

from __future__ import annotations

import numpy as np
import pytest
from loader import Module

OPERATIONS = {  # what a kernel writes, and what NumPy makes of the same numbers
    "a + b": lambda a, b, s: a + b,
    "a - b": lambda a, b, s: a - b,
    "a * b": lambda a, b, s: a * b,
    "a / b": lambda a, b, s: a / b,
    "a * s": lambda a, b, s: a * s,
    "s / a": lambda a, b, s: s / a,
    "s - a": lambda a, b, s: s - a,
    "-conj(a)": lambda a, b, s: -a.conj(),
    "exp(a)": lambda a, b, s: np.exp(a),
    "log(a)": lambda a, b, s: np.log(a),
    "sqrt(a)": lambda a, b, s: np.sqrt(a),
    "pow(a, b)": lambda a, b, s: a**b,
    "sin(a) + sin(s)": lambda a, b, s: np.sin(a) + np.sin(s),
    "tanh(a)": lambda a, b, s: np.tanh(a),
    "complex<T>(abs(a), arg(a))": lambda a, b, s: np.abs(a) + 1j * np.angle(a),
    "complex<T>(norm(a), a.imag())": lambda a, b, s: np.abs(a) ** 2 + 1j * a.imag,
    "thrust::polar(s, real(a))": lambda a, b, s: s * np.exp(1j * a.real),
    "complex<T>(a == b, isnan(a) || isinf(b) || a != a)": lambda a, b, s: 0 * a,
    "(a += b, a *= s, a -= T(1), a /= b)": lambda a, b, s: ((a + b) * s - 1) / b,
}
CUPY = (
    """
#include <cupy/complex.cuh>
template <class T> __global__ void all(const complex<T>* x, const complex<T>* y, complex<T>* out, T s) {
  __shared__ complex<T> shared[64];
  int i = threadIdx.x;
  shared[63 - i] = x[i];
  __syncthreads();
  complex<T> a, b = y[i];
"""
    + "".join(f"  a = shared[63 - i]; out[{i * 64} + i] = {text};\n" for i, text in enumerate(OPERATIONS))
    + "}\n"
)
CUDA = """
#include <cuComplex.h>
extern "C" __global__ void all(const cuFloatComplex* x, const cuComplex* y, cuComplex* f, cuDoubleComplex* d) {
  int i = threadIdx.x, n = blockDim.x;
  f[i] = cuCmulf(x[i], y[i]);
  f[i + n] = cuCdivf(x[i], y[i]);
  f[i + 2 * n] = make_cuFloatComplex(cuCabsf(x[i]), cuCimagf(cuConjf(y[i])));
  f[i + 3 * n] = cuCfmaf(x[i], y[i], cuCsubf(x[i], y[i]));
  cuDoubleComplex a = cuCadd(cuComplexFloatToDouble(x[i]), make_cuDoubleComplex(1, 2));
  d[i] = cuCmul(a, a);
  d[i + n] = cuCdiv(a, make_cuDoubleComplex(1e200, cuCreal(a) * 1e200));
}
"""


def numbers(dtype: type) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    both = random.normal(size=(2, 64)) + 1j * random.normal(size=(2, 64))
    return both[0].astype(dtype), both[1].astype(dtype)


@pytest.mark.parametrize(("real", "dtype"), [("float", np.complex64), ("double", np.complex128)])
def test_cupys_complex_numbers(real: str, dtype: type) -> None:
    x, y = numbers(dtype)
    s = x.real.dtype.type(1.5)
    out = np.zeros((len(OPERATIONS), 64), dtype)
    Module(CUPY, name_expressions=[f"all<{real}>"]).kernel(f"all<{real}>")(1, 64, x, y, out, s)
    for result, (text, same) in zip(out, OPERATIONS.items(), strict=True):
        wanted = same(x, y, s)
        error = np.abs(result - wanted) / (np.abs(wanted) + 0.1)
        assert error.max() < 16 * np.finfo(dtype).eps, text


def test_cudas_complex_numbers() -> None:
    x, y = numbers(np.complex64)
    single, double = np.zeros((4, 64), np.complex64), np.zeros((2, 64), np.complex128)
    Module(CUDA).kernel("all")(1, 64, x, y, single, double)
    wanted = [x * y, x / y, np.abs(x) - 1j * y.imag, x * y + (x - y)]
    np.testing.assert_allclose(single, wanted, rtol=2e-6, atol=2e-7)
    a = x.astype(np.complex128) + 1 + 2j
    np.testing.assert_allclose(double, [a * a, a / (1 + 1j * a.real) / 1e200], rtol=1e-14)
