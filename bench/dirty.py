"""How long does it take a device to get the pages that the CPU wrote, by tracker?

An array of which the device has a copy; NumPy writes one word of each of k pages, chosen at random or in one run; then
`space.prefetch(x, device, write=False)` brings the device up to date. Beside it native/dirty.cpp does with bare system
calls what cannot be avoided: it asks the kernel which pages were written, and copies those. And beside a copy of
everything. All take turns. After each step the device's own memory is compared with what was written.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.bench.peer import Peer
from hmmemu.bench.result import Result, Row, median
from hmmemu.errors import ArgumentError, Error, UnsupportedError
from hmmemu.ranges import extent
from hmmemu.trackers import NAMES

QUESTION = "How long does it take a device to get the pages that the CPU wrote?"
PEER, FULL = "bare PAGEMAP_SCAN and memcpy of these pages", "memcpy of everything"
AIM, AIM_FULL = 1.2, 1.1  # of the update: beside the bare way up to half of the pages; beside a full copy
SIZE, QUICK_SIZE = 1 << 30, 1 << 26
WORDS = 512  # int64 a page
WAYS = ("random", "run")
COPIES = 4  # of the memory, at the same time: ours, the device's, and the yardstick's two


def run(quick: bool = False, size: int | None = None) -> Result:
    """Measures with an array of `size` bytes. Quick takes a few seconds, the whole about a minute.

    Raises:
        ArgumentError: the size is not a multiple of 2 MiB, or the machine has not four times as much memory free.
    """
    size = size or (QUICK_SIZE if quick else SIZE)
    check_size(size)
    result = Result("dirty", QUESTION, quick=quick)
    with Peer("dirty", flags=(), arguments=[str(size)]) as peer:
        for tracker in NAMES:
            try:
                measure(result, tracker, size, peer, repeats=3 if quick else 5)
            except UnsupportedError as error:
                result.notes.append(f"left out: {error}")
    result.notes.append(f"medians; an array of {size >> 20} MiB in pages of 4 KiB; no thread is pinned")
    return result


def check_size(size: int) -> None:
    """ArgumentError unless arrays of `size` bytes can be measured here."""
    if size <= 0 or size % (2 << 20):
        raise ArgumentError(f"the size of the array is a multiple of 2 MiB, not {size} bytes")
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if COPIES * size > free:
        raise ArgumentError(
            f"{COPIES} times {size >> 20} MiB are needed and {free >> 20} MiB of memory are free: "
            "ask for less with --bytes"
        )


def counts(pages: int) -> list[int]:
    """How many pages are written: powers of 16, half of them, all."""
    return [k for k in (1, 16, 256, 4096, 65536) if k < pages // 2] + [pages // 2, pages]


def measure(result: Result, tracker: str, size: int, peer: Peer, repeats: int) -> None:
    """Adds the rows of one tracker. Raises UnsupportedError if there is no such tracker here."""
    full: list[float] = []
    worst = 0.0
    with hmm.AddressSpace(device="emulated", tracker=tracker) as space:
        written = _Written(space, size)
        for pages, way in _steps(size // mmap.PAGESIZE):
            times = _Times()
            for _ in range(1 if pages > 1 << 16 else repeats):
                times.add(written.step(pages, way), peer.ask("dirty", pages, way))
            full += peer.ask("full")
            worst = max(worst, median(times.ours[1]))
            _rows(result, f"{tracker}: {pages} pages, {way}", times, pages <= size // mmap.PAGESIZE // 2)
    name = f"{tracker}: the slowest update"
    result.add(Row(name, worst * 1e3, "ms", median(full) * 1e3, FULL, AIM_FULL, more_is_better=False))


def _steps(pages: int) -> Iterator[tuple[int, str]]:
    for way in WAYS:
        for count in counts(pages):
            yield count, way


@dataclass
class _Times:
    """Seconds of the CPU's writes and of the update, of each repeat; ours and the yardstick's."""

    ours: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    bare: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))

    def add(self, ours: Sequence[float], bare: Sequence[float]) -> None:
        for side, values in ((self.ours, ours), (self.bare, bare)):
            for all_values, value in zip(side, values, strict=True):
                all_values.append(value)


def _rows(result: Result, name: str, times: _Times, aimed: bool) -> None:
    writes, update = (median(values) * 1e3 for values in times.ours)
    bare_writes, bare_update = (median(values) * 1e3 for values in times.bare)
    for what, ours, bare, aim in (
        ("writes", writes, bare_writes, None),
        ("update", update, bare_update, AIM if aimed else None),
        ("both", writes + update, bare_writes + bare_update, None),
    ):
        result.add(Row(f"{name}: {what}", ours, "ms", bare, PEER, aim, more_is_better=False))


class _Written:
    """An array that the device has a copy of; pages of it are written and brought over."""

    def __init__(self, space: hmm.AddressSpace, size: int) -> None:
        self._space, self._device = space, space.devices[0]
        self._array: NDArray[np.int64] = space.empty(size // 8, np.int64)
        self._array[:] = 1
        self._pages = size // mmap.PAGESIZE
        self._random = np.random.default_rng(1)
        self._value = 1
        space.prefetch(self._array, self._device, write=False)
        self.step(self._pages, "run")  # from now on every page has been written and brought over before

    def step(self, count: int, way: str) -> tuple[float, float]:
        """Seconds of writing `count` pages, and of bringing them over. Raises Error if the device lacks them."""
        chosen = self._choose(count, way)
        self._value += 1
        begin = time.perf_counter()
        self._array[chosen * WORDS] = self._value
        written = time.perf_counter()
        self._space.prefetch(self._array, self._device, write=False)
        end = time.perf_counter()
        self._verify(chosen)
        return written - begin, end - written

    def _choose(self, count: int, way: str) -> NDArray[np.int64]:
        if way == "random":
            return self._random.choice(self._pages, count, replace=False)
        first = int(self._random.integers(0, self._pages - count + 1))
        return np.arange(first, first + count)

    def _verify(self, chosen: NDArray[np.int64]) -> None:
        """Looks into the device's memory itself: asking the device would bring what is missing."""
        pages = extent(self._array)
        words = np.frombuffer(self._space.session.snapshot(*pages.pages), np.uint64)
        if not np.all(words >> np.uint64(2 * self._device.processor) & np.uint64(3)):
            raise Error("the device lacks pages that were brought to it")
        with mmap.mmap(
            self._device.process.vram, self._array.nbytes, prot=mmap.PROT_READ, offset=pages.begin
        ) as memory:
            frames = np.frombuffer(memory, np.int64)
            right = bool(np.all(frames[chosen * WORDS] == self._value))
            del frames
        if not right:
            raise Error("the device has not what the CPU wrote")
