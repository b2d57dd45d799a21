"""Jacobi iteration in which device and CPU take turns on the same arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels.workload import Arrays, Launcher, Workload, blocks

BLOCK = (32, 8)


@dataclass(frozen=True)
class Data:
    """start and source, both (n, n) float64 and shared; the number of sweeps."""

    start: NDArray[Any]
    source: NDArray[Any]
    sweeps: int


class Jacobi(Workload):
    """The grid after a number of sweeps: even ones on the device, odd ones by NumPy.

    Additions are done in the same order everywhere, so the result is the same to the bit as NumPy's alone.
    """

    name = "jacobi"
    pattern = (
        "5-point stencil; CPU and device sweep the same two arrays in turn, so every page goes back and forth"
    )
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": {"n": 40, "sweeps": 5},
        "small": {"n": 256, "sweeps": 10},
        "medium": {"n": 1024, "sweeps": 20},
        "large": {"n": 4096, "sweeps": 20},
    }
    kernels = ("sweep",)

    def prepare(self, space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator) -> Data:
        """A grid of zeros with a border of random heights, and a random source."""
        n = size["n"]
        start = space.zeros((n, n), np.float64)
        for edge in (start[0], start[-1], start[:, 0], start[:, -1]):
            edge[:] = rng.uniform(-1, 1, n)
        source = space.empty((n, n), np.float64)
        source[:] = rng.normal(0, 1e-3, (n, n))
        return Data(start, source, size["sweeps"])

    def reference(self, data: Data) -> Arrays:
        """All sweeps by NumPy on copies of its own."""
        grid, other = np.array(data.start), np.array(data.start)
        source = np.array(data.source)
        for _ in range(data.sweeps):
            sweep(grid, source, other)
            grid, other = other, grid
        return {"grid": grid}

    def compute(self, launch: Launcher, data: Data) -> Arrays:
        """Device, CPU, device, CPU ..."""
        n = len(data.start)
        grid, other = data.start, launch.space.empty_like(data.start)
        other[:] = grid
        shape = (blocks(n, BLOCK[0]), blocks(n, BLOCK[1]))
        for number in range(data.sweeps):
            if number % 2 == 0:
                launch("sweep", shape, BLOCK, grid, data.source, other, np.int32(n))
            else:
                sweep(grid, data.source, other)
            grid, other = other, grid
        return {"grid": grid}


def sweep(grid: NDArray[Any], source: NDArray[Any], out: NDArray[Any]) -> None:
    """One sweep by NumPy: the inner points of `out` from those of `grid`."""
    vertical = grid[:-2, 1:-1] + grid[2:, 1:-1]
    horizontal = grid[1:-1, :-2] + grid[1:-1, 2:]
    out[1:-1, 1:-1] = ((vertical + horizontal) + source[1:-1, 1:-1]) * 0.25


WORKLOAD = Jacobi()
