"""Histogram of an image, counted by CPU threads and device at the same time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels.images import ImageWorkload
from hmmemu.kernels.sharing import Beside, share
from hmmemu.kernels.workload import Arrays, Launcher, blocks

BLOCK = 128
CHUNK = 1024  # pixels; as in the kernel, like the next two
SHIFT = 8
BINS = 256


class SharedHistogram(ImageWorkload):
    """Counts of grey levels, 256 a bin. Both sides add to the same bins; whole numbers, so any order is right."""

    name = "shared_histogram"
    pattern = "CPU and device take chunks of one stream; system-wide atomics on one small array"
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        **ImageWorkload.sizes,
        "tiny": {"height": 93, "width": 160},  # more chunks
    }
    kernels = ("count",)
    shares = True

    def reference(self, data: NDArray[np.uint16]) -> Arrays:
        """NumPy's bincount."""
        return {"counts": np.bincount(data.ravel() >> SHIFT, minlength=BINS).astype(np.uint32)}

    def compute(self, launch: Launcher, data: NDArray[np.uint16]) -> Arrays:
        """Both sides count a chunk by themselves and then add to the bins."""
        counts = launch.space.zeros(BINS, np.uint32)
        pixels = data.ravel()

        def count(chunk: int, beside: Beside) -> None:
            local = np.bincount(pixels[chunk * CHUNK : (chunk + 1) * CHUNK] >> SHIFT)
            for level in np.flatnonzero(local):
                hmm.atomic_add(counts, level, local[level])

        args = (pixels, np.int32(pixels.size), counts)
        share(launch, blocks(pixels.size, CHUNK), "count", BLOCK, args, count)
        return {"counts": counts}


WORKLOAD = SharedHistogram()
