"""Vector sum: three streams through memory that NumPy allocated in its usual way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels.workload import Arrays, Launcher, Workload, blocks

BLOCK = 256


@dataclass(frozen=True)
class Data:
    """Two vectors, float32, of one length: plain NumPy arrays, registered when a kernel first gets them."""

    a: NDArray[np.float32]
    b: NDArray[np.float32]


class VectorAdd(Workload):
    """c = a + b; one IEEE addition an element, so NumPy's result is the same to the bit."""

    name = "vector_add"
    pattern = "three streams in order, every byte once; arrays from plain NumPy"
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": {"n": 1_000},
        "small": {"n": 1 << 20},
        "medium": {"n": 1 << 24},
        "large": {"n": 1 << 26},
    }
    kernels = ("vector_add",)

    def prepare(self, space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator) -> Data:
        """Two vectors of standard normal values."""
        n = size["n"]
        return Data(rng.standard_normal(n, np.float32), rng.standard_normal(n, np.float32))

    def reference(self, data: Data) -> Arrays:
        """NumPy's sum."""
        return {"c": data.a + data.b}

    def compute(self, launch: Launcher, data: Data) -> Arrays:
        """One launch a device, each on its slice. `c` is all written, so nothing of it moves there."""
        c = np.empty_like(data.a)
        for part in launch.slices(c.size):
            n = part.stop - part.start
            launch(
                "vector_add",
                blocks(n, BLOCK),
                BLOCK,
                data.a[part],
                data.b[part],
                hmm.Out(c[part]),
                np.int32(n),
            )
        return {"c": c}


WORKLOAD = VectorAdd()
