"""A real GPU: does hmmemu keep an array in step at less cost than the ways that CuPy has for it?

Not yet run on a GPU. All ways take turns in one run, on the same GPU; every result is compared with what NumPy says.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

import hmmemu as hmm
from hmmemu.bench import gpu_managed
from hmmemu.bench.gpu_pages import ScatteredPages
from hmmemu.bench.gpu_ways import SOURCE, WORDS, Measured, Way, all_ways, counts
from hmmemu.bench.result import Result, Row, median
from hmmemu.errors import ArgumentError
from hmmemu.gpus import choose_gpu

QUESTION = "What does it cost to have a kernel run over an array of which the CPU changed k pages?"
BEST, AIM_BEST, AIM = "the best of the others", 1.1, 1.0  # AIM: up to a quarter of the pages
CUPY_LAUNCH, AIM_LAUNCH = "CuPy's launch, and waiting for it", 10.0  # AIM_LAUNCH: microseconds more than that
CUPY_LAUNCHES = "as many of CuPy's, and waiting for the last"
MANY, MORE = 100, "what it takes more than CuPy's"  # MANY: launches in a row
EMULATED = "the emulated device"
SIZE, QUICK_SIZE = 1 << 30, 1 << 26
COPIES_THERE, COPIES_HERE = 4, 6  # of the array, at the same time: on the GPU, and in the CPU's memory


def run(quick: bool = False, size: int | None = None) -> Result:
    """Measures with arrays of `size` bytes, on the GPU that HMMEMU_DEVICE names, or the first.

    Raises:
        UnsupportedError: there is no GPU that can be used.
        ArgumentError: the size is not a multiple of 2 MiB, or the GPU or the machine has not enough memory free.
    """
    device = os.environ.get("HMMEMU_DEVICE", "")
    device = device if device.startswith("cuda") else "cuda"
    gpu = choose_gpu(device)
    cupy = import_module("cupy")
    size = size or (QUICK_SIZE if quick else SIZE)
    result = Result("gpu", QUESTION, quick=quick)
    result.machine["gpu"] = str(gpu)
    with cupy.cuda.Device(gpu.index):
        check_size(size, cupy.cuda.runtime.memGetInfo()[0])
        repeats = 3 if quick else 9
        with hmm.AddressSpace(device=device) as space:
            with all_ways(cupy, space, size) as ways:
                changed_pages(result, ways, repeats)
            launches(result, cupy, space, 50 if quick else 500)
        for row in ScatteredPages(cupy, size).rows(repeats):
            result.add(row)
    pages_moved(result, device, min(size, QUICK_SIZE))
    gpu_managed.rows(result, gpu.index, min(size, QUICK_SIZE))
    result.notes.append(f"{gpu}; medians; arrays of {size >> 20} MiB in pages of 4 KiB")
    return result


def check_size(size: int, free_there: int) -> None:
    """ArgumentError unless arrays of `size` bytes can be measured. `free_there`: bytes of the GPU's memory."""
    if size <= 0 or size % (2 << 20):
        raise ArgumentError(f"the size of the array is a multiple of 2 MiB, not {size} bytes")
    free_here = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for copies, free, where in ((COPIES_THERE, free_there, "on the GPU"), (COPIES_HERE, free_here, "here")):
        if copies * size > free:
            raise ArgumentError(
                f"{copies} times {size >> 20} MiB of memory are needed {where}, and {free >> 20} MiB are free: "
                "ask for less with --bytes"
            )


# ------------------------------------------------------------------------------------- changed pages


