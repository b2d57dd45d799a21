"""How near do emulated kernels come to the same loops in C++ with OpenMP, and how far ahead of numba's simulator?

Every kernel runs on data that the device already holds, each round next to the yardstick's; results are checked against
NumPy before anything is timed. native/kernels.cpp is the yardstick, simulator.py runs numba's CUDA simulator at sizes
that it can finish.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.bench.peer import Peer, openmp_peer
from hmmemu.bench.result import Result, Row, median
from hmmemu.bench.timing import SOURCE, DeviceTimer
from hmmemu.errors import Error

QUESTION = (
    "How near do emulated kernels come to C++ with OpenMP, and how far ahead of numba's simulator are they?"
)
BLOCK, TILE = 256, 16
STREAM_SIZES = (1 << 16, 1 << 20, 1 << 24)  # in a core's cache, in the last cache, in memory
OPENMP = "C++ with OpenMP, -O3"
SIMULATOR = "numba's CUDA simulator"
SIMULATOR_AIM = 10_000
BATCHES = 3  # of launches a round
PAUSE_SECONDS = (
    0.02  # between ours and the yardstick: idle threads of the one must not spin into the other's time
)

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One kernel at one size; `work` is what a launch does, in `unit` seconds (GB or GFLOP)."""

    kernel: str
    size: int
    unit: str
    work: float
    aim: float | None = None
    label: str = ""

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.label or self.kernel} {_size(self.size)}"


def cases() -> list[Case]:
    """Sizes and aims as in the issue that asked for this bench: streaming 0.8, tiled product 0.08, reduction 0.05."""
    made = [Case("saxpy", n, "GB/s", 12e-9 * n, 0.8) for n in STREAM_SIZES]
    made += [Case("stencil", n, "GB/s", 8e-9 * n, 0.8) for n in STREAM_SIZES]
    flops = 2e-9 * 512**3
    made.append(Case("matmul", 512, "GFLOP/s", flops, label="naive matrix product"))
    made.append(Case("tiled", 512, "GFLOP/s", flops, 0.08, label="tiled matrix product"))
    made.append(Case("reduce", 1 << 22, "GB/s", 4e-9 * (1 << 22), 0.05, label="block reduction"))
    made.append(Case("histogram", 1 << 24, "GB/s", 1e-9 * (1 << 24)))
    return made


def run(quick: bool = False) -> Result:
    """Measures. Quick takes about ten seconds, the whole about a minute."""
    result = Result("kernels", QUESTION, quick=quick)
    with hmm.AddressSpace(device="emulated"):
        module = hmm.RawModule(path=str(SOURCE))
        bench = KernelBench(module, rounds=5 if quick else 15)
        with openmp_peer("kernels", result) as peer:
            rates = {case.name: bench.compare(case, peer, result) for case in cases()}
        bench.barriers(result)
    _against_simulator(result, rates, quick)
    result.notes.append(
        "Kernels by the device's clock, launches queued ahead. Ours and the yardstick in turn; "
        f"medians of {bench.rounds} rounds, of which each gives its best. Aims are for the ratio."
    )
    return result


