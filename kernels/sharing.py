"""Work that CPU threads and kernels do together, at the same time, on the same memory.

`share` lets both take chunks of work from one counter, as in the CHAI benchmarks (Gomez-Luna et al., "Chai:
Collaborative heterogeneous applications for integrated-architectures", ISPASS 2017). `run_threads` is for other ways to
share: it runs Python threads beside kernels that were launched in a `with launch.together():`.

Invariants:
* A chunk is taken by whoever works on it at once, and in order. So a chunk may wait for the one before it: whoever has
  that one is at work.
* Words that both sides use are written with `hmm.atomic_...` on the CPU. Under the tracker `async` these calls are also
  what shows a running kernel the plain stores that their thread made before.
* Every wait ends: with an error after `limit` seconds, or soon after another thread or a kernel has failed.

`Beside._lock` guards the first error of the threads; all else is written before they start.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels.workload import Launcher

THREADS = 2
BLOCKS = 2  # of a launch, for each worker of the device; many more would only wait for each other
LIMIT = 60.0  # seconds that anything may wait
_LONGEST_NAP = 0.001  # seconds between two looks at a word


class _Stopped(Exception):
    """Something else has failed, and that error is the one to be told."""


class Beside:
    """What the CPU threads beside a kernel have in common."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._end = time.monotonic() + limit
        self._lock = threading.Lock()
        self.error: BaseException | None = None

    def wait(self, array: NDArray[Any], index: int, ready: Callable[[int], bool]) -> int:
        """Looks at an integer that others write until `ready` says yes; returns it.

        Raises:
            KernelTimeout: it did not come in time.
        """
        nap = 0.0
        while not ready(value := int(hmm.atomic_load(array, index))):
            if self.error is not None:
                raise _Stopped
            if time.monotonic() > self._end:
                raise hmm.KernelTimeout(
                    f"a CPU thread waited {self._limit:g} s for another thread or a kernel to write: element "
                    f"{index} of the {array.dtype} array at {array.ctypes.data:#x} is still {value}"
                )
            time.sleep(nap)
            nap = min(2 * nap + 1e-6, _LONGEST_NAP)
        return value

    def stop(self, error: BaseException) -> None:
        """Ends all waits; the first error counts."""
        with self._lock:
            self.error = self.error or error

    def run(self, work: Callable[[Beside], None]) -> None:
        """What a thread does."""
        try:
            work(self)
        except _Stopped:
            pass
        except BaseException as error:
            self.stop(error)


def run_threads(launch: Launcher, works: Sequence[Callable[[Beside], None]], limit: float = LIMIT) -> None:
    """Runs each of `works` in a thread of its own, beside the kernels that `launch` has launched, until all have ended.

    Raises:
        DeviceError: a device ended meanwhile; `launch.together` tells why.
        BaseException: whatever a thread raised first, KernelTimeout for a wait of more than `limit` seconds.
    """
    beside = Beside(limit)
    threads = [threading.Thread(target=beside.run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.01)
                if not all(device.process.alive for device in launch.space.devices):
                    beside.stop(hmm.DeviceError("a kernel ended that CPU threads worked beside"))
    except BaseException as error:  # Ctrl-C: the threads must not go on behind the caller's back
        beside.stop(error)
        for thread in threads:
            thread.join(1.0)
    if beside.error is not None:
        raise beside.error


def share(
    launch: Launcher,
    chunks: int,
    kernel: str,
    block: int,
    args: Sequence[Any],
    work: Callable[[int, Beside], None],
    limit: float = LIMIT,
) -> None:
    """Does chunks 0 to `chunks` - 1, each once: `launch.fraction` of them in CPU threads, the others on the devices.

    Who does which is decided while they run: both sides take the next one from a counter.

    Args:
        kernel: its first two parameters are the counter, `unsigned*`, and the number of chunks that the launch is to
            do. Its blocks divide them; for each a block takes the next chunk with `atomicAdd_system(counter, 1)`.
        block: threads a block.
        args: the kernel's other arguments.
        work: `work(chunk, beside)` does a chunk in a CPU thread.
        limit: seconds that a wait may take, see `run_threads`.
    """
    counter = launch.space.zeros(1, np.uint32)
    on_cpu = round(launch.fraction * chunks)

    def take(count: int, beside: Beside) -> None:
        for _ in range(count):
            work(int(hmm.atomic_add(counter, 0, 1)), beside)

    parts = [on_cpu * i // THREADS for i in range(THREADS + 1)]
    most = BLOCKS * len(launch.space.devices[0].process.workers)
    with launch.together(limit):
        for part in launch.slices(chunks - on_cpu):
            count = part.stop - part.start
            launch(kernel, min(count, most), block, counter, np.int32(count), *args)
        run_threads(launch, [partial(take, end - first) for first, end in pairwise(parts)], limit)
