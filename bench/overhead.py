"""What does hmmemu cost a program that uses none of it, and what does it cost per write under each tracker?

The first part runs overhead_work.py in pairs of processes, one plain, one that imports hmmemu and opens a space; within
a pair they take turns. The second part writes one word of each page of an array in a space, beside plain memory: pages
that nobody has, pages that a device has read, pages under a dirty log, and all of them again when nothing watches.
"""

from __future__ import annotations

import gc
import mmap
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.bench.overhead_work import WORK, resident_kib
from hmmemu.bench.result import Result, Row, median
from hmmemu.errors import Error, UnsupportedError
from hmmemu.trackers import NAMES

QUESTION = "What does a program pay that uses none of hmmemu, and what does a write to a page cost?"
PLAIN, MEMORY = "the same without hmmemu", "memory outside of the space"
AIM = 1.05  # what a figure of this kind can tell from nothing
PAGES = 4096
WORDS = 512  # int64 a page


def run(quick: bool = False) -> Result:
    """Measures. Quick takes about ten seconds, the whole about a minute."""
    result = Result("overhead", QUESTION, quick=quick)
    unused(result, pairs=2 if quick else 6, rounds=5 if quick else 11)
    for tracker in NAMES:
        try:
            writes(result, tracker, rounds=3 if quick else 11)
        except UnsupportedError as error:
            result.notes.append(f"left out: {error}")
    footprint(result)
    return result


# ------------------------------------------------------------------------------------ a program that does not use it


class Worker:
    """A process that runs overhead_work.py; `kind` is plain or hmmemu. Raises Error if it ends too early."""

    def __init__(self, kind: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("overhead_work.py")), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def ask(self, work: str, times: int) -> list[float]:
        """The numbers of the answer: seconds of a workload, or the status."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(f"{work} {times}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self._process.stdout.readline()
        if not answer:
            raise Error(f"the measured program ended with status {self._process.wait(60)} at {work!r}")
        return [float(word) for word in answer.split()]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


def unused(result: Result, pairs: int, rounds: int) -> None:
    """Adds a row for each workload, and what starting costs."""
    ours: dict[str, list[list[float]]] = {name: [] for name in WORK}
    plain: dict[str, list[list[float]]] = {name: [] for name in WORK}
    starts = []
    for _ in range(pairs):
        with Worker("hmmemu") as with_it, Worker("plain") as without:
            starts.append(with_it.ask("status", 1))
            for name, times in _paired(with_it, without, rounds):
                ours[name].append(times[0])
                plain[name].append(times[1])
    for name in WORK:
        ratios = [median(a) / median(b) for a, b in zip(ours[name], plain[name], strict=True)]
        figures = [median(map(median, side[name])) * 1e3 for side in (ours, plain)]
        note = f"{min(ratios):.2f} to {max(ratios):.2f}"
        result.add(Row(name, figures[0], "ms", figures[1], PLAIN, AIM, more_is_better=False, note=note))
    parts = (
        ("import hmmemu, after NumPy", 1e3, "ms"),
        ("AddressSpace()", 1e3, "ms"),
        ("memory after import", 1 / 1024, "MiB"),
        ("memory with an open space", 1 / 1024, "MiB"),
        ("memory of the device's process", 1 / 1024, "MiB"),
    )
    for (name, scale, unit), values in zip(parts, zip(*starts, strict=True), strict=True):
        result.add(Row(name, median(values) * scale, unit, more_is_better=False))
    result.notes.append(
        f"workloads: medians of {rounds} rounds in each of {pairs} pairs of processes; in brackets the lowest and "
        "highest ratio of a pair"
    )


def _paired(
    with_it: Worker, without: Worker, rounds: int
) -> Iterator[tuple[str, tuple[list[float], list[float]]]]:
    """Each workload's seconds, with and without; the two take turns, and turns in who begins."""
    for name, (_, times) in WORK.items():
        seconds: dict[Worker, list[float]] = {with_it: [], without: []}
        for number in range(1 + rounds):
            for worker in (with_it, without) if number % 2 else (without, with_it):
                seconds[worker] += worker.ask(name, times)
        yield name, (seconds[with_it][1:], seconds[without][1:])


