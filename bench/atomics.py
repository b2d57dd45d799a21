"""How many atomic operations a second, by operation, type, way and contention; and what one costs over a link.

The ways that an operation of system scope can go (docs/atomics.md) are address spaces whose link has all operations
(in place), none (migrate, exclusive, silent), or compare-and-swap only (cas-loop). Which link has which way for which
operation is in the JSON, as are all figures; the table has those that answer a question. An emulated link takes no time
of its own, so what operations one by one cost over a link is computed: their number times the link's latency.

The yardsticks are native/atomics.cpp (bare fetch_add in processes that share memory) and the same kernel in device
scope, in turns with ours. Every total is verified.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

import hmmemu as hmm
from hmmemu._native import cpu_atomic
from hmmemu.bench.atomic_cases import CASES, Case, source
from hmmemu.bench.peer import Peer
from hmmemu.bench.pinning import cpus_for
from hmmemu.bench.result import Result, Row, median
from hmmemu.errors import Error, UnsupportedError

QUESTION = (
    "How many atomic operations a second, in millions, and what would they cost one by one over the link?"
)
BARE = "bare fetch_add by one process"
BARE_TOGETHER = "bare fetch_add by as many processes on the same words"
PLAIN = "the plain instruction (device scope)"
AIM_IN_PLACE, AIM_MIGRATE = 0.333, 0.833  # at most 3 times, and 1.2 times, the time
LINK = "pcie4"  # whose latency operations one by one would take
PAGES, WORDS = 64, 1024  # of int32; the pages that are taken once
OPERATIONS = (1, 16, 256, 4096)  # on each of them
FAR = 16  # int32 between words of one page: in cache lines of their own
LIMIT = 60.0  # seconds that anything may take


@dataclass(frozen=True)
class Way:
    """A way for atomics of system scope: the space's link and fallback."""

    name: str
    link: str | hmm.Link
    fallback: str


_CAS = hmm.Link.capabilities(
    {
        hmm.AtomicOperation.CAS: hmm.AtomicCapability.SCALAR_16
        | hmm.AtomicCapability.SCALAR_32
        | hmm.AtomicCapability.SCALAR_64
        | hmm.AtomicCapability.SCALAR_128
    }
)
_ONLY_CAS = hmm.Link("only-cas", bandwidth=1e9, latency=1e-6, fault_cost=2e-5, atomics=_CAS)
IN_PLACE, MIGRATE = Way("in place", "nvlink-c2c", "migrate"), Way("migrate", "pcie3-noatomics", "migrate")
WAYS = (
    IN_PLACE,
    MIGRATE,
    Way("exclusive", "pcie3-noatomics", "exclusive"),
    Way("cas-loop", _ONLY_CAS, "cas-loop"),
    Way("silent", "pcie3-noatomics", "silent"),
)


def run(quick: bool = False) -> Result:
    """Measures. Quick takes some ten seconds, the whole a minute or two."""
    result = Result("atomics", QUESTION, quick=quick)
    with open_ways(result) as spaces:
        alone(result, spaces, rounds=9 if quick else 45, count=60_000 if quick else 200_000)
        together(result, spaces, rounds=1 if quick else 3, budget=0.05 if quick else 0.3)
        taken_once(result, spaces, rounds=3 if quick else 15)
    result.details["routes"] = {
        f"{case.name}, {fallback}": case.routes(fallback) for case in CASES for fallback in hmm.Fallback
    }
    return result


@dataclass
class Opened:
    """The space of a way, with the kernels and a page in it."""

    way: Way
    space: hmm.AddressSpace
    module: hmm.RawModule
    page: np.ndarray[Any, Any]

    @property
    def device(self) -> hmm.Device:
        """The space's device."""
        return self.space.devices[0]

    def launch(self, kernel: str, blocks: int, *arguments: Any, stream: hmm.Stream | None = None) -> None:
        """A launch of blocks of one thread."""
        self.module.get_function(kernel)(blocks, 1, arguments, stream=stream, device=self.device)


