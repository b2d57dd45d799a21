"""Histogram of an image: scattered atomic additions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hmmemu.kernels.images import ImageWorkload
from hmmemu.kernels.workload import Arrays, Launcher, blocks

BLOCK = 256
MAX_BLOCKS = 64  # few blocks: each pays for clearing and adding up its bins
SHIFT = 4  # 16 grey levels a bin
BINS = 65536 >> SHIFT


class Histogram(ImageWorkload):
    """Counts of grey levels, 16 levels a bin; whole numbers, so the same in every order."""

    name = "histogram"
    pattern = "one stream read; scattered atomics in shared memory, then to an array all blocks write"
    kernels = ("histogram",)

    def reference(self, data: NDArray[np.uint16]) -> Arrays:
        """NumPy's bincount."""
        return {"counts": np.bincount(data.ravel() >> SHIFT, minlength=BINS).astype(np.uint32)}

    def compute(self, launch: Launcher, data: NDArray[np.uint16]) -> Arrays:
        """One launch, with the bins in dynamic shared memory."""
        counts = launch.space.zeros(BINS, np.uint32)
        grid = min(blocks(data.size, BLOCK), MAX_BLOCKS)
        args = (data, np.int32(data.size), counts, np.int32(BINS), np.int32(SHIFT))
        launch("histogram", grid, BLOCK, *args, shared_mem=BINS * 4)
        return {"counts": counts}


WORKLOAD = Histogram()
