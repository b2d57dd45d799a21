"""Histogram of an image, counted by CPU threads and device at the same time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels import images
from hmmemu.kernels.sharing import Beside, share
from hmmemu.kernels.workload import Arrays, Launcher, Workload, blocks

BLOCK = 128
CHUNK = 1024  # pixels; as in the kernel, like the next two
SHIFT = 8
BINS = 256


class SharedHistogram(Workload):
    """Counts of grey levels, 256 a bin. Both sides add to the same bins; whole numbers, so any order is right."""

    name = "shared_histogram"
    pattern = "CPU and device take chunks of one stream; system-wide atomics on one small array"
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": {"height": 93, "width": 160},
        "small": {"height": 512, "width": 768},
        "medium": {"height": 2048, "width": 3072},
        "large": {"height": 4096, "width": 6144},
    }
    kernels = ("count",)
    reads_image = True
    shares = True

    def prepare(
        self, space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator
    ) -> NDArray[np.uint16]:
        """A synthetic image, a plain NumPy array."""
        return images.synthetic(size["height"], size["width"], rng)

    def prepare_image(self, image: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """The user's image as it is."""
        return image

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
