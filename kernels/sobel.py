"""Sobel's edge filter on an image: a stencil of 3 x 3."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels.images import ImageWorkload
from hmmemu.kernels.workload import Arrays, Launcher, blocks

BLOCK = (32, 8)


class Sobel(ImageWorkload):
    """Gradient magnitude of an image, float32.

    The sum of squares is a whole number below 2**37; IEEE rounds the square root correctly, so NumPy gives
    the same bits.
    """

    name = "sobel"
    pattern = "3 x 3 stencil on an image: overlapping reads of three rows, one stream of writes"
    kernels = ("sobel",)

    def reference(self, data: NDArray[np.uint16]) -> Arrays:
        """The filter as sums of shifted copies of the padded image."""
        height, width = data.shape
        padded = np.pad(data.astype(np.int64), 1, mode="edge")

        def shifted(down: int, right: int) -> NDArray[np.int64]:
            return padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]

        dx = np.zeros((height, width), np.int64)
        dy = np.zeros((height, width), np.int64)
        for along, weight in ((-1, 1), (0, 2), (1, 1)):
            dx += weight * (shifted(along, 1) - shifted(along, -1))
            dy += weight * (shifted(1, along) - shifted(-1, along))
        return {"edges": np.sqrt((dx * dx + dy * dy).astype(np.float64)).astype(np.float32)}

    def compute(self, launch: Launcher, data: NDArray[np.uint16]) -> Arrays:
        """One launch; a thread a pixel."""
        height, width = data.shape
        edges: NDArray[Any] = np.empty(data.shape, np.float32)
        grid = (blocks(width, BLOCK[0]), blocks(height, BLOCK[1]))
        launch("sobel", grid, BLOCK, data, hmm.Out(edges), np.int32(height), np.int32(width))
        return {"edges": edges}


WORKLOAD = Sobel()
