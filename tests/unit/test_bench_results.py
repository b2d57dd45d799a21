"""Results of benches, and that the yardsticks of `bench kernels` compute the same as our kernels and NumPy."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
from rich.console import Console

from hmmemu.bench import BENCHES, kernels
from hmmemu.bench.peer import Peer
from hmmemu.bench.result import Result, Row, median
from hmmemu.errors import CompileError, Error

SMALL = {
    "saxpy": 1 << 12,
    "stencil": 1 << 12,
    "matmul": 64,
    "tiled": 64,
    "reduce": 1 << 12,
    "histogram": 1 << 12,
}


def small_case(kernel: str) -> kernels.Case:
    return kernels.Case(kernel, SMALL[kernel], "GB/s", 1.0)


def test_ratio_and_aim() -> None:
    faster = Row("a", 9.0, "GB/s", peer=10.0, aim=0.8)
    assert faster.ratio == 0.9 and faster.met is True
    assert Row("a", 7.0, "GB/s", peer=10.0, aim=0.8).met is False
    assert Row("b", 13.0, "µs", peer=10.0, aim=1.3, more_is_better=False).met is True
    assert Row("b", 14.0, "µs", peer=10.0, aim=1.3, more_is_better=False).met is False
    alone = Row("c", 2.5, "ns", aim=3.0, more_is_better=False)
    assert alone.ratio is None and alone.met is True
    assert Row("d", 1.0, "s").met is None
    assert median([3.0, 1.0, 2.0, 10.0]) == 2.5


def test_json_round_trip() -> None:
    result = Result(
        "x", "How?", [Row("a", 1.0, "s", 2.0, "peer", 0.5, False, "note"), Row("b", 1.0, "s")], True, ["said"]
    )
    text = json.dumps(result.to_dict())
    again = Result.from_dict(json.loads(text))
    assert again == result
    row = json.loads(text)["rows"][0]
    assert row["ratio"] == 0.5 and row["met"] is True
    assert {"cpu", "cpus", "memory_bytes", "kernel", "compiler", "python", "hmmemu", "load", "date"} <= set(
        result.machine
    )


def test_table_shows_every_figure() -> None:
    result = Result(
        "x", "How fast?", [Row("saxpy", 12.5, "GB/s", 25.0, "loops", 0.8), Row("alone", 3.0, "ns")]
    )
    out = io.StringIO()
    Console(file=out, width=80).print(result.table())
    for text in ("How fast?", "saxpy", "12.5", "25", "0.5", "≥0.8 missed", "beside loops", "alone", "GB/s"):
        assert text in out.getvalue()


def test_benches_are_listed_without_importing_them() -> None:
    assert {"kernels", "launch", "faults", "migrate", "waitqueue"} <= set(BENCHES)
    with pytest.raises(KeyError):
        BENCHES["nosuch"]
    assert callable(BENCHES["kernels"].run) and callable(BENCHES["launch"].run)


@pytest.mark.parametrize("launches", [1, 3])
@pytest.mark.parametrize("kernel", SMALL)
def test_expected_checksum_is_numpys(kernel: str, launches: int) -> None:
    case = small_case(kernel)
    inputs, out = kernels.inputs_of(case)
    n, x = case.size, inputs[0]
    if kernel == "saxpy":
        for _ in range(launches):
            out = np.float32(0.5) * x + out
    elif kernel == "stencil":
        out[1:-1] = np.float32(0.25) * x[:-2] + np.float32(0.5) * x[1:-1] + np.float32(0.25) * x[2:]
    elif kernel in ("matmul", "tiled"):
        out = (x.reshape(n, n) @ inputs[1].reshape(n, n)).ravel()
    elif kernel == "reduce":
        out = x.reshape(-1, 256).sum(axis=1)
    else:
        out = np.bincount(x, minlength=256)
    assert kernels.checksum_of(case, out) == kernels.expected_checksum(case, launches)


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with Peer("kernels") as running:
        yield running


@pytest.mark.parametrize("kernel", SMALL)
def test_openmp_computes_the_same(peer: Peer, kernel: str) -> None:
    case = small_case(kernel)
    checksum, *seconds = peer.ask(kernel, case.size, 3)
    assert checksum == kernels.expected_checksum(case, 4)
    assert len(seconds) == 3 and all(0 < s < 10 for s in seconds)


def test_a_peer_that_ends_is_an_error(peer: Peer) -> None:
    with Peer("kernels") as other, pytest.raises(Error, match="the yardstick kernels ended"):
        other.ask("saxpy", 1 << 40, 1)


def test_a_peer_that_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CompileError, match="does not compile"):
        Peer("kernels", flags=["-fno-openmp", "-DSAXPY", "-include", "no_such_file.h"])


def test_launch_yardstick() -> None:
    with Peer("launch") as running:
        for way in ("sleep", "spin", "openmp", "sleep", "spin"):
            microseconds = running.ask(way, 20)
            assert len(microseconds) == 20 and all(0 <= value < 1e6 for value in microseconds)
