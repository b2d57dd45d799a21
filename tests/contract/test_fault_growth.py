"""Rounds in which the CPU uses some pages and a device then all: how much a fault of the CPU takes along."""

from __future__ import annotations

import numpy as np
import pytest

import hmmemu as hmm

WORDS, BLOCKS = 512, 3  # int64 a page
PAGES = 512 * BLOCKS


class Rounds:
    """An array of which the device has a copy."""

    def __init__(self, space: hmm.AddressSpace) -> None:
        self.space, self.device = space, space.devices[0]
        memory = space.zeros((PAGES + 511) * WORDS, np.int64)
        skip = -(memory.ctypes.data // 4096) % 512 * WORDS  # whole blocks
        self.array = memory[skip : skip + PAGES * WORDS]
        self.expected = np.zeros(PAGES, np.int64)
        self.array[::WORDS] = 0
        space.prefetch(self.array, self.device, write=False)
        self.random = np.random.default_rng(3)

    def write(self, pages: np.ndarray) -> int:
        """Writes them, and returns what it took of faults."""
        before = self.space.stats().processors[0].write_faults
        self.expected[pages] += 1
        self.array[pages * WORDS] = self.expected[pages]
        return self.space.stats().processors[0].write_faults - before

    def read(self) -> int:
        """The device gets what it lacks, and has what was written. Pages that it lacked."""
        lacked = sum(code[1] == "-" for code in self.space.residency(self.array))
        self.space.prefetch(self.array, self.device, write=False)
        assert np.array_equal(self.device.read(self.array)[::WORDS], self.expected)
        return lacked

    def some(self, count: int) -> np.ndarray:
        """Which pages, at random."""
        return self.random.choice(PAGES, count, replace=False)


@pytest.fixture
def rounds(space: hmm.AddressSpace) -> Rounds:
    return Rounds(space)


@pytest.mark.parametrize("part", [2, 4])
def test_blocks_that_are_written_densely_each_time(rounds: Rounds, tracker: str, part: int) -> None:
    faults = []
    for _ in range(12):
        faults.append(rounds.write(rounds.some(PAGES // part)))
        rounds.read()
    if tracker == "async":
        assert not any(faults)
    else:
        assert faults[0] > 15 * BLOCKS
        assert sorted(faults)[6] <= 1.5 * BLOCKS


def test_pages_far_apart_go_alone(rounds: Rounds) -> None:
    for turn in range(8):
        rounds.write(np.arange(turn, PAGES, 64))
        assert rounds.read() == PAGES // 64


def test_it_is_over_when_the_pattern_ends(rounds: Rounds, tracker: str) -> None:
    for _ in range(12):
        rounds.write(rounds.some(PAGES // 2))
        rounds.read()
    lacked = []
    for turn in range(14):
        rounds.write(np.arange(turn, PAGES, 256))
        lacked.append(rounds.read())
    assert lacked[-1] == PAGES // 256
    assert lacked[0] == (PAGES // 256 if tracker == "async" else PAGES)


def test_what_is_granted_is_not_what_is_written(space: hmm.AddressSpace, rounds: Rounds) -> None:
    """Dirty logs tell of stores, and of all of them, whatever was granted; snapshots keep what was there."""
    for turn in range(10):
        space.dirty(rounds.array)
        before = rounds.expected.copy()
        with space.snapshot_of(rounds.array) as snapshot:
            chosen = rounds.some(PAGES // 2 if turn < 8 else 5)
            rounds.write(chosen)
            assert space.dirty(rounds.array).tolist() == sorted(chosen)
            rounds.write(chosen)
            assert np.array_equal(np.asarray(snapshot)[::WORDS], before)
        rounds.read()
        rounds.write(rounds.some(PAGES // 2))
        rounds.read()


def test_results_that_the_cpu_reads_each_time(
    space: hmm.AddressSpace, rounds: Rounds, kernels: hmm.RawModule
) -> None:
    """A kernel writes all; the first rounds take several faults a block."""
    words = rounds.array.view(np.int32)
    faults = []
    for value in range(12):
        kernels.get_function("fill")((4,), (64,), (words, np.int64(words.size), np.int32(value)))
        space.devices[0].synchronize()
        before = space.stats().processors[0].read_faults
        assert np.array_equal(words[:: 2 * WORDS], np.full(PAGES, value))
        faults.append(space.stats().processors[0].read_faults - before)
    assert faults[0] >= 4 * BLOCKS
    assert sorted(faults)[6] <= 1.5 * BLOCKS
