"""Times numba's CUDA simulator on small sizes and prints JSON: kernel -> size, work of a launch (GB or GFLOP), seconds.

A program of its own, because numba decides at import, by NUMBA_ENABLE_CUDASIM=1, to simulate. Results are checked.
"""

# The kernels have no annotations: numba compiles them.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

cuda: Any = importlib.import_module("numba.cuda")
numba: Any = importlib.import_module("numba")
float32, uint32 = numba.float32, numba.uint32
TILE, BLOCK = 16, 256


@cuda.jit
def saxpy(n, a, x, y):
    """y = a x + y."""
    i = cuda.grid(1)
    if i < n:
        y[i] = a * x[i] + y[i]


@cuda.jit
def stencil(n, x, y):
    """Weighted mean of three neighbours."""
    i = cuda.grid(1)
    if 0 < i < n - 1:
        y[i] = 0.25 * x[i - 1] + 0.5 * x[i] + 0.25 * x[i + 1]


@cuda.jit
def matmul(n, a, b, c):
    """c = a b, a thread an element."""
    column, row = cuda.grid(2)
    if row < n and column < n:
        total = float32(0)
        for k in range(n):
            total += a[row, k] * b[k, column]
        c[row, column] = total


@cuda.jit
def tiled(n, a, b, c):
    """c = a b by tiles in shared memory; n is a multiple of the tile."""
    sa = cuda.shared.array((TILE, TILE), float32)
    sb = cuda.shared.array((TILE, TILE), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    column, row = cuda.grid(2)
    total = float32(0)
    for t in range(n // TILE):
        sa[ty, tx] = a[row, t * TILE + tx]
        sb[ty, tx] = b[t * TILE + ty, column]
        cuda.syncthreads()
        for k in range(TILE):
            total += sa[ty, k] * sb[k, tx]
        cuda.syncthreads()
    c[row, column] = total


@cuda.jit
def reduce(n, x, sums):
    """One sum a block."""
    part = cuda.shared.array(BLOCK, float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    part[t] = x[i] if i < n else 0
    cuda.syncthreads()
    half = BLOCK // 2
    while half > 0:
        if t < half:
            part[t] += part[t + half]
        cuda.syncthreads()
        half //= 2
    if t == 0:
        sums[cuda.blockIdx.x] = part[0]


@cuda.jit
def histogram(n, data, counts):
    """Counts of byte values: first in shared memory."""
    mine = cuda.shared.array(BLOCK, uint32)
    t = cuda.threadIdx.x
    mine[t] = 0
    cuda.syncthreads()
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        cuda.atomic.add(mine, data[i], 1)
    cuda.syncthreads()
    cuda.atomic.add(counts, t, mine[t])


def timed(launch: Callable[[], None]) -> float:
    """Seconds of one launch."""
    start = time.perf_counter()
    launch()
    return time.perf_counter() - start


def streams(n: int) -> dict[str, Any]:
    """saxpy and stencil of n elements."""
    x, y = np.arange(n, dtype=np.float32) % 13, np.arange(n, dtype=np.float32) % 7
    out = y.copy()
    seconds = timed(lambda: saxpy[n // BLOCK, BLOCK](n, np.float32(0.5), x, out))
    assert np.array_equal(out, np.float32(0.5) * x + y)
    found = {"saxpy": {"size": n, "work": 12e-9 * n, "seconds": seconds}}
    seconds = timed(lambda: stencil[n // BLOCK, BLOCK](n, x, out))
    assert np.array_equal(out[1:-1], 0.25 * x[:-2] + 0.5 * x[1:-1] + 0.25 * x[2:])
    found["stencil"] = {"size": n, "work": 8e-9 * n, "seconds": seconds}
    return found


def products(n: int) -> dict[str, Any]:
    """Both matrix products of n x n."""
    a, b = (np.arange(n * n, dtype=np.float32).reshape(n, n) % k for k in (13, 7))
    found = {}
    for kernel, name in ((matmul, "matmul"), (tiled, "tiled")):
        c = np.zeros((n, n), np.float32)
        launch = partial(kernel[(n // TILE, n // TILE), (TILE, TILE)], n, a, b, c)
        seconds = timed(launch)
        assert np.array_equal(c, a @ b)
        found[name] = {"size": n, "work": 2e-9 * n**3, "seconds": seconds}
    return found


def blocks(n: int) -> dict[str, Any]:
    """Reduction of n floats, histogram of n bytes."""
    x, sums = np.arange(n, dtype=np.float32) % 13, np.zeros(n // BLOCK, np.float32)
    seconds = timed(lambda: reduce[n // BLOCK, BLOCK](n, x, sums))
    assert np.array_equal(sums, x.reshape(-1, BLOCK).sum(axis=1))
    found = {"reduce": {"size": n, "work": 4e-9 * n, "seconds": seconds}}
    data, counts = (np.arange(n) * 37 % 256).astype(np.uint8), np.zeros(256, np.uint32)
    seconds = timed(lambda: histogram[2, BLOCK](n, data, counts))
    assert np.array_equal(counts, np.bincount(data, minlength=256))
    found["histogram"] = {"size": n, "work": 1e-9 * n, "seconds": seconds}
    return found


if __name__ == "__main__":
    quick = "--quick" in sys.argv
    saxpy[1, 32](
        0, np.float32(1), np.zeros(1, np.float32), np.zeros(1, np.float32)
    )  # numba's own start is not timed
    print(
        json.dumps(
            {
                **streams(1024 if quick else 8192),
                **products(16 if quick else 32),
                **blocks(512 if quick else 2048),
            }
        )
    )
