"""`bench overhead` in small: the plain process is plain, every row is there, a workload that fails is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from hmmemu import trackers
from hmmemu.bench import overhead
from hmmemu.bench.overhead_work import WORK, resident_kib
from hmmemu.bench.result import Result
from hmmemu.errors import ArgumentError, Error


@pytest.fixture
def result() -> Result:
    return Result("overhead", overhead.QUESTION)


def mappings(worker: overhead.Worker) -> str:
    return Path(f"/proc/{worker._process.pid}/maps").read_text()


def test_only_one_of_a_pair_has_hmmemu() -> None:
    with overhead.Worker("plain") as plain, overhead.Worker("hmmemu") as ours:
        assert plain.ask("status", 1) == [0, 0, 0, 0]
        imported, opened, *_, device_kib = ours.ask(
            "status", 1
        )  # in between: differences, which may be negative
        assert imported > 0 and opened > 0 and device_kib > 0
        assert "_native" in mappings(ours)
        assert "hmmemu/_native" not in mappings(plain)


@pytest.mark.parametrize("name", WORK)
@pytest.mark.parametrize("kind", ["plain", "hmmemu"])
def test_every_workload_runs(kind: str, name: str) -> None:
    with overhead.Worker(kind) as worker:
        (seconds,) = worker.ask(name, 2)
        assert 0 < seconds < 60


def test_an_unknown_workload_is_an_error() -> None:
    with overhead.Worker("plain") as worker, pytest.raises(Error, match="ended with status 1 at 'nothing'"):
        worker.ask("nothing", 1)


def test_rows_of_a_program_that_uses_nothing(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "WORK", {name: (work, 1) for name, (work, _) in WORK.items()})
    overhead.unused(result, pairs=1, rounds=1)
    rows = {row.name: row for row in result.rows}
    assert set(WORK) < set(rows) and len(rows) == len(WORK) + 5
    for name in WORK:
        assert rows[name].peer_name == overhead.PLAIN and rows[name].aim == overhead.AIM and rows[name].ratio
    assert (
        rows["memory with an open space"].ours < 100
    )  # MiB; less than nothing, if others share more than before


@pytest.mark.parametrize("name", trackers.NAMES)
def test_rows_of_writes(result: Result, name: str) -> None:
    if not (found := trackers.probe(name)).usable:
        pytest.skip(f"tracker {name} cannot work here: {found.words}")
    overhead.writes(result, name, rounds=1)  # checks what the pages hold, and what the log names
    assert len(result.rows) == 8
    assert all(row.name.startswith(f"{name}: ") and row.ours > 0 for row in result.rows)


def test_writes_with_a_tracker_that_does_not_exist(result: Result) -> None:
    with pytest.raises(ArgumentError, match="tracker='none'"):
        overhead.writes(result, "none", rounds=1)


def test_memory_a_page(result: Result) -> None:
    before = resident_kib()
    overhead.footprint(result, pages=1 << 13)
    assert [row.unit for row in result.rows] == ["bytes", "bytes"] and before > 0
    assert all(
        row.ours < 4096 for row in result.rows
    )  # less than a page a page, or something kept the content
