"""Padding of a matrix's rows in place, by CPU threads and device at the same time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels.sharing import Beside, share
from hmmemu.kernels.workload import Arrays, Launcher, Workload, blocks

BLOCK = 256  # as in the kernel
CHUNK = 4 * BLOCK


@dataclass(frozen=True)
class Data:
    """`buffer`: float64, shared, rows * (columns + more) elements; the matrix (rows, columns) is at its front."""

    buffer: NDArray[Any]
    rows: int
    columns: int
    more: int


class Padding(Workload):
    """`more` zeros at the end of each row of a matrix, within one buffer; nothing is computed."""

    name = "padding"
    pattern = (
        "CPU and device take chunks of one stream, in place, from its end; a flag for each chunk that is read"
    )
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": {"rows": 150, "columns": 97, "more": 3},
        "small": {"rows": 1000, "columns": 399, "more": 1},
        "medium": {"rows": 3000, "columns": 1999, "more": 1},
        "large": {"rows": 10_000, "columns": 3999, "more": 1},
    }
    kernels = ("pad",)
    shares = True

    def prepare(self, space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator) -> Data:
        """Random numbers; behind the matrix, what the pad must overwrite."""
        buffer = space.empty(size["rows"] * (size["columns"] + size["more"]), np.float64)
        rng.random(out=buffer)
        return Data(buffer, size["rows"], size["columns"], size["more"])

    def reference(self, data: Data) -> Arrays:
        """NumPy's pad."""
        matrix = data.buffer[: data.rows * data.columns].reshape(data.rows, data.columns)
        return {"padded": np.pad(matrix, ((0, 0), (0, data.more)))}

    def compute(self, launch: Launcher, data: Data) -> Arrays:
        """Chunk 0 is the end of the matrix. What a chunk overwrites, it or a chunk before it has read."""
        x, n = data.buffer, data.rows * data.columns
        chunks = blocks(n, CHUNK)
        flags = launch.space.zeros(chunks + 1, np.uint32)
        flags[0] = 1

        def pad(chunk: int, beside: Beside) -> None:
            end = n - chunk * CHUNK
            first = max(0, end - CHUNK)
            values = x[first:end].copy()
            beside.wait(flags, chunk, bool)
            hmm.atomic_store(flags, chunk + 1, 1)
            row, column = np.divmod(np.arange(first, end), data.columns)
            to = row * (data.columns + data.more) + column
            x[to] = values
            x[to[column == data.columns - 1, None] + np.arange(1, data.more + 1)] = 0

        share(launch, chunks, "pad", BLOCK, (x, *map(np.int32, (n, data.columns, data.more)), flags), pad)
        return {"padded": x.reshape(data.rows, data.columns + data.more)}


WORKLOAD = Padding()
