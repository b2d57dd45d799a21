"""How long kernels take on the device, without the way there.

Launches are queued behind a kernel that waits, so that the device never waits for Python; events in front of and behind
them tell the time on the device's own clock, as one does on a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import hmmemu as hmm

SOURCE = Path(__file__).parent / "kernels.cu"
HOST_SECONDS = 60e-6  # what queueing one launch may take
MOST_QUEUED = 48


class DeviceTimer:
    """Times launches in the current address space.

    Args:
        module: compiled from kernels.cu; it has the kernels `wait_ticks` and `read_clock`.
    """

    def __init__(self, module: hmm.RawModule) -> None:
        self._wait = module.get_function("wait_ticks")
        self._stream = hmm.Stream()
        clock, times, ticks = hmm.zeros(1, np.int64), [], []
        read = module.get_function("read_clock")
        for _ in range(2):
            read((1,), (1,), (clock,))
            ticks.append(int(clock[0]))
            times.append(time.perf_counter())
            time.sleep(0.05)
        self._ticks_per_second = (ticks[1] - ticks[0]) / (times[1] - times[0])

    def seconds(self, launch: Callable[[], None], count: int) -> float:
        """Seconds for one of `count` launches that `launch` makes on the current stream."""
        start, end = hmm.Event(), hmm.Event()
        with self._stream:
            ticks = int(self._ticks_per_second * HOST_SECONDS * (count + 4))
            self._wait((1,), (1,), (np.int64(ticks),))
            start.record()
            for _ in range(count):
                launch()
            end.record()
        self._stream.synchronize()
        return hmm.get_elapsed_time(start, end) * 1e-3 / count

    def count_for(self, launch: Callable[[], None], total: float = 8e-3) -> int:
        """How many launches take about `total` seconds; also brings pages to the device."""
        self.seconds(launch, 1)
        return max(1, min(MOST_QUEUED, round(total / self.seconds(launch, 1))))