@contextmanager
def open_ways(result: Result) -> Iterator[list[Opened]]:
    """A space for each way that there is; a note for those that are not."""
    module = hmm.RawModule(source(), filename="bench_atomics.cu")
    with ExitStack() as stack:
        opened = []
        for way in WAYS:
            try:
                space = hmm.AddressSpace(
                    "emulated",
                    link=way.link,
                    fallback=way.fallback,
                    policy=hmm.Policy(grow=False),
                    timeout=LIMIT,
                )
            except UnsupportedError as error:
                result.notes.append(f"left out: {error}")
                continue
            stack.enter_context(space)
            opened.append(Opened(way, space, module, space.zeros(WORDS, np.int32)))
        yield opened


# -- one thread, every operation -------------------------------------------------------------------------------------


def alone(result: Result, spaces: list[Opened], rounds: int, count: int) -> None:
    """One thread of the device: adds the rows, and the figure of each operation and way to the details."""
    found: dict[str, dict[str, list[float]]] = {case.name: defaultdict(list) for case in CASES}
    _, worker = cpus_for(spaces[0].device)
    with Peer("atomics", flags=(), arguments=[str(worker)]) as peer:
        for number in range(rounds):
            for case in CASES:
                rates = found[case.name]
                bits = 64 if case.dtype[1] == "8" else 32
                rates[BARE].append(peer.ask(bits, 0, 1, count)[0] * 1e-6)
                turns = [(PLAIN, spaces[1], "device"), *((o.way.name, o, "system") for o in spaces)]
                for name, opened, scope in turns if number % 2 else reversed(turns):
                    rates[name].append(one_thread(opened, case, scope, count))
    figures = {name: {way: median(values) for way, values in rates.items()} for name, rates in found.items()}
    result.details["one thread, million operations a second"] = figures
    _rows(result, figures, IN_PLACE.name, BARE, AIM_IN_PLACE)
    _rows(result, figures, MIGRATE.name, PLAIN, AIM_MIGRATE)
    for way in ("exclusive", "cas-loop"):
        if any(opened.way.name == way for opened in spaces):
            _rows(result, figures, way, PLAIN, None)
    result.notes.append(
        f"one thread: medians of {rounds} rounds of {count} operations, device and yardstick in turns on CPU {worker} "
        "and timed there without the launch; "
        f"all {len(CASES)} operations are in the JSON (--json)"
    )


def _rows(
    result: Result, figures: dict[str, dict[str, float]], way: str, peer: str, aim: float | None
) -> None:
    """Two operations that are always shown, and the one that is slowest beside its yardstick."""
    slowest = min(figures, key=lambda name: figures[name][way] / figures[name][peer])
    for name in dict.fromkeys(("add int", "max int", slowest)):
        ours, bare = figures[name][way], figures[name][peer]
        note = "the slowest of all" if name == slowest else ""
        result.add(Row(f"{way}: {name}", ours, "M/s", bare, peer, aim, note=note))


def one_thread(opened: Opened, case: Case, scope: str, count: int) -> float:
    """Million operations a second on a page that is where it stays. Raises Error if the total is wrong.

    A launch before brings the page there, and lasts until the one that is timed is queued.
    """
    word = opened.page[:4].view(case.dtype)[: case.lanes]
    opened.page[:4] = 0
    start = np.array(case.start).astype(case.dtype)
    word[...] = start
    kernel, bytes_ = case.kernel(scope), opened.page.view(np.uint8)
    stream, begin, end = hmm.Stream(), hmm.Event(), hmm.Event()
    warm, total = count // 2, count // 2 + count
    with opened.device, stream:
        opened.launch(kernel, 1, bytes_, np.int64(0), np.int64(warm), np.int64(0), stream=stream)
        begin.record()
        opened.launch(kernel, 1, bytes_, np.int64(warm), np.int64(total), np.int64(0), stream=stream)
        end.record()
        stream.synchronize(LIMIT)
    seconds = hmm.get_elapsed_time(begin, end) * 1e-3
    lost = scope == "system" and opened.way.fallback == "silent"
    if not (bool((word == start).all()) if lost else case.right(word, total)):
        raise Error(f"{opened.way.name}: {total} operations {case.name!r} ({scope} scope) left {word}")
    elements = case.lanes if case.bits == 0 else 1  # of a vector each is an operation
    return count * elements / seconds * 1e-6


