"""How much a CPU's fault begins with: rounds of its accesses, and of a device that asks."""

from __future__ import annotations

import random

import pytest

from hmmemu._native import FaultHistory, grow

OWNED = 1 << 32
READS, WRITES = OWNED | 1 << 0 | 1 << 2, OWNED | 2 << 0  # the CPU: with a device, alone
PAGES = 512
AWAY, HERE = OWNED | 2 << 2, OWNED | 1 << 0 | 1 << 2  # with a device alone; the CPU has a copy, too


class Used:
    """A block as the driver treats it, and the faults of the CPU."""

    def __init__(self) -> None:
        self.history, self.round = FaultHistory(), 0

    def write(self, pages: list[int]) -> tuple[int, int]:
        """One round on pages that both have: (faults, pages granted)."""
        return self._touch(pages, READS, WRITES)

    def fetch(self, pages: list[int]) -> tuple[int, int]:
        """One round on pages that the device has."""
        return self._touch(pages, AWAY, HERE)

    def _touch(self, pages: list[int], before: int, after: int) -> tuple[int, int]:
        self.round += 1
        words, faults = [before] * PAGES, 0
        for page in pages:
            if words[page] == after:
                continue
            begin, end = grow(words, page, 0, 51, self.history.pages(self.round))
            self.history.fault(self.round, page, end - begin)
            words[begin:end] = [after] * (end - begin)
            faults += 1
        self.history.taken()
        self.round += 1
        return faults, words.count(after)

    def rest(self, rounds: int) -> None:
        """Other blocks are written meanwhile."""
        self.round += 2 * rounds


@pytest.fixture
def block() -> Used:
    return Used()


def some(count: int, seed: int = 0) -> list[int]:
    return random.Random(seed).sample(range(PAGES), count)


def test_pages_far_apart_are_granted_one_by_one(block: Used) -> None:
    for turn in range(20):
        assert block.write([64 * part + turn for part in range(8)]) == (8, 8)


def test_a_block_written_densely_is_granted_at_once(block: Used) -> None:
    first, _ = block.write(some(128))
    assert first > 20
    faults = [block.write(some(128, turn))[0] for turn in range(1, 40)]
    assert faults.count(1) >= 30
    assert max(faults) <= 16  # rounds of doubt
    assert faults[-9:].count(1) >= 8  # fewer of them, as they confirm


def test_chunks_that_are_written_densely(block: Used) -> None:
    """Every other page of three times 64 KiB: no reason to grant the other 29."""
    pages = [chunk * 16 + i for chunk in (3, 11, 20) for i in range(0, 16, 2)]
    assert block.write(pages)[0] > 9
    faults = [block.write(pages) for _ in range(30)]
    assert faults.count((3, 48)) >= 24
    assert all(granted <= 48 for _, granted in faults)


def test_written_in_order(block: Used) -> None:
    """Six more faults the first time than growth needs at the least."""
    assert block.write(list(range(PAGES))) == (7, PAGES)
    assert block.write(list(range(PAGES))) == (1, PAGES)


def test_when_the_pattern_ends_so_does_the_size(block: Used) -> None:
    for turn in range(60):
        block.write(some(256, turn))
    rounds = [block.write([3 * turn, 500 - 5 * turn]) for turn in range(12)]
    assert rounds[0] == (1, PAGES)
    assert all(granted == 2 for _, granted in rounds[10:])  # believed for eight rounds at most, then doubted
    assert sum(granted for _, granted in rounds) <= 9 * PAGES + 64


def test_what_was_long_ago_is_forgotten(block: Used) -> None:
    for turn in range(5):
        block.write(some(256, turn))
    block.rest(3)
    assert block.write([3, 300]) == (1, PAGES)
    block.rest(6)
    assert block.write([3, 300]) == (2, 2)


def test_a_device_that_asks_again_and_again_counts_once(block: Used) -> None:
    block.write(some(128))
    size = block.history.pages(block.round)
    for _ in range(30):
        block.history.taken()
    assert block.history.pages(block.round) == size == PAGES


def test_results_that_are_read_each_time(block: Used) -> None:
    assert block.fetch(list(range(PAGES))) == (6, PAGES)
    faults = [block.fetch(list(range(PAGES)))[0] for _ in range(40)]
    assert faults.count(1) >= 30


def test_a_few_results(block: Used) -> None:
    for turn in range(20):
        assert block.fetch([3 * turn, 500 - 5 * turn]) == (2, 32)
