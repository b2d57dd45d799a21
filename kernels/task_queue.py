"""A queue of tasks that a CPU thread fills while the device drains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from operator import eq
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels.sharing import Beside, run_threads
from hmmemu.kernels.workload import Arrays, Launcher, Workload

BLOCK = 64
BLOCKS = 12  # on each device: more than it has workers, as a rule
SLOTS = 8  # fewer than blocks that wait
LONGEST = 1000  # elements a task, at most
PUBLISHED, CLOSED = 0, 1  # words of `state`, as in the kernel


@dataclass(frozen=True)
class Data:
    """`x`: uint32, shared; task i is on `count[i]` elements from `first[i]` on."""

    x: NDArray[Any]
    first: NDArray[Any]
    count: NDArray[Any]


class TaskQueue(Workload):
    """Checksums of many short parts of an array: sums modulo 2^32, so the same in every order."""

    name = "task_queue"
    pattern = (
        "the CPU fills a ring of tasks while the kernel drains it; each side waits for words the other writes"
    )
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": {"tasks": 60},
        "small": {"tasks": 1000},
        "medium": {"tasks": 10_000},
        "large": {"tasks": 100_000},
    }
    kernels = ("drain",)

    def prepare(self, space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator) -> Data:
        """Parts of 0 to LONGEST elements at random places, which may overlap."""
        x = space.empty(20 * size["tasks"] + LONGEST, np.uint32)
        x[:] = rng.integers(0, 1 << 32, x.size, np.uint32)
        first = rng.integers(0, x.size - LONGEST, size["tasks"])
        return Data(x, first, rng.integers(0, LONGEST, first.size, endpoint=True))

    def reference(self, data: Data) -> Arrays:
        """Task by task."""
        weights = np.arange(1, LONGEST + 1, dtype=np.uint32)
        parts = [data.x[a : a + n] * weights[:n] for a, n in zip(data.first, data.count, strict=True)]
        return {"results": np.array([part.sum(dtype=np.uint32) for part in parts])}

    def compute(self, launch: Launcher, data: Data) -> Arrays:
        """The words that both sides use lie on pages of their own, apart from the data."""
        zeros, tasks = launch.space.zeros, data.first.size
        following, state = zeros(1, np.uint32), zeros(2, np.uint32)
        slots, freed = zeros(SLOTS, np.uint64), zeros(SLOTS, np.uint32)
        results = zeros(tasks, np.uint32)
        args = (following, state, slots, freed, np.int32(SLOTS), data.x, results)

        def fill(beside: Beside) -> None:
            for number, (first, count) in enumerate(
                zip(data.first.tolist(), data.count.tolist(), strict=True)
            ):
                slot = number % SLOTS
                if number >= SLOTS:  # the task that was there is read
                    beside.wait(freed, slot, partial(eq, number - SLOTS + 1))
                hmm.atomic_store(slots, slot, first << 32 | count)
                hmm.atomic_store(state, PUBLISHED, number + 1)
            hmm.atomic_store(state, CLOSED, 1)

        with launch.together():
            for _ in launch.space.devices:
                launch("drain", BLOCKS, BLOCK, *args)
            run_threads(launch, [fill])
        return {"results": results}


WORKLOAD = TaskQueue()
