"""What does it cost to wake those who wait for a page: a list for each page, beside a table of 256 hashed queues?

The lists are the driver's own class (native/base/wait_list.h), the table is the Linux kernel's way for pages: waiters
of different pages share a queue, and a wake-up walks all of it. Real threads wait, thousands of them; both take turns.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from hmmemu import _native
from hmmemu.bench.result import Result, Row, median
from hmmemu.errors import Error

QUESTION = "What does a wake-up cost with a wait list for each page, beside 256 hashed queues?"
PEER = "256 hashed queues"
LIMIT_SECONDS = 60.0
NEIGHBOURS = 128


@dataclass(frozen=True)
class Scenario:
    """Who waits for which page (one thread an entry), and which pages are woken while the clock runs.

    The rest is woken afterwards.
    """

    name: str
    pages: int
    waiters: list[int]
    timed: list[int]

    @property
    def wake_order(self) -> list[int]:
        """Every page that has a waiter, the timed ones first."""
        return self.timed + sorted(set(self.waiters) - set(self.timed))


def scenarios(threads: int, seed: int = 1) -> list[Scenario]:
    """The three cases with `threads` waiters each: many pages, a page beside a hot one, all on one page."""
    many = list(range(threads))
    random.Random(seed).shuffle(many)
    hot = 0
    near = list(neighbours(hot, NEIGHBOURS))
    pages = near[-1] + 1
    return [
        Scenario(f"{threads} pages", threads, list(range(threads)), many),
        Scenario(
            f"beside a hot page of {threads - NEIGHBOURS}",
            pages,
            [hot] * (threads - NEIGHBOURS) + near,
            near,
        ),
        Scenario(f"one page of {threads}", 1, [0] * threads, [0]),
    ]


def neighbours(page: int, count: int) -> Iterator[int]:
    """The first `count` pages after `page` that share its queue in the table."""
    queue, found, other = _native.wait_queue_of(page), 0, page
    while found < count:
        other += 1
        if _native.wait_queue_of(other) == queue:
            found += 1
            yield other


@dataclass
class _Figures:
    """Of all rounds: entries walked and microseconds of each timed wake-up, microseconds to each waiter running."""

    walked: list[int] = field(default_factory=list)
    spent: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)


def run(quick: bool = False) -> Result:
    """Measures. Quick takes a few seconds, the whole under a minute."""
    result = Result("waitqueue", QUESTION, quick=quick)
    threads, rounds = (1024, 3) if quick else (4096, 11)
    for scenario in scenarios(threads):
        lists, table = _Figures(), _Figures()
        for _ in range(rounds):
            measure(scenario, False, lists)
            measure(scenario, True, table)
        _rows(scenario, lists, table, result)
    result.notes.append(
        f"{rounds} rounds in turn; times in µs, from the call that wakes to the waiter running, and until that "
        "call returns. The next page is woken when the waiters of the last one have run."
    )
    result.notes.append("A list costs 16 bytes a page (0.4 % of it), the table 16 KiB in all.")
    return result


def measure(scenario: Scenario, hashed: bool, figures: _Figures) -> None:
    """One round. Raises Error if a waiter was lost."""
    order, timed = scenario.wake_order, len(scenario.timed)
    found = _native.run_waiters(hashed, scenario.pages, scenario.waiters, order, LIMIT_SECONDS)
    if found["timed_out"]:
        kind = PEER if hashed else "the lists of pages"
        raise Error(
            f"{found['timed_out']} of {len(scenario.waiters)} waiters were not woken within "
            f"{LIMIT_SECONDS:g} s by {kind} ({scenario.name})"
        )
    wanted = set(scenario.timed)
    figures.walked += found["walked"][:timed]
    figures.spent += [ns * 1e-3 for ns in found["spent_ns"][:timed]]
    figures.latency += [
        ns * 1e-3 for ns, page in zip(found["latency_ns"], scenario.waiters, strict=True) if page in wanted
    ]


def _rows(scenario: Scenario, lists: _Figures, table: _Figures, result: Result) -> None:
    def add(what: str, ours: float, peer: float, unit: str) -> None:
        result.add(Row(f"{scenario.name}: {what}", ours, unit, peer, PEER, more_is_better=False))

    add("entries walked", float(np.mean(lists.walked)), float(np.mean(table.walked)), "a wake-up")
    for what, ours, peer in (
        ("to running", lists.latency, table.latency),
        ("to the call's end", lists.spent, table.spent),
    ):
        add(f"{what}, median", median(ours), median(peer), "µs")
        add(f"{what}, 99 %", float(np.percentile(ours, 99)), float(np.percentile(peer, 99)), "µs")