class KernelBench:
    """Runs the kernels of kernels.cu in the current address space."""

    def __init__(self, module: hmm.RawModule, rounds: int) -> None:
        self.rounds = rounds
        self._module = module
        self._timer = DeviceTimer(module)

    def compare(self, case: Case, peer: Peer | None, result: Result) -> float:
        """Adds the row of one case and returns our rate in the case's unit."""
        launch, check = self._prepare(case)
        check()
        count = self._timer.count_for(launch)
        repeats = max(BATCHES * count, 5)
        ours, theirs = [], []
        for _ in range(self.rounds):
            time.sleep(PAUSE_SECONDS)
            ours.append(case.work / min(self._timer.seconds(launch, count) for _ in range(BATCHES)))
            if peer:
                time.sleep(PAUSE_SECONDS)
                checksum, *seconds = peer.ask(case.kernel, case.size, repeats)
                _same(case, checksum, expected_checksum(case, repeats + 1))
                theirs.append(case.work / min(seconds))
        rate = median(ours)
        mode = self._module.get_function(case.kernel).attributes["mode"]
        yardstick = median(theirs) if peer else None
        result.add(
            Row(case.name, rate, case.unit, yardstick, OPENMP if peer else "", case.aim, note=f"{mode}")
        )
        return rate

    def barriers(self, result: Result) -> None:
        """Adds the row for __syncthreads: nanoseconds of a CPU for one thread at one barrier."""
        blocks, count = 64, 100
        last, out = hmm.zeros(BLOCK, np.int32), hmm.zeros(blocks * BLOCK, np.int32)
        kernel = self._module.get_function("barriers")

        def launch() -> None:
            kernel((blocks,), (BLOCK,), (np.int32(count), last, out))

        launch()
        hmm.current_space().synchronize()
        wanted = np.tile((np.arange(BLOCK) + count) % BLOCK + count, blocks)
        if not np.array_equal(out, wanted):
            raise Error("the barrier kernel gave wrong values")
        workers = len(os.sched_getaffinity(0))
        passes = self._timer.count_for(launch)
        times = [[self._timer.seconds(launch, passes) for _ in range(BATCHES)] for _ in range(self.rounds)]
        seconds = median(map(min, times))
        nanoseconds = seconds * 1e9 * min(workers, blocks) / (blocks * BLOCK * (count + 1))
        note = f"{kernel.attributes['mode']}, {BLOCK} threads"
        result.add(Row("barrier", nanoseconds, "ns a thread", aim=3.0, more_is_better=False, note=note))

    def _prepare(self, case: Case) -> tuple[Callable[[], None], Callable[[], None]]:
        """A function that launches the case on arrays of its own, and one that checks a first launch."""
        kernel, n = self._module.get_function(case.kernel), case.size
        inputs, output = inputs_of(case)
        arrays = [hmm.asarray(x) for x in inputs]
        out = hmm.asarray(output)
        square = case.kernel in ("matmul", "tiled")
        grid: tuple[int, ...] = (n // TILE, n // TILE) if square else (n // BLOCK,)
        block: tuple[int, ...] = (TILE, TILE) if square else (BLOCK,)
        args: tuple[Any, ...] = (np.int32(n), *arrays, out)
        if case.kernel == "saxpy":
            args = (np.int32(n), np.float32(0.5), *arrays, out)
        if case.kernel == "histogram":
            grid = (256,)

        def launch() -> None:
            kernel(grid, block, args)

        def check() -> None:
            launch()
            hmm.current_space().synchronize()
            _same(case, checksum_of(case, np.asarray(out)), expected_checksum(case, 1))

        return launch, check


def inputs_of(case: Case) -> tuple[list[Array], Array]:
    """Input arrays and the output's first content, as native/kernels.cpp makes them: small multiples of 1/8."""
    n = case.size
    if case.kernel == "histogram":
        data = (np.arange(n, dtype=np.uint64) * 2654435761 >> 16).astype(np.uint8)
        return [data], np.zeros(256, np.uint32)
    count = n * n if case.kernel in ("matmul", "tiled") else n
    index = np.arange(count, dtype=np.int32)
    x = (index % 13).astype(np.float32) * np.float32(0.25)
    y = (index % 7).astype(np.float32) * np.float32(0.5)
    if case.kernel == "saxpy":
        return [x], y
    if case.kernel in ("matmul", "tiled"):
        return [x, y], np.zeros(count, np.float32)
    return [x], np.zeros(n // BLOCK if case.kernel == "reduce" else n, np.float32)


def expected_checksum(case: Case, launches: int) -> float:
    """The sum of the output after so many launches; exact, as all values are small multiples of a power of two."""
    inputs, output = inputs_of(case)
    n, x = case.size, inputs[0]
    if case.kernel == "saxpy":
        return float(output.sum(dtype=np.float64) + launches * 0.5 * x.sum(dtype=np.float64))
    if case.kernel == "stencil":
        wide = x.astype(np.float64)
        return float((0.25 * wide[:-2] + 0.5 * wide[1:-1] + 0.25 * wide[2:]).sum())
    if case.kernel in ("matmul", "tiled"):
        a, b = x.reshape(n, n).astype(np.float64), inputs[1].reshape(n, n).astype(np.float64)
        return float(a.sum(axis=0) @ b.sum(axis=1))
    return float(x.sum(dtype=np.float64))


def checksum_of(case: Case, output: Array) -> float:
    """Of one launch: the sum of the output; of a histogram, of the values it counted."""
    if case.kernel == "histogram":
        return float((output.astype(np.float64) * np.arange(256)).sum())
    return float(output.sum(dtype=np.float64))


def _same(case: Case, got: float, wanted: float) -> None:
    if got != wanted:
        raise Error(f"{case.name}: the output adds up to {got!r}, and {wanted!r} is right")


def _against_simulator(result: Result, rates: dict[str, float], quick: bool) -> None:
    """Adds rows that set the full-size rates beside the simulator's at a small size."""
    if importlib.util.find_spec("numba") is None:
        result.notes.append("Without numba's simulator: pip install 'hmmemu[bench]' adds it.")
        return
    script = Path(__file__).parent / "simulator.py"
    command = [sys.executable, str(script), *(["--quick"] if quick else [])]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    if done.returncode != 0:
        result.notes.append(f"numba's simulator failed: {done.stderr.strip().splitlines()[-1]}")
        return
    best = {case.kernel: case for case in cases()}  # the largest size of each kernel comes last
    for kernel, figures in json.loads(done.stdout).items():
        case = best[kernel]
        result.add(
            Row(
                case.name,
                rates[case.name],
                case.unit,
                figures["work"] / figures["seconds"],
                SIMULATOR,
                SIMULATOR_AIM,
                note=f"simulator at {_size(figures['size'])}",
            )
        )


def _size(n: int) -> str:
    power = n.bit_length() - 1
    return f"2^{power}" if n == 1 << power and power >= 10 else str(n)
