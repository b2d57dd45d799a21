"""A list of vertices that CPU and devices work off turn by turn: short ones the CPU, long ones the devices.

Both append to the same queue by atomics of the whole system, so who does a turn makes no difference to the next.

Invariants: nobody appends between two turns; a vertex is appended once a turn at most, so a queue never overflows.
The CPU's part runs in one thread; words that devices append by are changed by atomic operations only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels.workload import Launcher, blocks

BLOCK = 128


class Worklist:
    """Two queues that swap: one is worked off, one is filled; int32, as long as the graph has vertices."""

    def __init__(self, space: hmm.AddressSpace, vertices: int, first: int) -> None:
        """The first turn has the vertex `first` of `vertices`."""
        self._current, self._next = (space.empty(vertices, np.int32) for _ in range(2))
        self._size = space.zeros(1, np.int32)
        self._append([first])

    def work_off(
        self,
        launch: Launcher,
        kernel: str,
        arrays: Iterable[NDArray[Any]],
        switch: int,
        on_cpu: Callable[[NDArray[Any], int], list[int]],
    ) -> None:
        """Goes on turn by turn until no vertex is left.

        Args:
            kernel: takes `arrays`, the vertices to work off and their number, the queue to fill and its size, and
                the number of the turn, from 1; a thread a vertex.
            switch: turns of that many vertices or more are the devices'.
            on_cpu: does the same: called with vertices and number of the turn, returns what is to be appended.
        """
        turn = 0
        while (vertices := self._swap()).size:
            turn += 1
            if vertices.size < switch:
                self._append(on_cpu(vertices, turn))
            else:
                self._on_devices(launch, kernel, arrays, vertices, turn)

    def _on_devices(
        self, launch: Launcher, kernel: str, arrays: Iterable[NDArray[Any]], vertices: NDArray[Any], turn: int
    ) -> None:
        """Several devices take a part each, and work at once."""
        with launch.together():
            for part in launch.slices(vertices.size):
                mine = vertices[part]
                queues = (mine, np.int32(mine.size), self._next, self._size)
                launch(kernel, blocks(mine.size, BLOCK), BLOCK, *arrays, *queues, np.int32(turn))

    def _append(self, vertices: list[int]) -> None:
        if vertices:
            first = int(hmm.atomic_add(self._size, 0, len(vertices)))
            self._next[first : first + len(vertices)] = vertices

    def _swap(self) -> NDArray[Any]:
        """What was appended since the last turn."""
        self._current, self._next = self._next, self._current
        return self._current[: int(hmm.atomic_exch(self._size, 0, 0))]
