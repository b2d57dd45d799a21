"""Random sample consensus: the CPU fits lines while the kernel that judges them runs, with a flag for each line.

The idea is that of the workload RSCT in the CHAI benchmarks (Gomez-Luna et al., ISPASS 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels.workload import Arrays, Launcher, Workload

BLOCK, BLOCKS = 64, 8
SIDE = 4096  # of the square that the points lie in: squared distances are exact in 64 bits
FAR = 4  # a point further than this from a line is an outlier


@dataclass(frozen=True)
class Data:
    """Points: x and y (count,), int32, shared. `samples` (iterations, 2): the points that each line goes through."""

    x: NDArray[Any]
    y: NDArray[Any]
    samples: NDArray[Any]


class Ransac(Workload):
    """How many points lie far from each of many lines, and which line has the fewest.

    A line is (a, b, c, limit), int64: the point (x, y) is far where (a x + b y + c)^2 > limit.
    """

    name = "ransac"
    pattern = "the CPU raises a flag per iteration while the kernel runs, waits for it and reads all points"
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": {"points": 1000, "iterations": 30},
        "small": {"points": 20_000, "iterations": 300},
        "medium": {"points": 200_000, "iterations": 1000},
        "large": {"points": 1_000_000, "iterations": 500},
    }
    kernels = ("count_far",)

    def prepare(self, space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator) -> Data:
        """A third of the points lie near a line, the others anywhere."""
        count = size["points"]
        x, y = (space.empty(count, np.int32) for _ in range(2))
        x[:], y[:] = rng.integers(0, SIDE, (2, count))
        start, end = rng.integers(0, SIDE, 2)
        near = slice(0, count // 3)
        y[near] = start + (end - start) * x[near] // SIDE + rng.integers(-FAR // 2, FAR // 2 + 1, count // 3)
        samples = rng.integers(0, count, (size["iterations"], 2))
        return Data(x, y, samples)

    def reference(self, data: Data) -> Arrays:
        """A line after the other."""
        x, y = data.x.astype(np.int64), data.y.astype(np.int64)
        far = np.empty(len(data.samples), np.int32)
        for number, pair in enumerate(data.samples):
            a, b, c, limit = _fit(data, pair)
            far[number] = np.count_nonzero((a * x + b * y + c) ** 2 > limit)
        best = int(far.argmin())
        return {"far": far, "best": np.array([int(far[best]) << 32 | best], np.uint64)}

    def compute(self, launch: Launcher, data: Data) -> Arrays:
        """Launches first, then fits lines; each device takes iterations from the same counter."""
        space, iterations = launch.space, len(data.samples)
        lines = space.zeros((iterations, 4), np.int64)
        flags, far = (space.zeros(iterations, np.int32) for _ in range(2))
        taken, best = space.zeros(1, np.int32), space.full(1, np.iinfo(np.uint64).max, np.uint64)
        with launch.together():
            for _ in space.devices:
                counts = (np.int32(iterations), taken, far, best)
                launch(
                    "count_far", BLOCKS, BLOCK, data.x, data.y, np.int32(data.x.size), flags, lines, *counts
                )
            for number, pair in enumerate(data.samples):
                lines[number] = _fit(data, pair)
                hmm.atomic_store(flags, number, 1)  # whoever sees it sees the line
        return {"far": far, "best": best}


def _fit(data: Data, pair: NDArray[Any]) -> tuple[int, int, int, int]:
    """The line through two points; where they are the same, one that all points are far from."""
    (x0, x1), (y0, y1) = data.x[pair].tolist(), data.y[pair].tolist()
    a, b = y0 - y1, x1 - x0
    limit = FAR**2 * (a * a + b * b) if a or b else -1
    return a, b, -(a * x0 + b * y0), limit


WORKLOAD = Ransac()
