"""What do merging equal pages, and writing to a merged page, cost, and what is saved?

Two equal arrays, and a file and the array that was read from it, by tracker. Beside merging stands one pass over the
same bytes that hashes every page and compares each pair (native/merge.cpp); beside the first write to a merged page,
the kernel's own copy-on-write fault; beside both, the kernel's same-page merging (KSM) of two equal arrays, where its
settings may be changed: they are put back. After each step the contents are verified.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.bench.peer import Peer
from hmmemu.bench.result import Result, Row, median
from hmmemu.errors import ArgumentError, Error, UnsupportedError
from hmmemu.trackers import NAMES

QUESTION = "What do merging equal pages, and writing to one, cost, and what is saved?"
PASS, BEFORE, KSM = "a pass that hashes and compares the pages", "what it was before", "the kernel's KSM"
FORK, PRIVATE = "copy-on-write after a fork", "copy-on-write of a private mapping"
SIZE, QUICK_SIZE = 256 << 20, 32 << 20
WRITTEN = 4096  # pages
WORDS = 512  # int64 a page
PAGE = 4096
COPIES = 8  # of one array, at the same time: ours, its twin and frames; the yardstick's two, its child's and file's
KSM_SECONDS = 60.0
KSM_FOLDER = Path("/sys/kernel/mm/ksm")
KSM_SETTINGS = {"smart_scan": "0", "sleep_millisecs": "0", "pages_to_scan": "1000000", "run": "1"}

Pair = tuple[NDArray[np.int64], NDArray[np.int64]]
MakePair = Callable[[hmm.AddressSpace, NDArray[np.int64]], AbstractContextManager[Pair]]


@dataclass
class Times:
    """Seconds of each repeat: to merge, and to write merged pages; and what the kernel counted last."""

    merge: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)
    before: int = 0
    after: int = 0


def run(quick: bool = False) -> Result:
    """Measures. Quick takes some ten seconds, the whole a few minutes.

    Raises:
        ArgumentError: there is not enough memory free.
    """
    size, repeats = (QUICK_SIZE, 3) if quick else (SIZE, 5)
    free = os.sysconf("SC_AVPHYS_PAGES") * PAGE
    if COPIES * size > free:
        raise ArgumentError(f"{COPIES * size >> 20} MiB of memory are needed, and {free >> 20} MiB are free")
    result = Result("merge", QUESTION, quick=quick)
    with Peer("merge", flags=(), arguments=[str(size)]) as peer:
        bare = yardsticks(peer, repeats)
        bare[KSM] = kernel_merging(peer, repeats, result)
        for tracker in NAMES:
            for name, make in (("two arrays", two_arrays), ("a file and an array", file_and_array)):
                try:
                    ours = measure(tracker, make, size, repeats)
                except UnsupportedError as error:
                    result.notes.append(f"left out: {error}")
                    break
                add_rows(result, f"{tracker}, {name}", ours, bare, 2 * size // PAGE)
    result.rows.sort(key=lambda row: (PASS, BEFORE, FORK, PRIVATE, KSM).index(row.peer_name))
    result.notes.append(
        f"medians; {size >> 20} MiB each, no two pages of one equal; first writes to {WRITTEN} merged pages, "
        "in random order"
    )
    return result


def yardsticks(peer: Peer, repeats: int) -> dict[str, Times]:
    """The pass, and the two kinds of copy-on-write."""
    times = {PASS: Times(), FORK: Times(), PRIVATE: Times()}
    for _ in range(repeats):
        times[PASS].merge += peer.ask("pass")
        times[FORK].writes += peer.ask("fork", WRITTEN)
        times[PRIVATE].writes += peer.ask("private", WRITTEN)
    return times


def kernel_merging(peer: Peer, repeats: int, result: Result) -> Times:
    """The kernel's own merging; no times, and a note, where it cannot be had."""
    times = Times()
    try:
        with ksm_at_work():
            for _ in range(repeats):
                spent, merged, writes = peer.ask("ksm", WRITTEN, KSM_SECONDS)
                if merged < 0.99:
                    result.notes.append(f"KSM merged {merged:.0%} within {KSM_SECONDS:g} s: left out")
                    return Times()
                times.merge.append(spent)
                times.writes.append(writes)
    except OSError as error:
        result.notes.append(f"KSM is left out: {error}")
    return times


