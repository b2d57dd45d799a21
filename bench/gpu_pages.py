"""How near the copies of scattered pages come to a copy of pinned memory: kernels/pages.cu, and the link. Not yet run
on a GPU.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import hmmemu.kernels
from hmmemu.bench.gpu_ways import pinned
from hmmemu.bench.result import Row, median
from hmmemu.errors import Error

PAGES_SOURCE = Path(hmmemu.kernels.__file__).parent / "pages.cu"
PEER = "a copy of pinned memory, as many bytes in one run"
AIM = 0.8
_GRID, _BLOCK = 4096, 256


class ScatteredPages:
    """Half of the pages of an array on the GPU, chosen at random, and pinned memory for them.

    Args:
        size: bytes of the array.
    """

    def __init__(self, cupy: Any, size: int) -> None:
        self._cupy = cupy
        module = cupy.RawModule(code=PAGES_SOURCE.read_text())
        self._gather, self._scatter = (module.get_function(f"{way}_pages") for way in ("gather", "scatter"))
        pages = size // mmap.PAGESIZE
        self.chosen = np.sort(np.random.default_rng(1).choice(pages, pages // 2, replace=False)).astype(
            np.uint64
        )
        self.bytes = self.chosen.size * mmap.PAGESIZE
        self._memory, self._staging = cupy.empty(size, np.uint8), cupy.empty(self.bytes, np.uint8)
        self._table = cupy.empty(self.chosen.size, np.uint64)
        self._table.set(self.chosen)
        self._host = pinned(cupy, self.bytes, np.uint8)

    def rows(self, repeats: int) -> list[Row]:
        """Gather and scatter beside the bare copies. Raises Error if a page came out wrong."""
        self._verify()
        ways: dict[str, Callable[[], None]] = {
            "scatter": self._there_and_scatter,
            "to the GPU": lambda: self._staging.set(self._host),
            "gather": self._gather_and_home,
            "home": lambda: self._home(self._staging),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, way in ways.items():
                times[name].append(self._seconds(way))
        speed = {name: self.bytes / median(values) / 1e9 for name, values in times.items()}
        return [
            Row(
                f"{ours}, {self.chosen.size} pages of {2 * self.chosen.size}",
                speed[ours],
                "GB/s",
                speed[bare],
                PEER,
                AIM,
            )
            for ours, bare in (("scatter", "to the GPU"), ("gather", "home"))
        ]

    def _there_and_scatter(self) -> None:
        self._staging.set(self._host)
        self._scatter(
            (_GRID,), (_BLOCK,), (self._memory, self._table, np.int32(self.chosen.size), self._staging)
        )

    def _gather_and_home(self) -> None:
        self._gather(
            (_GRID,), (_BLOCK,), (self._memory, self._table, np.int32(self.chosen.size), self._staging)
        )
        self._home(self._staging)

    def _home(self, source: Any) -> None:
        source.get(out=self._host, blocking=False)

    def _seconds(self, way: Callable[[], None]) -> float:
        stream = self._cupy.cuda.get_current_stream()
        stream.synchronize()
        begin = time.perf_counter()
        way()
        stream.synchronize()
        return time.perf_counter() - begin

    def _verify(self) -> None:
        content = np.random.default_rng(2).integers(0, 256, self.bytes, np.uint8)
        self._host[:] = content
        self._seconds(self._there_and_scatter)
        found = self._memory.get().reshape(-1, mmap.PAGESIZE)[self.chosen]
        self._host[:] = 0
        self._seconds(self._gather_and_home)
        if not np.array_equal(found.reshape(-1), content) or not np.array_equal(self._host, content):
            raise Error("gather_pages or scatter_pages moved a page to the wrong place")
