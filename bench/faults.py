"""What does a page fault cost, transition by transition, beside the raw system calls that it cannot do without?

One word of each of 2048 pages is touched in order, by the CPU from NumPy, by the device from a kernel of one thread, so
that every page faults once; under each tracker, by a main thread that is pinned to one CPU and by one that is not. The
yardsticks (native/faults.cpp, for tracker signal native/faults_signal.cpp) do the same with a byte of state a page in
the place of a driver, and are always pinned. All take turns, and all verify every value.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import hmmemu as hmm
from hmmemu.bench.peer import Peer
from hmmemu.bench.pinning import cpus_for, pinned
from hmmemu.bench.result import Result, Row, median
from hmmemu.errors import Error, UnsupportedError
from hmmemu.trackers import NAMES

QUESTION = "What does a page fault cost, beside a bare loop over the system calls that it needs?"
PEERS = {  # what catches faults there: the tracker's name -> source in bench/native, in words
    "uffd": ("faults", "raw userfaultfd loop, C++"),
    "signal": ("faults_signal", "raw mprotect and SIGSEGV, C++"),
    "async": ("faults", "raw userfaultfd loop, C++"),
}
AIM = 1.3
PAGES = 2048
WORDS = 1024  # int32 a page
TRANSITIONS = (
    "CPU touches first",
    "device touches first",
    "device reads what the CPU has",
    "CPU reads what the device has",
    "CPU writes a shared page",
    "device writes a shared page",
    "CPU writes what the device has",
    "device writes what the CPU has",
)
SOURCE = """
extern "C" __global__ void nothing(const int* x, long long pages, long long* sum) {}

extern "C" __global__ void read_pages(const int* x, long long pages, long long* sum) {
  long long total = 0;
  for (long long page = 0; page < pages; ++page) total += x[page * 1024];
  *sum = total;
}

extern "C" __global__ void write_pages(int* x, long long pages, int value) {
  for (long long page = 0; page < pages; ++page) x[page * 1024] = value;
}
"""


def run(quick: bool = False) -> Result:
    """Measures. Quick takes some ten seconds, the whole a minute and a half."""
    result = Result("faults", QUESTION, quick=quick)
    for tracker in NAMES:
        try:
            measure(result, tracker, rounds=5 if quick else 40)
        except UnsupportedError as error:
            result.notes.append(f"left out: {error}")
    return result


def measure(result: Result, tracker: str, rounds: int) -> None:
    """Adds the rows of one tracker. Raises UnsupportedError if there is no such tracker here."""
    source, peer_name = PEERS[tracker]
    with hmm.AddressSpace(device="emulated", tracker=tracker, policy=hmm.Policy(grow=False)) as space:
        cpu, device_cpu = cpus_for(space.devices[0])
        pages = _Pages(space)
        with Peer(source, flags=(), arguments=[str(n) for n in (PAGES, cpu, device_cpu)]) as peer:
            figures = [_round(pages, peer, cpu, number) for number in range(1 + rounds)][1:]
    # Stores under async, to pages that the CPU may read, are no messages: the kernel itself lifts the protection.
    silent = ("CPU writes a shared page",) if tracker == "async" else ()
    for name in sorted(TRANSITIONS, key=lambda name: name in silent):
        index = TRANSITIONS.index(name)
        on_one_cpu, anywhere, bare = (median(one[side][index] for one in figures) for side in range(3))
        for where, ours in (("pinned", on_one_cpu), ("not pinned", anywhere)):
            title = f"{tracker}, {where}: {name}"
            if name in silent:
                result.add(Row(title, ours, "µs", more_is_better=False))
            else:
                result.add(Row(title, ours, "µs", bare, peer_name, AIM, more_is_better=False))
    result.notes.append(
        f"{tracker}: medians of {rounds} rounds over {PAGES} pages, one fault each; main thread on CPU {cpu}, or on "
        f"any; device on CPU {device_cpu}"
    )


def _round(pages: _Pages, peer: Peer, cpu: int, number: int) -> tuple[list[float], list[float], list[float]]:
    """Microseconds of each transition: with this thread on `cpu`, on any, and of the yardstick."""
    with pinned(cpu):
        on_one_cpu = pages.every_transition(20 * number + 1)
        bare = peer.ask()
    return on_one_cpu, pages.every_transition(20 * number + 11), bare


class _Pages:
    """The array, and the ways to touch one word of each of its pages. Times are microseconds a page."""

    def __init__(self, space: hmm.AddressSpace) -> None:
        self._space = space
        self._array = space.empty(PAGES * WORDS, np.int32)
        self._words = self._array[::WORDS]
        self._sum = space.zeros(1, np.int64)
        module = hmm.RawModule(code=SOURCE)
        self._nothing = module.get_function("nothing")
        self._read = module.get_function("read_pages")
        self._write = module.get_function("write_pages")

    def every_transition(self, value: int) -> list[float]:
        """Each transition once, in the order of TRANSITIONS. Raises Error if a processor reads a wrong value."""
        first_cpu = self._cpu_writes(value)
        device_duplicate = self._device_reads(value)
        cpu_upgrade = self._cpu_writes(value + 1)
        device_migrate = self._device_writes(value + 2)
        cpu_duplicate = self._cpu_reads(value + 2)
        device_upgrade = self._device_writes(value + 3)
        cpu_migrate = self._cpu_writes(value + 4)
        self._cpu_reads(value + 4)
        self._space.discard(self._array)
        first_device = self._device_writes(value)
        self._device_reads(value)
        self._space.discard(self._array)
        return [
            first_cpu,
            first_device,
            device_duplicate,
            cpu_duplicate,
            cpu_upgrade,
            device_upgrade,
            cpu_migrate,
            device_migrate,
        ]

    def _cpu_writes(self, value: int) -> float:
        begin = time.perf_counter()
        self._words[...] = value
        return (time.perf_counter() - begin) / PAGES * 1e6

    def _cpu_reads(self, value: int) -> float:
        begin = time.perf_counter()
        total = self._words.sum()
        seconds = time.perf_counter() - begin
        _verify("CPU", int(total), value)
        return seconds / PAGES * 1e6

    def _device_writes(self, value: int) -> float:
        return self._on_device(
            lambda: self._write((1,), (1,), (self._array, np.int64(PAGES), np.int32(value)))
        )

    def _device_reads(self, value: int) -> float:
        microseconds = self._on_device(
            lambda: self._read((1,), (1,), (self._array, np.int64(PAGES), self._sum))
        )
        _verify("device", int(self._sum[0]), value)
        return microseconds

    def _on_device(self, launch: Callable[[], None]) -> float:
        empty = median(
            _seconds(lambda: self._nothing((1,), (1,), (self._array, np.int64(PAGES), self._sum)))
            for _ in range(5)
        )
        return (_seconds(launch) - empty) / PAGES * 1e6


def _seconds(act: Callable[[], None]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def _verify(processor: str, total: int, value: int) -> None:
    if total != PAGES * value:
        raise Error(f"the {processor} read a sum of {total} and not {PAGES * value}")