@contextmanager
def ksm_at_work() -> Iterator[None]:
    """The kernel's merging thread scans as fast as it can. Raises OSError where that cannot be set."""
    before = {name: (KSM_FOLDER / name).read_text() for name in KSM_SETTINGS if (KSM_FOLDER / name).exists()}
    if "run" not in before:
        raise OSError(f"there is no {KSM_FOLDER}/run")
    try:
        for name in before:
            (KSM_FOLDER / name).write_text(KSM_SETTINGS[name])
        yield
    finally:
        for name, value in before.items():
            (KSM_FOLDER / name).write_text(value)


@contextmanager
def two_arrays(space: hmm.AddressSpace, data: NDArray[np.int64]) -> Iterator[Pair]:
    """Two arrays of the space that hold `data`."""
    yield space.array(data), space.array(data)


@contextmanager
def file_and_array(space: hmm.AddressSpace, data: NDArray[np.int64]) -> Iterator[Pair]:
    """A mapped file that holds `data`, and an array that was read from it."""
    with tempfile.TemporaryDirectory(prefix="hmmemu-bench-") as folder:
        path = Path(folder) / "data"
        data.tofile(path)
        mapped = np.memmap(path, np.int64, "r+")
        yield mapped, space.array(mapped)
        space.unregister(mapped)


def measure(tracker: str, make: MakePair, size: int, repeats: int) -> Times:
    """Merges and breaks pairs that `make` gives, in a space of this tracker. Raises Error for wrong contents."""
    data = np.random.default_rng(1).integers(1, 1 << 62, size // 8, np.int64)
    random, times = np.random.default_rng(2), Times()
    with hmm.AddressSpace(device="emulated", tracker=tracker) as space, make(space, data) as (x, y):
        for _ in range(repeats):
            begin = time.perf_counter()
            done = space.merge(x, y)
            times.merge.append(time.perf_counter() - begin)
            if done.merged != 2 * size // PAGE:
                raise Error(f"{done.merged} of {2 * size // PAGE} pages were merged: {done}")
            times.before, times.after = done.pss_before, done.pss_after
            chosen = random.choice(size // PAGE, min(WRITTEN, size // PAGE // 2), replace=False) * WORDS
            begin = time.perf_counter()
            y[chosen] = -1
            times.writes.append((time.perf_counter() - begin) * WRITTEN / len(chosen))
            if not (np.array_equal(x, data) and (y[chosen] == -1).all()):
                raise Error("a write to a merged page went wrong")
            space.unmerge(x)
            space.unmerge(y)
            y[chosen] = data[chosen]
            if not (np.array_equal(x, data) and np.array_equal(y, data)):  # which also maps all of it again
                raise Error("a merged page has lost its content")
    return times


def add_rows(result: Result, name: str, ours: Times, bare: dict[str, Times], pages: int) -> None:
    """The rows of one tracker and one kind of memory; `pages` of both arrays."""
    spent = median(ours.merge) / pages * 1e6
    written = median(ours.writes) / WRITTEN * 1e6

    def add(what: str, value: float, unit: str, peer: float, peer_name: str) -> None:
        result.add(Row(f"{name}: {what}", value, unit, peer, peer_name, more_is_better=False))

    add("merge", spent, "µs a page", median(bare[PASS].merge) / pages * 1e6, PASS)
    add("memory", ours.after / (1 << 20), "MiB", ours.before / (1 << 20), BEFORE)
    for peer in (FORK, PRIVATE):
        add("first write", written, "µs a page", median(bare[peer].writes) / WRITTEN * 1e6, peer)
    if bare[KSM].merge and "two arrays" in name:
        add("merge", spent, "µs a page", median(bare[KSM].merge) / pages * 1e6, KSM)
        add("first write", written, "µs a page", median(bare[KSM].writes) / WRITTEN * 1e6, KSM)
