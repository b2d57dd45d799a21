"""Convolution, stencils, images, dynamic programming (grids.cu) against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_programs import program

import hmmemu as hmm

rng = np.random.default_rng(3)
F4 = np.float32


@pytest.fixture
def module(space: hmm.AddressSpace) -> hmm.RawModule:
    return program("grids")


def test_convolution_with_halo(module: hmm.RawModule) -> None:
    height, width = 61, 83
    x, out, taps = rng.random((height, width), F4), np.zeros((height, width), F4), rng.random((7, 7), F4)
    module.get_global("filter").view(F4)[:] = taps.ravel()
    module.get_function("convolve")((6, 4), (16, 16), (x, out, width, height))
    wide = np.pad(x.astype("f8"), 3, mode="edge")
    expected = sum(taps[j, i] * wide[j : j + height, i : i + width] for j in range(7) for i in range(7))
    np.testing.assert_allclose(out, expected, rtol=1e-5)


@pytest.mark.parametrize(("name", "dtype"), [("double", "f8"), ("unsigned char", "u1")])
def test_transpose(module: hmm.RawModule, name: str, dtype: str) -> None:
    x = rng.integers(0, 250, (75, 130)).astype(dtype)
    out = np.zeros((130, 75), dtype)
    module.get_function(f"transpose<{name}>")((5, 3), (32, 8), (out, x, 130, 75))
    np.testing.assert_array_equal(out, x.T)


def test_stencil_in_three_dimensions(module: hmm.RawModule) -> None:
    nx, ny, nz = 32, 16, 11
    x = rng.random((nz + 8, ny + 8, nx + 8), F4)
    out = np.zeros((nz, ny, nx), F4)
    module.get_function("stencil_3d")((nx // 16, ny // 8), (16, 8), (x, out, nx, ny, nz))
    weights, w = [0.5, 0.125, -0.0625, 0.03125, -0.015625], x.astype("f8")
    expected = weights[0] * w[4:-4, 4:-4, 4:-4]
    for r in range(1, 5):
        for axis in range(3):
            for shift in (-r, r):
                expected = expected + weights[r] * np.roll(w, shift, axis)[4:-4, 4:-4, 4:-4]
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("julia", [False, True])
def test_fractals(module: hmm.RawModule, julia: bool) -> None:
    width, height, limit = 70, 50, 60
    steps = np.zeros((height, width), np.uint16)
    pair = [("x", "f4"), ("y", "f4")]
    size = np.array((width, height), [("x", "i4"), ("y", "i4")])[()]
    corner, step, c = (np.array(v, pair)[()] for v in ((-2.0, -1.25), (0.043, 0.051), (-0.8, 0.156)))
    module.get_function("fractal")((9, 13), (8, 4), (steps, size, corner, step, c, julia, limit))
    x = F4(-2.0) + np.arange(width, dtype=F4) * F4(0.043)
    y = F4(-1.25) + np.arange(height, dtype=F4) * F4(0.051)
    point = x[None, :].astype("f8") + 1j * y[:, None].astype("f8")
    z, add = (point, np.complex128(-0.8 + 0.156j)) if julia else (np.zeros_like(point), point)
    expected = np.zeros((height, width), np.uint16)
    for _ in range(limit):
        inside = np.abs(z) <= 2
        expected += inside & (expected == expected.max())  # those that are still in
        z = np.where(inside, z * z + add, z)
    assert (steps != expected).mean() < 0.01  # float32 against float64, on the edge
    assert steps.max() == limit and len(np.unique(steps)) > 15


def test_hotspot(module: hmm.RawModule) -> None:
    n, steps = 40, 3
    heat, power = 300 + 10 * rng.random((n, n), F4), rng.random((n, n), F4)
    out, chip = np.zeros((n, n), F4), (0.1, 0.2, 0.3, 0.01, 280.0)
    inner = 16 - 2 * steps
    value = np.array(chip, [(k, "f4") for k in ("cap", "rx", "ry", "rz", "ambient")])[()]
    module.get_function("hotspot")((n // inner,) * 2, (16, 16), (power, heat, out, n, steps, value))
    t, (cap, rx, ry, rz, ambient) = heat.astype("f8"), chip
    for _ in range(steps):
        w = np.pad(t, 1, mode="edge")
        t = t + cap * (
            power
            + (w[2:, 1:-1] + w[:-2, 1:-1] - 2 * t) * ry
            + (w[1:-1, 2:] + w[1:-1, :-2] - 2 * t) * rx
            + (ambient - t) * rz
        )
    np.testing.assert_allclose(out, t, rtol=1e-6)


def test_diffusion_coefficients(module: hmm.RawModule) -> None:
    rows, columns, q0 = 37, 53, 0.05
    image, c = np.exp(rng.random((rows, columns), F4)), np.zeros((rows, columns), F4)
    module.get_function("diffusion")(3, 100, (image, c, rows, columns, F4(q0)))
    w, j = np.pad(image.astype("f8"), 1, mode="edge"), image.astype("f8")
    d = [w[:-2, 1:-1] - j, w[2:, 1:-1] - j, w[1:-1, :-2] - j, w[1:-1, 2:] - j]
    g2, lap = sum(v * v for v in d) / j**2, sum(d) / j
    q = (0.5 * g2 - lap**2 / 16) / (1 + 0.25 * lap) ** 2
    expected = np.clip(1 / (1 + (q - q0) / (q0 * (1 + q0))), 0, 1)
    np.testing.assert_allclose(c, expected, rtol=1e-3, atol=1e-5)
    assert (c == 1).any() and (c < 0.5).any()


def test_path_finder(module: hmm.RawModule) -> None:
    rows, columns = 30, 333
    wall, cost = rng.integers(0, 10, (rows, columns), np.int32), np.zeros(columns, np.int32)
    module.get_function("path_finder")(1, 128, (wall, cost, columns, rows), shared_mem=8 * columns)
    best = wall[0]
    for r in range(1, rows):
        wide = np.pad(best, 1, constant_values=10**6)
        best = wall[r] + np.minimum(np.minimum(wide[:-2], wide[2:]), best)
    np.testing.assert_array_equal(cost, best)


def test_needleman_wunsch(module: hmm.RawModule) -> None:
    n, penalty = 64, 3
    similarity = rng.integers(-5, 6, (n, n), np.int32)
    score = np.zeros((n + 1, n + 1), np.int32)
    score[0], score[:, 0] = -penalty * np.arange(n + 1), -penalty * np.arange(n + 1)
    expected = score.copy()
    tiles = n // 16
    for diagonal in range(2 * tiles - 1):
        blocks = min(diagonal, tiles - 1) - max(0, diagonal - tiles + 1) + 1
        module.get_function("align")(blocks, 16, (similarity, score, n, diagonal, penalty))
    for y in range(1, n + 1):
        for x in range(1, n + 1):
            step = expected[y - 1, x - 1] + similarity[y - 1, x - 1]
            expected[y, x] = max(step, expected[y, x - 1] - penalty, expected[y - 1, x] - penalty)
    np.testing.assert_array_equal(score, expected)


@pytest.mark.parametrize("block", [(1, 1, 1), (5, 3, 2), (4, 8, 32), (1, 1, 64)])
def test_grids_and_blocks_in_three_dimensions(module: hmm.RawModule, block: tuple[int, int, int]) -> None:
    nx, ny, nz = 13, 11, 7
    out = np.zeros((nz, ny, nx), np.uint64)
    grid = tuple(-(-n // b) for n, b in zip((nx, ny, nz), block, strict=True))
    size = np.array((nx, ny, nz), [(k, "u4") for k in "xyz"])[()]
    module.get_function("positions")(grid, block, (out, size))
    z, y, x = np.indices((nz, ny, nx))
    np.testing.assert_array_equal(out, (z << 40) + (y << 20) + x)
