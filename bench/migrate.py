"""How fast do whole arrays move between CPU and device, beside memcpy between two buffers that are both there?

Every array has gone both ways before it is timed. Ways: `space.prefetch`; a launch under Policy(launch="prefetch");
faults, with the growth that is the default, of a kernel and of NumPy that write one word of each page. Each round
takes every way once, there and back, and memcpy of the same size; contents are verified at the end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.bench.peer import Peer
from hmmemu.bench.result import Result, Row, median
from hmmemu.errors import Error

QUESTION = "How fast do arrays move between CPU and device, beside memcpy of the same size?"
PEER = "memcpy, both buffers touched"
AIM, AIM_FROM = 0.5, 16 << 20  # of prefetch and launch; bytes
TO, BACK = "CPU to device", "device to CPU"
SOURCE = """
extern "C" __global__ void nothing(int* x) {}

extern "C" __global__ void write_pages(int* x, long long pages, int value) {
  long long page = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (page < pages) x[page * 1024] = value;
}
"""


def run(quick: bool = False) -> Result:
    """Measures. Quick takes a few seconds, the whole about a minute."""
    result = Result("migrate", QUESTION, quick=quick)
    with (
        hmm.AddressSpace(device="emulated") as faulting,
        hmm.AddressSpace(device="emulated", policy=hmm.Policy(launch="prefetch")) as launching,
        Peer("migrate", flags=()) as peer,
    ):
        for size in _sizes(quick):
            _measure(result, size, (faulting, launching), peer, _rounds(size, quick))
    result.notes.append(
        "medians; no thread is pinned; what a launch brought to the device comes back by prefetch"
    )
    return result


def _sizes(quick: bool) -> list[int]:
    """Powers of four that leave the machine some memory: each array has two copies, and there are three pairs."""
    most = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8
    wanted = [1 << 20, 16 << 20, 64 << 20] if quick else [1 << shift for shift in range(20, 31, 2)]
    return [size for size in wanted if size <= most]


def _rounds(size: int, quick: bool) -> int:
    most = (1 << 28) if quick else (4 << 30)  # bytes, each way
    return min(max(most // size, 3), 15)


def _measure(
    result: Result, size: int, spaces: tuple[hmm.AddressSpace, hmm.AddressSpace], peer: Peer, rounds: int
) -> None:
    moved, launched = (_Moved(space, size) for space in spaces)
    seconds: dict[tuple[str, str], list[float]] = {}
    copies: list[float] = []
    for number in range(rounds + 1):
        for way, direction, act in _steps(moved, launched, number):
            taken = _seconds(act)
            if number:  # the first round warms up
                seconds.setdefault((way, direction), []).append(taken)
        copies += peer.ask(size, 1 if size > AIM_FROM else 3)
    moved.verify(rounds)
    launched.verify()
    memcpy = size / median(copies) * 1e-9
    for (way, direction), taken_each in seconds.items():
        aim = AIM if way != "faults" and size >= AIM_FROM else None
        rate = size / median(taken_each) * 1e-9
        result.add(Row(f"{way}, {direction}, {size >> 20} MiB", rate, "GB/s", memcpy, PEER, aim))


def _steps(moved: _Moved, launched: _Moved, number: int) -> list[tuple[str, str, Callable[[], None]]]:
    return [
        ("prefetch", TO, moved.prefetch_to),
        ("prefetch", BACK, moved.prefetch_back),
        ("launch", TO, launched.launch),
        ("launch", BACK, launched.prefetch_back),
        ("faults", TO, lambda: moved.device_writes(number)),
        ("faults", BACK, lambda: moved.cpu_writes(number)),
    ]


class _Moved:
    """An array that is moved, and the ways to do that."""

    def __init__(self, space: hmm.AddressSpace, size: int) -> None:
        self._space = space
        self._device = space.devices[0]
        self._pages = size // 4096
        self._array: NDArray[np.int32] = space.empty(size // 4, np.int32)
        self._array[:] = np.arange(self._array.size, dtype=np.int32)
        module = hmm.RawModule(code=SOURCE)
        self._nothing = module.get_function("nothing")
        self._write = module.get_function("write_pages")

    def prefetch_to(self) -> None:
        self._space.prefetch(self._array, self._device)

    def prefetch_back(self) -> None:
        self._space.prefetch(self._array, hmm.cpu)

    def launch(self) -> None:
        self._nothing((1,), (1,), (self._array,), device=self._device)

    def device_writes(self, value: int) -> None:
        args = (self._array, np.int64(self._pages), np.int32(value))
        self._write(((self._pages + 255) // 256,), (256,), args, device=self._device)

    def cpu_writes(self, value: int) -> None:
        self._array[1::1024] = value

    def verify(self, value: int | None = None) -> None:
        """Raises Error unless each page holds what it began with, and `value` in its first two words if given."""
        wanted = np.arange(self._array.size, dtype=np.int32).reshape(self._pages, 1024)
        if value is not None:
            wanted[:, :2] = value
        if not np.array_equal(self._array.reshape(wanted.shape), wanted):
            raise Error(f"an array of {self._pages} pages is not what it was before it moved")


def _seconds(act: Callable[[], None]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin
