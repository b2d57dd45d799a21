"""Matrix product by tiles in shared memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels.workload import Arrays, Launcher, Workload, blocks

TILE = 16  # as in matmul.cu


@dataclass(frozen=True)
class Data:
    """a (m, k) and b (k, n), float32, whole numbers from -16 to 16; shared arrays."""

    a: NDArray[Any]
    b: NDArray[Any]


class Matmul(Workload):
    """c = a @ b in float32.

    The entries are whole numbers of at most 16, so every partial sum of up to 65,535 products stays below
    2**24 and is exact in float32, with or without fused multiply-add.
    """

    name = "matmul"
    pattern = "tiles of 16 x 16 reused from shared memory between barriers"
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": {"m": 33, "n": 20, "k": 17},
        "small": {"m": 256, "n": 256, "k": 256},
        "medium": {"m": 512, "n": 512, "k": 512},
        "large": {"m": 2048, "n": 2048, "k": 2048},
    }
    kernels = ("matmul",)

    def prepare(self, space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator) -> Data:
        """Two matrices of whole numbers."""
        a = space.empty((size["m"], size["k"]), np.float32)
        b = space.empty((size["k"], size["n"]), np.float32)
        a[:] = rng.integers(-16, 17, a.shape)
        b[:] = rng.integers(-16, 17, b.shape)
        return Data(a, b)

    def reference(self, data: Data) -> Arrays:
        """NumPy's product in double precision, which is exact for these values."""
        product = data.a.astype(np.float64) @ data.b.astype(np.float64)
        return {"c": product.astype(np.float32) + np.float32(0)}  # a zero is positive, as in the kernel

    def compute(self, launch: Launcher, data: Data) -> Arrays:
        """One launch; a block a tile of the result."""
        (m, k), n = data.a.shape, data.b.shape[1]
        c = launch.space.empty((m, n), np.float32)
        grid = (blocks(n, TILE), blocks(m, TILE))
        launch("matmul", grid, (TILE, TILE), data.a, data.b, c, np.int32(m), np.int32(n), np.int32(k))
        return {"c": c}


WORKLOAD = Matmul()
