"""Wait lists of pages under real threads: everybody is woken, nobody else is looked at, a limit ends a wait."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from hmmemu import _native
from hmmemu.bench import waitqueue
from hmmemu.errors import Error

LIMIT = 60.0
both = pytest.mark.parametrize("hashed", [False, True], ids=["lists", "table"])


@both
@pytest.mark.parametrize("seed", range(3))
def test_everybody_is_woken(hashed: bool, seed: int) -> None:
    chance = random.Random(seed)
    waiters = [chance.randrange(600) for _ in range(500)]
    order = sorted(set(waiters), key=lambda _: chance.random())
    found = _native.run_waiters(hashed, 600, waiters, order, LIMIT)
    assert found["timed_out"] == 0 and len(found["latency_ns"]) == 500
    assert len(found["walked"]) == len(found["spent_ns"]) == len(order)
    assert all(0 < ns < LIMIT * 1e9 for ns in found["latency_ns"])


def test_a_list_holds_the_waiters_of_its_page_only() -> None:
    waiters = [1] * 40 + [2] * 3 + [700] * 7
    found = _native.run_waiters(False, 701, waiters, [2, 700, 1, 5], LIMIT)
    assert found["walked"] == [3, 7, 40, 0] and found["timed_out"] == 0


def test_the_table_walks_the_whole_queue() -> None:
    near = next(waitqueue.neighbours(0, 1))
    other = next(p for p in range(1, 100) if _native.wait_queue_of(p) != _native.wait_queue_of(0))
    waiters = [0] * 30 + [near] * 2 + [other]
    found = _native.run_waiters(True, max(near, other) + 1, waiters, [near, other, 0], LIMIT)
    assert found["walked"] == [32, 1, 30] and found["timed_out"] == 0


def test_queues_are_used_evenly() -> None:
    load = Counter(map(_native.wait_queue_of, range(256 * 64)))
    assert len(load) == 256 and max(load.values()) < 128


@both
def test_a_limit_ends_the_wait_of_those_who_were_not_woken(hashed: bool) -> None:
    near = next(waitqueue.neighbours(0, 1))
    # Those left behind stand before, between and behind those who are woken.
    waiters = [near, 0, near, 0, 0, near] * 5
    begin = time.monotonic()
    found = _native.run_waiters(hashed, near + 1, waiters, [0], 0.5)
    assert found["timed_out"] == 15 and len(found["latency_ns"]) == 15
    assert 0.4 < time.monotonic() - begin < 30


def test_a_lost_waiter_is_an_error_of_the_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waitqueue, "LIMIT_SECONDS", 0.2)
    forgetful = waitqueue.Scenario("forgetful", 2, [0, 1, 1], [0])
    monkeypatch.setattr(waitqueue.Scenario, "wake_order", property(lambda self: self.timed))
    with pytest.raises(Error, match=r"2 of 3 waiters were not woken within 0\.2 s by the lists of pages"):
        waitqueue.measure(forgetful, False, waitqueue._Figures())


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="below `pages`"):
        _native.run_waiters(False, 2, [2], [], 1.0)
    with pytest.raises(ValueError, match="below `pages`"):
        _native.run_waiters(False, 2, [1], [2], 1.0)
    for limit in (0.0, -1.0, float("nan"), 1e9):
        with pytest.raises(ValueError, match="limit"):
            _native.run_waiters(False, 2, [1], [1], limit)


def test_the_bench_shows_what_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    real = waitqueue.scenarios
    monkeypatch.setattr(waitqueue, "scenarios", lambda threads: real(200))
    result = waitqueue.run(quick=True)
    rows = {row.name: row for row in result.rows}
    assert rows["200 pages: entries walked"].ours == 1
    beside = rows["beside a hot page of 72: entries walked"]
    # Each of the 128 neighbours is walked past by those woken before it, the hot page's waiters by all.
    assert beside.ours == 1 and beside.peer == 72 + (1 + 128) / 2
    assert rows["one page of 200: entries walked"].ratio == 1
    assert len(result.rows) == 15 and all(row.peer and row.ours > 0 for row in result.rows)
