"""`bench atomics` in small: every way and crowd, what must come out of each operation, and that lost ones are noticed."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import hmmemu as hmm
from hmmemu.bench import atomic_cases, atomics
from hmmemu.bench.atomic_cases import CASES, Case
from hmmemu.bench.atomics import MIGRATE, Crowd, Opened
from hmmemu.bench.peer import NATIVE, Peer
from hmmemu.bench.result import Result
from hmmemu.compiler import find_compiler
from hmmemu.errors import Error

FEW = [
    case for case in CASES if case.name in ("add int", "max int", "add __half2", "exch uint4", "dec unsigned")
]
STEPS: dict[str, Callable[[int, int], int]] = {  # (value, number of the operation) -> value
    "add": lambda v, i: v + 1,
    "sub": lambda v, i: v - 1,
    "exch": lambda v, i: i,
    "cas": lambda v, i: i + 1 if v == i else v,
    "min": lambda v, i: min(v, -i),
    "max": lambda v, i: max(v, i),
    "inc": lambda v, i: 0 if v >= 1_000_000 else v + 1,
    "dec": lambda v, i: 1_000_000 if v == 0 else v - 1,
    "and": lambda v, i: v & ~i,
    "or": lambda v, i: v | i,
    "xor": lambda v, i: v ^ i,
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_must_come_out(case: Case) -> None:
    step, value = STEPS[case.name.split()[0]], case.start
    bits = 8 * np.dtype(case.dtype).itemsize
    for i in range(1500):
        value = step(value, i)
        assert (value - int(case.value(i + 1))) % (1 << bits) == 0


def test_every_link_says_how_it_does_every_operation() -> None:
    routes = {case.name: case.routes("migrate") for case in CASES}
    assert set(routes["add int"]) == {link.name for link in hmm.links()}
    assert routes["add int"]["pcie4"] == "native" and routes["max int"]["pcie4"] == "migrate"
    assert {r["nvlink-c2c"] for r in routes.values()} == {"native"}
    assert {r["pcie3-noatomics"] for r in routes.values()} == {"migrate"}
    assert routes["cas uint4"]["pcie3"] == "native" and routes["exch uint4"]["pcie3"] == "migrate"


@pytest.fixture(scope="module")
def result() -> Result:
    return Result("atomics", atomics.QUESTION)


@pytest.fixture(scope="module")
def spaces(result: Result) -> Iterator[list[Opened]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic_cases, "CASES", FEW)
        patch.setattr(atomics, "CASES", FEW)
        patch.setattr(atomics, "PAGES", 4)
        with atomics.open_ways(result) as opened:
            yield opened


def opened(spaces: list[Opened], name: str) -> Opened:
    return next(space for space in spaces if space.way.name == name)


def test_one_thread(result: Result, spaces: list[Opened]) -> None:
    result.rows.clear()
    atomics.alone(result, spaces, rounds=1, count=2000)
    figures = result.details["one thread, million operations a second"]
    names = {atomics.BARE, atomics.PLAIN, *(space.way.name for space in spaces)}
    assert {"in place", "migrate", "cas-loop", "silent"} <= names
    assert list(figures) == [case.name for case in FEW]
    assert all(set(rates) == names and min(rates.values()) > 0 for rates in figures.values())
    rows = [row for row in result.rows if row.aim]
    assert {row.name.split(":")[0] for row in rows} == {"in place", "migrate"}
    assert len(result.rows) == len({row.name for row in result.rows})


def test_together(result: Result, spaces: list[Opened]) -> None:
    result.rows.clear()
    atomics.together(result, spaces, rounds=1, budget=0.002)
    figures = result.details["together, million operations a second"]
    workers = len(spaces[0].device.process.workers)
    assert list(figures) == [crowd.name for crowd in atomics.crowds(workers)]
    for name, ways in figures.items():
        assert ways.pop("bare")["all"] > 0 and "silent" not in ways
        for rates in ways.values():
            assert 0 < rates["device"] <= rates["all"]
            assert "CPU" in name or rates["device"] == rates["all"]


def test_a_page_taken_once(result: Result, spaces: list[Opened]) -> None:
    result.rows.clear()
    atomics.taken_once(result, spaces, rounds=2)
    assert len(result.rows) == len(atomics.OPERATIONS) + 1
    assert all(
        row.peer == pytest.approx(0.79 * n) for row, n in zip(result.rows, atomics.OPERATIONS, strict=False)
    )
    assert len(result.details["a page, µs"]) == 2 * len(atomics.OPERATIONS)


def test_lost_operations_are_noticed(spaces: list[Opened]) -> None:
    silent = opened(spaces, "silent")
    lost, kept = (
        dataclasses.replace(silent, way=MIGRATE),
        dataclasses.replace(opened(spaces, "migrate"), way=silent.way),
    )
    for wrong in (lost, kept):
        with pytest.raises(Error, match="150 operations 'add int'"):
            atomics.one_thread(wrong, FEW[0], "system", 100)
    with pytest.raises(Error, match="1 block, one word: 64 additions made 0"):
        atomics.contend(lost, Crowd(1, 0, False), 0.001)
    words = lost.space.zeros(atomics.PAGES * atomics.WORDS, np.int32)
    with pytest.raises(Error, match=f"{atomics.PAGES * 3} additions made 0"):
        atomics.on_pages(lost, words, 3)


def test_yardstick() -> None:
    with Peer("atomics", flags=("-Wall", "-Wextra", "-Werror"), arguments=["0"]) as peer:
        for bits, stride, processes in ((32, 0, 1), (64, 0, 2), (32, 64, 3)):
            assert peer.ask(bits, stride, processes, 10_000)[0] > 0
        with pytest.raises(Error, match="status 2"):
            peer.ask(16, 0, 1, 10)


def test_yardstick_notices_a_wrong_sum(tmp_path: Path) -> None:
    text, line = (NATIVE / "atomics.cpp").read_text(), "reinterpret_cast<W*>(word), 1,"
    assert text.count(line) == 1
    (tmp_path / "broken.cpp").write_text(text.replace(line, line.replace("1,", "2,")))
    program = str(tmp_path / "broken")
    subprocess.run(
        [*find_compiler().command, "-std=c++20", "-o", program, f"{program}.cpp"], check=True, timeout=100
    )
    done = subprocess.run([program, "0"], input="32 0 1 1000\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "1000 operations made a sum of 2000" in done.stderr and not done.stdout
