"""Microseconds from call to completion of an empty kernel.

Beside it stands what its parts cost at least: a request and its answer between two processes that sleep in a futex or
watch a word, and an empty parallel loop of OpenMP in one process (native/launch.cpp).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import hmmemu as hmm
from hmmemu.bench.peer import openmp_peer
from hmmemu.bench.result import Result, Row, median
from hmmemu.bench.timing import SOURCE, DeviceTimer

QUESTION = "How many microseconds from call to completion of an empty kernel?"
NAMES = {
    "sleep": "a round trip between processes, futex",
    "spin": "a round trip between processes, spinning",
    "openmp": "an empty OpenMP loop",
}
PAUSE_SECONDS = 0.01


def run(quick: bool = False) -> Result:
    """Measures. Quick takes a few seconds, the whole about twenty."""
    result = Result("launch", QUESTION, quick=quick)
    rounds, each = (5, 40) if quick else (20, 200)
    with hmm.AddressSpace(device="emulated"), openmp_peer("launch", result) as peer:
        module = hmm.RawModule(path=str(SOURCE))
        ways = _ways(module)
        times: dict[str, list[float]] = {name: [] for name in [*ways, *NAMES]}
        for _ in range(rounds):
            for name, way in ways.items():
                time.sleep(PAUSE_SECONDS)
                times[name] += way(each)
            for name in NAMES if peer else ():
                time.sleep(PAUSE_SECONDS)
                times[name] += peer.ask(name, each) if peer else []
    _rows(result, times)
    return result


def _ways(module: hmm.RawModule) -> dict[str, Callable[[int], list[float]]]:
    """Name of a way to launch: a function that does it so many times and returns the microseconds of each."""
    empty, pointers = module.get_function("empty"), module.get_function("empty_pointers")
    arrays = [hmm.zeros(1 << 16, np.float32) for _ in range(3)]
    timer, stream = DeviceTimer(module), hmm.Stream()

    def called(launch: Callable[[], None]) -> Callable[[int], list[float]]:
        def way(count: int) -> list[float]:
            launch()
            return [_microseconds(launch) for _ in range(count)]

        return way

    def streamed(count: int) -> list[float]:
        def all_of_them() -> None:
            for _ in range(count):
                empty((1,), (32,), (), stream=stream)
            stream.synchronize()

        return [_microseconds(all_of_them) / count]

    return {
        "call to completion": called(lambda: empty((1,), (32,))),
        "with three arrays": called(lambda: pointers((1,), (32,), (*arrays, np.int32(0)))),
        "of 4096 blocks": called(lambda: empty((4096,), (256,))),
        "one of many on a stream": streamed,
        "on the device alone": lambda count: [
            1e6 * timer.seconds(lambda: empty((1,), (32,)), min(count, 48))
        ],
    }


def _microseconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1e6


def _rows(result: Result, times: dict[str, list[float]]) -> None:
    whole = times["call to completion"]
    for yardstick, label in NAMES.items():
        if times[yardstick]:
            peer = median(times[yardstick])
            result.add(Row("call to completion", median(whole), "µs", peer, label, more_is_better=False))
    for name, values in times.items():
        if name not in NAMES and name != "call to completion":
            result.add(Row(name, median(values), "µs", more_is_better=False))
    for percent in (1, 99):
        value = float(np.percentile(whole, percent))
        result.add(Row(f"call to completion, {percent} % are below", value, "µs", more_is_better=False))
