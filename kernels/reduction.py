"""Reduction: the sum of an array, by a tree in shared memory and shuffles within a warp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels.workload import Arrays, Launcher, Workload, blocks

BLOCK = 256  # as in reduction.cu
MAX_BLOCKS = 1024


class Reduction(Workload):
    """Sum of float32 values in double precision.

    The values are multiples of 2**-10 below 2**10, so every partial sum of up to 2**32 of them is exact in
    double precision: any order of additions gives the same bits.
    """

    name = "reduction"
    pattern = "one stream read once; tree in shared memory with barriers; one write a block"
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": {"n": 3_000},
        "small": {"n": 1 << 20},
        "medium": {"n": 1 << 24},
        "large": {"n": 1 << 27},
    }
    kernels = ("block_sum<float>", "block_sum<double>")

    def prepare(
        self, space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator
    ) -> NDArray[Any]:
        """A shared array (n,) of float32."""
        values = space.empty(size["n"], np.float32)
        values[:] = rng.integers(-(1 << 20), 1 << 20, size["n"], np.int32)
        values /= 1 << 10
        return np.asarray(values)

    def reference(self, data: NDArray[Any]) -> Arrays:
        """NumPy's sum in double precision."""
        return {"sum": data.sum(dtype=np.float64, keepdims=True)}

    def compute(self, launch: Launcher, data: NDArray[Any]) -> Arrays:
        """Partial sums, then their sum."""
        count = min(blocks(data.size, BLOCK), MAX_BLOCKS)
        partial = launch.space.empty(count, np.float64)
        total = launch.space.empty(1, np.float64)
        launch("block_sum<float>", count, BLOCK, data, partial, np.int32(data.size))
        launch("block_sum<double>", 1, BLOCK, partial, total, np.int32(count))
        return {"sum": total}


WORKLOAD = Reduction()
