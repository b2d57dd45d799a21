"""k-means clustering: the device assigns points and adds them up, the CPU moves the centres."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels.workload import Arrays, Launcher, Workload, blocks

BLOCK = 256
DIMENSIONS = 4  # as in kmeans.cu, like MAX_CENTRES
MAX_CENTRES = 64
RANGE = 1 << 20  # coordinates are 0 .. RANGE-1


@dataclass(frozen=True)
class Data:
    """points (DIMENSIONS, n) int32, plain; start (k, DIMENSIONS) int32, the first centres; rounds to do."""

    points: NDArray[np.int32]
    start: NDArray[np.int32]
    rounds: int


class KMeans(Workload):
    """Labels and centres after a fixed number of rounds.

    Coordinates are whole numbers, so distances and sums are exact; a tie goes to the centre of the lower
    number, and a centre without points stays where it is.
    """

    name = "kmeans"
    pattern = "streams with constant memory and atomics on a small table; CPU and device alternate each round"
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": {"n": 500, "k": 5, "rounds": 3},
        "small": {"n": 50_000, "k": 16, "rounds": 5},
        "medium": {"n": 500_000, "k": 32, "rounds": 10},
        "large": {"n": 4_000_000, "k": 64, "rounds": 10},
    }
    kernels = ("assign",)

    def prepare(self, space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator) -> Data:
        """Points in k Gaussian clouds; the first centres are the first k points."""
        n, k = size["n"], size["k"]
        clouds = rng.uniform(0.1, 0.9, (k, DIMENSIONS)) * RANGE
        floats = clouds[rng.integers(0, k, n)].T + rng.normal(0, 0.05 * RANGE, (DIMENSIONS, n))
        points = np.ascontiguousarray(np.clip(floats, 0, RANGE - 1), np.int32)
        return Data(points, np.ascontiguousarray(points[:, :k].T), size["rounds"])

    def reference(self, data: Data) -> Arrays:
        """Distances to all centres at once, 65,536 points at a time; sums by bincount."""
        n = data.points.shape[1]
        k = len(data.start)
        centres = data.start
        labels = np.empty(n, np.int32)
        for _ in range(data.rounds):
            for first in range(0, n, 1 << 16):
                labels[first : first + (1 << 16)] = _nearest(
                    data.points[:, first : first + (1 << 16)], centres
                )
            sums = [np.bincount(labels, row, minlength=k) for row in data.points]  # exact: below 2**53
            centres = _moved(
                centres, np.stack(sums, axis=1).astype(np.int64), np.bincount(labels, minlength=k)
            )
        return {"labels": labels, "centres": centres}

    def compute(self, launch: Launcher, data: Data) -> Arrays:
        """A launch a round; the centres are the kernel's `__constant__` variable, which the CPU writes."""
        n, k = data.points.shape[1], len(data.start)
        labels = np.empty(n, np.int32)
        sums = launch.space.zeros((k, DIMENSIONS + 1), np.uint64)
        constants = [variable.view(np.int32)[: k * DIMENSIONS] for variable in launch.variables("centres")]
        centres = data.start
        for _ in range(data.rounds):
            for constant in constants:
                constant[:] = centres.ravel()
            sums[:] = 0
            launch("assign", blocks(n, BLOCK), BLOCK, data.points, np.int32(n), np.int32(k), labels, sums)
            totals = sums.astype(np.int64)
            centres = _moved(centres, totals[:, :DIMENSIONS], totals[:, DIMENSIONS])
        return {"labels": labels, "centres": centres}


def _nearest(points: NDArray[np.int32], centres: NDArray[np.int32]) -> NDArray[np.intp]:
    """The number of the nearest centre for each column of `points`; the lowest one of equals."""
    distances = np.zeros((points.shape[1], len(centres)), np.int64)
    for row, column in zip(points, centres.T, strict=True):
        distances += (row[:, None].astype(np.int64) - column) ** 2
    return np.asarray(distances.argmin(axis=1))


def _moved(centres: NDArray[np.int32], sums: NDArray[Any], counts: NDArray[Any]) -> NDArray[np.int32]:
    """The means, rounded to the nearest whole number (halves up); a centre without points stays."""
    counts = counts[:, None]
    means = (2 * sums + counts) // np.maximum(2 * counts, 1)
    return np.where(counts > 0, means, centres).astype(np.int32)


WORKLOAD = KMeans()