def changed_pages(result: Result, ways: Sequence[Way], repeats: int) -> None:
    """Adds ours beside each of the other ways, and beside the best, for each number of pages."""
    pages = ways[0].words.size // WORDS
    measured = [Measured(way) for way in ways]
    for each in measured:
        each.warm_up()
    random = np.random.default_rng(1)
    times = {}
    for count in counts(pages):
        steps: list[list[float]] = [[] for _ in ways]
        for _ in range(repeats):
            chosen = random.choice(pages, count, replace=False)
            for each, seconds in zip(measured, steps, strict=True):
                seconds.append(each.step(chosen))
        times[count] = [1e3 * median(seconds) for seconds in steps]
    for number, way in list(enumerate(ways))[1:]:
        for count, values in times.items():
            aim = AIM if count <= pages // 4 else None
            result.add(_row(count, pages, values[0], values[number], way.name, aim))
    for count, values in times.items():
        result.add(_row(count, pages, values[0], min(values[1:]), BEST, AIM_BEST))


def _row(count: int, pages: int, ours: float, peer: float, name: str, aim: float | None) -> Row:
    return Row(f"{count} of {pages} pages changed", ours, "ms", peer, name, aim, more_is_better=False)


# ------------------------------------------------------------------------------------------ launches


def launches(result: Result, cupy: Any, space: hmm.AddressSpace, each: int, rounds: int = 5) -> None:
    """Adds launches with three arrays that are there, one that is waited for and many in a row, beside CuPy's."""
    ours = hmm.RawModule(path=str(SOURCE)).get_function("three_arrays")
    theirs = cupy.RawModule(code=SOURCE.read_text()).get_function("three_arrays")
    here = [space.zeros(1 << 16, np.float32) for _ in range(3)]
    there = [cupy.empty(1 << 16, np.float32) for _ in range(3)]
    stream, nothing = cupy.cuda.get_current_stream(), np.int32(0)

    def launch_theirs() -> None:
        theirs((1,), (32,), (*there, nothing))
        stream.synchronize()

    waiting = hmm.Stream()

    def one_of_ours() -> None:
        ours((1,), (32,), (*here, nothing))

    def many_of_ours() -> None:
        for _ in range(MANY):
            ours((1,), (32,), (*here, nothing), stream=waiting)
        waiting.synchronize()

    def many_of_theirs() -> None:
        for _ in range(MANY):
            theirs((1,), (32,), (*there, nothing))
        stream.synchronize()

    with space.devices[0]:
        mine, cupys = _in_turns(one_of_ours, launch_theirs, each, rounds)
        result.add(Row("a launch with three arrays", mine, "µs", cupys, CUPY_LAUNCH, more_is_better=False))
        result.add(Row(MORE, mine - cupys, "µs", aim=AIM_LAUNCH, more_is_better=False))
        mine, cupys = (t / MANY for t in _in_turns(many_of_ours, many_of_theirs, max(1, each // 10), rounds))
        result.add(Row(f"one of {MANY} launches", mine, "µs", cupys, CUPY_LAUNCHES, more_is_better=False))
        result.add(Row(f"{MORE}, of {MANY}", mine - cupys, "µs", aim=AIM_LAUNCH, more_is_better=False))


def _in_turns(
    first: Callable[[], object], second: Callable[[], object], each: int, rounds: int
) -> tuple[float, float]:
    """Medians in microseconds; the two take turns, and each begins its turn once unmeasured."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for action, values in zip((first, second), times, strict=True):
            action()
            values += [_microseconds(action) for _ in range(each)]
    return median(times[0]), median(times[1])


def _microseconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return (time.perf_counter() - begin) * 1e6


# --------------------------------------------------------------------------------------- pages moved


def pages_moved(result: Result, device: str, size: int) -> None:
    """Adds how many pages crossed the link for the same program, on the GPU beside the emulated device."""
    pages = size // mmap.PAGESIZE
    there, emulated = (gpu_managed.all_counts(kind, size, counts(pages)) for kind in (device, "emulated"))
    for count, ours in there.items():
        peer = emulated[count]
        moved = (("to the device", ours.to_device, peer.to_device), ("home", ours.home, peer.home))
        for way, mine, theirs in moved:
            name = f"pages moved {way}, {count} of {pages} changed"
            result.add(Row(name, mine, "pages", theirs, EMULATED, more_is_better=False))
