"""Transposition of a matrix of tiles in place, by CPU threads and device at the same time.

The walk along the cycles of the permutation, with a claim for each place, is that of Gomez-Luna et al., "In-place
matrix transposition on GPUs", IEEE Transactions on Parallel and Distributed Systems 27 (2016).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels.sharing import Beside, share
from hmmemu.kernels.workload import Arrays, Launcher, Workload, blocks

TILE = 64  # numbers; as in the kernel, like the next one
STARTS = 8


@dataclass(frozen=True)
class Data:
    """`tiles`: float64, shared, (rows * columns, TILE): a matrix of tiles, row by row."""

    tiles: NDArray[Any]
    rows: int
    columns: int


class Transposition(Workload):
    """The tiles of a matrix, column by column, in the same memory; nothing is computed."""

    name = "transposition"
    pattern = (
        "tiles move along the cycles of a permutation, in place; CPU and device claim each place they fill"
    )
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": {"rows": 12, "columns": 9},
        "small": {"rows": 50, "columns": 38},
        "medium": {"rows": 200, "columns": 151},
        "large": {"rows": 700, "columns": 580},
    }
    kernels = ("transpose",)
    shares = True

    def prepare(self, space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator) -> Data:
        """Random numbers."""
        tiles = space.empty((size["rows"] * size["columns"], TILE), np.float64)
        rng.random(out=tiles)
        return Data(tiles, size["rows"], size["columns"])

    def reference(self, data: Data) -> Arrays:
        """NumPy's transpose."""
        return {"tiles": _matrix(data).transpose(1, 0, 2).copy()}

    def compute(self, launch: Launcher, data: Data) -> Arrays:
        """What is read before a place is claimed is what was there at first; after the claim it is carried on."""
        tiles, places = data.tiles, data.rows * data.columns
        claimed = launch.space.zeros(places, np.uint32)

        def target(place: int) -> int:
            return place % data.columns * data.rows + place // data.columns

        def transpose(chunk: int, beside: Beside) -> None:
            for start in range(chunk * STARTS, min((chunk + 1) * STARTS, places)):
                mine, to = tiles[start].copy(), target(start)
                taken = hmm.atomic_load(claimed, start)
                while not taken:
                    following = tiles[to].copy()
                    taken = hmm.atomic_exch(claimed, to, 1)
                    if not taken:
                        tiles[to], mine, to = mine, following, target(to)

        args = (tiles, np.int32(data.rows), np.int32(data.columns), claimed)
        share(launch, blocks(places, STARTS), "transpose", TILE, args, transpose)
        return {"tiles": _matrix(data).reshape(data.columns, data.rows, TILE)}


def _matrix(data: Data) -> NDArray[Any]:
    return data.tiles.reshape(data.rows, data.columns, TILE)


WORKLOAD = Transposition()