# -- contention ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crowd:
    """Who adds to words of one page at once: blocks of the device, threads of the CPU; `far`: each to its own word."""

    blocks: int
    threads: int
    far: bool

    @property
    def name(self) -> str:
        """In words."""
        device = f"{self.blocks} block" + "s" * (self.blocks > 1)
        cpu = f" and {self.threads} CPU thread" + "s" * (self.threads > 1) if self.threads else ""
        return f"{device}{cpu}, {'words of a page' if self.far else 'one word'}"


def crowds(workers: int) -> list[Crowd]:
    """From one block to all workers and as many threads of the CPU."""
    counts = dict.fromkeys(((1, 0), (workers, 0), (1, 1), (workers, workers)))
    return [Crowd(*count, far) for far in (False, True) for count in counts]


def together(result: Result, spaces: list[Opened], rounds: int, budget: float) -> None:
    """Several at once: adds the rows, and all figures to the details. `budget`: seconds of one measurement."""
    cpus = sorted(os.sched_getaffinity(0))
    workers = len(spaces[0].device.process.workers)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with Peer("atomics", flags=(), arguments=[str(cpu) for cpu in cpus]) as peer:
        for crowd in crowds(workers):
            bare, found = [], defaultdict(list)
            for _ in range(rounds):
                processes = crowd.blocks + crowd.threads
                count = int(budget * 2e7)
                bare.append(peer.ask(32, 4 * FAR * crowd.far, processes, count)[0] * 1e-6)
                for opened in (o for o in spaces if o.way.fallback != "silent"):
                    found[opened.way.name].append(contend(opened, crowd, budget))
            figures[crowd.name] = {"bare": {"all": median(bare)}}
            for way, rates in found.items():
                both = {"all": median(a for a, _ in rates), "device": median(b for _, b in rates)}
                figures[crowd.name][way] = both
                if crowd.blocks + crowd.threads > 1 and (not crowd.far or way == IN_PLACE.name):
                    _crowd_row(result, f"{way}: {crowd.name}", both, median(bare), crowd)
    result.details["together, million operations a second"] = figures
    result.notes.append(
        "together: int additions of system scope while the kernel runs, the device's share in brackets; threads of "
        "the CPU and processes of the yardstick take part until the kernel, or the first process, is done"
    )


def _crowd_row(result: Result, name: str, both: dict[str, float], bare: float, crowd: Crowd) -> None:
    note = f"{both['device'] / both['all']:.2%}" if crowd.threads else ""
    result.add(Row(name, both["all"], "M/s", bare, BARE_TOGETHER, note=note))


def contend(opened: Opened, crowd: Crowd, budget: float) -> tuple[float, float]:
    """Million operations a second while a kernel of about `budget` seconds runs: of all, of the device."""
    count, long = 64, 0
    while True:
        seconds, device, cpu = contend_once(opened, crowd, count)
        long = long + 1 if seconds >= budget / 2 else 0
        if long == 2:  # once may be bad luck: the page was elsewhere, the threads slept
            return (device + cpu) * 1e-6, device * 1e-6
        if not long:
            count *= 2 if seconds > budget / 8 else 8


