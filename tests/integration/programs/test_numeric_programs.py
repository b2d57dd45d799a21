"""Linear algebra, particles, graphs, sparse matrices, random numbers (numeric.cu) against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cuda_programs import program

import hmmemu as hmm

rng = np.random.default_rng(4)
F4 = np.float32


@pytest.fixture
def module(space: hmm.AddressSpace) -> hmm.RawModule:
    return program("numeric")


def test_n_body(module: hmm.RawModule) -> None:
    n = 512
    bodies, out = rng.random((n, 4), F4), np.zeros((n, 4), F4)
    module.get_function("n_body")(n // 64, 64, (bodies, out, n, F4(0.01)), shared_mem=64 * 16)
    b = bodies.astype("f8")
    r = b[None, :, :3] - b[:, None, :3]
    expected = (r * (b[None, :, 3] * ((r**2).sum(2) + 0.01) ** -1.5)[..., None]).sum(1)
    np.testing.assert_allclose(out[:, :3], expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "bm", "bn", "tm", "tolerance"),
    [("gemm<float, 64, 32, 8, 8>", 64, 32, 8, 1e-5), ("gemm<double, 16, 16, 16, 4>", 16, 16, 4, 1e-13)],
)
def test_matrix_product(
    module: hmm.RawModule, name: str, bm: int, bn: int, tm: int, tolerance: float
) -> None:
    m, n, k = 100, 70, 45
    dtype = F4 if "float" in name else np.float64
    a, b, c = (rng.random(shape).astype(dtype) for shape in ((m, k), (k, n), (m, n)))
    expected = 1.5 * a.astype("f8") @ b.astype("f8") - 0.5 * c
    grid, block = (-(-n // bn), -(-m // bm)), bm * bn // tm
    module.get_function(name)(grid, block, (m, n, k, dtype(1.5), a, b, dtype(-0.5), c))
    np.testing.assert_allclose(c, expected, rtol=tolerance)


def test_lu_decomposition(module: hmm.RawModule) -> None:
    n, count = 16, 5
    a = rng.random((count, n, n)) + n * np.eye(n)
    lu = a.copy()
    module.get_function("lu_tile")(count, n, (lu, n))
    product = (np.tril(lu, -1) + np.eye(n)) @ np.triu(lu)
    np.testing.assert_allclose(product, a, rtol=1e-12)


def test_floyd_warshall(module: hmm.RawModule) -> None:
    n = 70
    distance = rng.integers(1, 100, (n, n), np.int32)
    distance[rng.random((n, n)) < 0.8] = 10**6
    np.fill_diagonal(distance, 0)
    expected = distance.copy()
    for k in range(n):
        module.get_function("shorten")((2, n), 48, (distance, n, k))
        expected = np.minimum(expected, expected[:, k : k + 1] + expected[k : k + 1])
    np.testing.assert_array_equal(distance, expected)


def test_sparse_formats(module: hmm.RawModule) -> None:
    rows, columns = 300, 200
    dense = np.where(rng.random((rows, columns)) < 0.07, rng.integers(-5, 6, (rows, columns)), 0)
    x = rng.integers(-5, 6, columns)
    r, c = np.nonzero(dense)
    v = dense[r, c]
    starts = np.searchsorted(r, np.arange(rows + 1)).astype(np.int32)
    width = int(np.diff(starts).max())
    ell_columns, ell_values = np.full((width, rows), -1, np.int32), np.zeros((width, rows), F4)
    for row in range(rows):
        for i, e in enumerate(range(starts[row], starts[row + 1])):
            ell_columns[i, row], ell_values[i, row] = c[e], v[e]
    r, c, xf, y = r.astype(np.int32), c.astype(np.int32), x.astype(F4), np.ones(rows, F4)
    module.get_function("spmv_ell")(3, 128, (rows, width, ell_columns, ell_values, xf, y))
    np.testing.assert_array_equal(y, dense @ x + 1)
    module.get_function("spmv_csr_warp")(100, 96, (rows, starts, c, v.astype(F4), xf, y))
    np.testing.assert_array_equal(y, dense @ x)
    y8 = np.zeros(rows)
    module.get_function("spmv_coo")(7, 64, (v.size, r, c, v.astype("f8"), x.astype("f8"), y8))
    np.testing.assert_array_equal(y8, dense @ x)


def xorshift(state: list[int]) -> int:
    x, y, z, w = state
    t = (x ^ (x << 11)) & 0xFFFFFFFF
    state[:] = y, z, w, w ^ (w >> 19) ^ t ^ (t >> 8)
    return state[3]


def test_monte_carlo(module: hmm.RawModule) -> None:
    n, draws = 128, 50
    states = rng.integers(1, 2**32, (n, 4), np.uint32)
    mine, hits = states.tolist(), np.zeros(n, np.uint32)
    for _ in range(2):  # the second launch goes on where the first ended
        module.get_function("pi_hits")(2, 64, (states, hits, draws))
        expected = []
        for state in mine:
            count = 0
            for _ in range(draws):
                x, y = (F4(F4(xorshift(state)) * F4(2.3283064365386963e-10)) for _ in range(2))
                count += math.fma(x, x, F4(y * y)) < 1 if hasattr(math, "fma") else F4(x * x + y * y) < 1
            expected.append(count)
        assert states.tolist() == mine
        assert np.abs(hits.astype(int) - expected).sum() <= 1  # a fused multiply-add may round across 1
    assert abs(4 * hits.mean() / draws - np.pi) < 0.1


def test_lcg_that_skips_ahead(module: hmm.RawModule) -> None:
    n, seed = 1000, 12345
    out, state, expected = np.zeros(n, np.uint64), seed, []
    module.get_function("lcg_skip")(8, 128, (seed, out, n))
    for _ in range(n):
        expected.append(state)
        state = (6364136223846793005 * state + 1442695040888963407) % 2**64
    np.testing.assert_array_equal(out, np.array(expected, np.uint64))


def test_black_scholes(module: hmm.RawModule) -> None:
    n, r, v = 500, 0.02, 0.3
    s, x, t = (rng.uniform(*limits, n).astype(F4) for limits in ((5, 30), (1, 100), (0.25, 10)))
    out = np.zeros((n, 2), F4)
    module.get_function("black_scholes")(4, 128, (out, s, x, t, F4(r), F4(v), n))
    s, x, t = (a.astype("f8") for a in (s, x, t))
    d1 = (np.log(s / x) + (r + v * v / 2) * t) / (v * np.sqrt(t))
    cdf = np.vectorize(lambda d: 0.5 * math.erfc(-d / math.sqrt(2)))
    call = s * cdf(d1) - x * np.exp(-r * t) * cdf(d1 - v * np.sqrt(t))
    np.testing.assert_allclose(out[:, 0], call, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out[:, 1], call - s + x * np.exp(-r * t), rtol=1e-4, atol=2e-4)


def test_special_functions_in_double(module: hmm.RawModule) -> None:
    x, out = rng.uniform(0.1, 20, 50), np.zeros(50)
    module.get_function("special")(1, 64, (x, out, 50))
    lgamma = np.vectorize(math.lgamma)
    np.testing.assert_allclose(out, 1 + lgamma(x + 1) + np.cbrt(x) + np.hypot(x, 3) + x, rtol=1e-14)


def test_histogram_by_warps(module: hmm.RawModule) -> None:
    x, bins = rng.integers(0, 256, 40_000, np.uint8), np.zeros(256, np.uint32)
    module.get_function("histogram_warps")(6, 128, (x, x.size // 4, bins))
    np.testing.assert_array_equal(bins, np.bincount(x, minlength=256))
