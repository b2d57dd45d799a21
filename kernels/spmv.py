"""Sparse matrix times vector, in compressed rows (CSR)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels.workload import Arrays, Launcher, Workload, blocks

BLOCK = 256
LONGEST_ROW = 256


@dataclass(frozen=True)
class Data:
    """A square matrix of n rows in CSR and a vector.

    row_start (n + 1,) int32; columns (entries,) int32; values (entries,) float32; x (n,) float32. The three
    arrays of the matrix are shared ones, x is plain.
    """

    row_start: NDArray[Any]
    columns: NDArray[Any]
    values: NDArray[Any]
    x: NDArray[np.float32]


class SpMV(Workload):
    """y = A x in float32.

    Values and x are whole numbers of at most 128 and a row has at most 256 entries, so a row's sum stays
    within 2**22 and every partial sum is exact.
    """

    name = "spmv"
    pattern = "rows of unequal length; gathers from random places of a vector"
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": {"rows": 300},
        "small": {"rows": 50_000},
        "medium": {"rows": 500_000},
        "large": {"rows": 4_000_000},
    }
    kernels = ("spmv",)

    def prepare(self, space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator) -> Data:
        """Row lengths are geometric with mean 12 (some rows are empty), columns uniform."""
        rows = size["rows"]
        lengths = np.minimum(rng.geometric(1 / 13, rows) - 1, LONGEST_ROW)
        row_start = space.zeros(rows + 1, np.int32)
        np.cumsum(lengths, out=row_start[1:])
        entries = int(lengths.sum())
        columns = space.empty(entries, np.int32)
        values = space.empty(entries, np.float32)
        columns[:] = rng.integers(0, rows, entries, np.int32)
        values[:] = rng.integers(-128, 129, entries, np.int16)
        return Data(row_start, columns, values, rng.integers(-128, 129, rows, np.int16).astype(np.float32))

    def reference(self, data: Data) -> Arrays:
        """All products, added up by row with bincount in double precision (exact)."""
        rows = data.x.size
        row_of_entry = np.repeat(np.arange(rows), np.diff(data.row_start))
        products = data.values.astype(np.float64) * data.x[data.columns]
        return {"y": np.bincount(row_of_entry, products, minlength=rows).astype(np.float32)}

    def compute(self, launch: Launcher, data: Data) -> Arrays:
        """One launch; a thread a row."""
        rows = data.x.size
        y = launch.space.empty(rows, np.float32)
        args = (data.row_start, data.columns, data.values, data.x, y, np.int32(rows))
        launch("spmv", blocks(rows, BLOCK), BLOCK, *args)
        return {"y": y}


WORKLOAD = SpMV()