# -------------------------------------------------------------------------------------------------- writes by tracker


def writes(result: Result, tracker: str, rounds: int) -> None:
    """Adds the rows of one tracker. Raises UnsupportedError if there is no such tracker here."""
    times: dict[str, list[float]] = {}
    plain: dict[str, list[float]] = {}
    with hmm.AddressSpace(device="emulated", tracker=tracker, policy=hmm.Policy(grow=False)) as space:
        for number in range(1 + rounds):
            with ExitStack() as stack:
                array = space.empty(PAGES * WORDS, np.int64)
                memory = stack.enter_context(mmap.mmap(-1, PAGES * mmap.PAGESIZE))
                outside = np.frombuffer(memory, np.int64)
                for name, seconds in _writes_in(space, array, 100 * number):
                    times.setdefault(name, []).append(seconds)
                for name in ("first write to a page", "later write"):
                    plain.setdefault(name, []).append(_touch(outside, number))
                del outside
    for name, values in times.items():
        ours = median(values[1:]) / PAGES * 1e9
        peer = plain["first write to a page" if name == "first write to a page" else "later write"]
        yardstick = median(peer[1:]) / PAGES * 1e9 if "write" in name else None
        beside = MEMORY if yardstick else ""
        result.add(Row(f"{tracker}: {name}", ours, "ns a page", yardstick, beside, more_is_better=False))


def _writes_in(space: hmm.AddressSpace, array: NDArray[np.int64], value: int) -> Iterator[tuple[str, float]]:
    """Name and seconds of each way to write (or ask for) all pages. Raises Error if something was lost."""
    device = space.devices[0]
    yield "first write to a page", _touch(array, value)
    yield "later write", _touch(array, value + 1)
    space.prefetch(array, device, write=False)
    yield "first write after a device read it", _touch(array, value + 2)
    yield "later write, after that", _touch(array, value + 3)
    begin = time.perf_counter()
    everything = space.dirty(array)
    yield "dirty log armed", time.perf_counter() - begin
    yield "first write, dirty log armed", _touch(array, value + 4)
    yield "later write, dirty log armed", _touch(array, value + 5)
    begin = time.perf_counter()
    written = space.dirty(array)
    yield "dirty log asked, all written", time.perf_counter() - begin
    if len(everything) != PAGES or len(written) != PAGES:
        raise Error(f"the dirty log named {len(written)} of {PAGES} pages that were written")
    if int(array[::WORDS].sum()) != PAGES * (value + 5):
        raise Error("pages do not hold what was written last")


def _touch(array: NDArray[np.int64], value: int) -> float:
    """Seconds to write one word of each page."""
    words = array[::WORDS]
    begin = time.perf_counter()
    words[...] = value
    return time.perf_counter() - begin


# ------------------------------------------------------------------------------------------------- memory a page


def footprint(result: Result, pages: int = 1 << 16) -> None:
    """Adds rows for the bytes that a managed page costs beside its own 4096."""
    with hmm.AddressSpace(device="emulated") as space:
        device = space.devices[0]
        gc.collect()
        before, device_before = resident_kib(), resident_kib(device.process.pid)
        array = space.empty(pages * WORDS, np.int64)
        _touch(array, 1)
        content = pages * mmap.PAGESIZE >> 10
        cost = (resident_kib() - before - content) * 1024 / pages
        result.add(Row("memory a managed page, on the CPU", cost, "bytes", more_is_better=False))
        space.prefetch(array, device, write=False)
        both = resident_kib() + resident_kib(device.process.pid) - before - device_before - 2 * content
        name = "memory a managed page, with a copy on a device"
        result.add(Row(name, both * 1024 / pages, "bytes", more_is_better=False))