def contend_once(opened: Opened, crowd: Crowd, count: int) -> tuple[float, float, float]:
    """Seconds of the kernel; operations a second of the device while it runs, and of the CPU.

    Raises:
        Error: an operation was lost; KernelTimeout: the kernel did not end.
    """
    stride = FAR if crowd.far else 0
    page = opened.page
    page[...] = 0
    arguments = page, np.int64(0), np.int64(count), np.int64(stride)
    start, end = hmm.Event(), hmm.Event()
    with _Hammers([page[stride * (crowd.blocks + i) :][:1] for i in range(crowd.threads)]) as hammers:
        stream = hmm.Stream()
        with opened.device, stream:
            begin, before = time.perf_counter(), hammers.total()
            start.record()
            opened.launch("system_add_int", crowd.blocks, *arguments, stream=stream)
            end.record()
            stream.synchronize(LIMIT)
            spent, meanwhile = time.perf_counter() - begin, hammers.total() - before
    wanted = crowd.blocks * count + hammers.total() & 0xFFFFFFFF
    total = int(page.view(np.uint32).sum(dtype=np.uint64)) & 0xFFFFFFFF
    if total != wanted:
        raise Error(f"{opened.way.name}, {crowd.name}: {wanted} additions made {total}")
    seconds = hmm.get_elapsed_time(start, end) * 1e-3
    return seconds, crowd.blocks * count / seconds, meanwhile / spent


class _Hammers:
    """Threads of the CPU, each adding 1 to its word until the block ends."""

    # Operations between two looks at whether to stop, without the GIL: so many that others get it in between.
    PIECE = 100_000

    def __init__(self, words: list[np.ndarray[Any, Any]]) -> None:
        self._words = words
        self._done = [0] * len(words)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(len(words))]

    def total(self) -> int:
        """Operations so far."""
        return sum(self._done)

    def _run(self, index: int) -> None:
        one, word = np.int32(1).tobytes(), self._words[index]
        while not self._stop.is_set():
            cpu_atomic("add", "i4", word, one, one, self.PIECE)
            self._done[index] += self.PIECE

    def __enter__(self) -> _Hammers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


# -- a page taken once ------------------------------------------------------------------------------------------------


def taken_once(result: Result, spaces: list[Opened], rounds: int) -> None:
    """Operations in a row on a page that the CPU has, taken and given back, beside one by one over the link."""
    link = next(link for link in hmm.links() if link.name == LINK)
    computed = f"one by one over {LINK} (computed: {link.latency * 1e9:.0f} ns each)"
    by_way = {opened.way: opened for opened in spaces}
    pages = {way: by_way[way].space.zeros(PAGES * WORDS, np.int32) for way in (MIGRATE, IN_PLACE)}
    found: dict[tuple[Way, int], list[float]] = defaultdict(list)
    for _ in range(1 + rounds):
        for count in OPERATIONS:
            for way, array in pages.items():
                found[way, count].append(on_pages(by_way[way], array, count))
    figures = {key: median(values[1:]) * 1e6 for key, values in found.items()}
    for count in OPERATIONS:
        ours, bare = figures[MIGRATE, count], count * link.latency * 1e6
        name = f"page taken once, {count} operations"
        result.add(Row(name, ours, "µs", bare, computed, more_is_better=False))
    few, many = OPERATIONS[0], OPERATIONS[-1]
    each = (figures[MIGRATE, many] - figures[MIGRATE, few]) / (many - few)
    taking = figures[MIGRATE, few] - few * each
    result.add(
        Row("operations a page from which taking it is quicker", taking / (link.latency * 1e6 - each), "")
    )
    result.details["a page, µs"] = {
        f"{way.name}, {count} operations": value for (way, count), value in figures.items()
    }
    result.notes.append(
        f"page taken once: measured; medians of {rounds} rounds over {PAGES} pages, from a kernel that takes each page "
        "by a fault to the CPU's first read of it afterwards. An emulated link takes no time: one by one is computed"
    )


def on_pages(opened: Opened, array: np.ndarray[Any, Any], count: int) -> float:
    """Seconds a page for `count` operations of a kernel on each, and until the CPU has it again."""
    words = array[::WORDS]
    array[...] = 0
    empty = median(_seconds(lambda: opened.launch("pages", 1, array, 0, 0)) for _ in range(3))
    spent = _seconds(lambda: opened.launch("pages", 1, array, PAGES, count))
    begin = time.perf_counter()
    total = int(words.sum())
    back = time.perf_counter() - begin
    if total != PAGES * count:
        raise Error(f"{opened.way.name}: {PAGES * count} additions made {total}")
    return (spent - empty + back) / PAGES


def _seconds(act: Callable[[], None]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin
