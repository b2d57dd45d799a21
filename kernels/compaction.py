"""Stream compaction in place, by CPU threads and device at the same time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels.sharing import Beside, share
from hmmemu.kernels.workload import Arrays, Launcher, Workload, blocks

BLOCK = 256  # as in the kernel
CHUNK = 4 * BLOCK


class Compaction(Workload):
    """The elements of an array that are not zero, in their order, at its front.

    Where an element goes depends on all elements before it, not on who moves it.
    """

    name = "compaction"
    pattern = "CPU and device take chunks of one stream, in place; each waits for the flag of the one before"
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": {"n": 15_000},
        "small": {"n": 400_000},
        "medium": {"n": 6_000_000},
        "large": {"n": 50_000_000},
    }
    kernels = ("compact",)
    shares = True

    def prepare(
        self, space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator
    ) -> NDArray[np.int32]:
        """int32, shared; half of the elements are zero."""
        x = space.empty(size["n"], np.int32)
        x[:] = rng.integers(1, 1 << 31, x.size, np.int32)
        x[rng.random(x.size, np.float32) < 0.5] = 0
        return x

    def reference(self, data: NDArray[np.int32]) -> Arrays:
        """NumPy's boolean indexing."""
        return {"kept": data[data != 0]}

    def compute(self, launch: Launcher, data: NDArray[np.int32]) -> Arrays:
        """flags[i] passes on how many elements were kept before chunk i."""
        chunks = blocks(data.size, CHUNK)
        flags = launch.space.zeros(chunks + 1, np.uint32)
        flags[0] = 1

        def compact(chunk: int, beside: Beside) -> None:
            part = data[chunk * CHUNK : (chunk + 1) * CHUNK]
            kept = part[part != 0]
            before = beside.wait(flags, chunk, bool)
            hmm.atomic_store(flags, chunk + 1, before + kept.size)
            data[before - 1 : before - 1 + kept.size] = kept

        share(launch, chunks, "compact", BLOCK, (data, np.int32(data.size), flags), compact)
        return {"kept": data[: int(flags[chunks]) - 1]}


WORKLOAD = Compaction()
