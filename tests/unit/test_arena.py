"""The arena's allocator, without a device: never two owners of a page, nothing lost, any order of frees."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steady import STEADY

import hmmemu as hmm
from hmmemu._native import Session
from hmmemu.arena import GUARD, PAGE, Arena

SIZE = 4 << 20


@settings(STEADY, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 300_000), st.integers(0, 5)), max_size=60))
def test_any_order_of_takes_and_frees(steps: list[tuple[int, int]]) -> None:
    session = Session()
    arena = Arena(session, SIZE)
    alive: list[tuple[int, int]] = []
    for size, which in steps:
        if which < 3 or not alive:
            try:
                begin = arena.take(size, "x")
            except hmm.OutOfMemoryError:
                continue
            end = begin + max(size, 1)
            assert begin % PAGE == 0 and begin in arena
            assert all(end + GUARD <= b or e + GUARD <= begin for b, e in alive)
            alive.append((begin, end))
        else:
            arena.abandon(alive.pop(which % len(alive))[0])
            arena.collect()
    for begin, _ in alive:
        arena.abandon(begin)
    arena.collect()
    assert arena.allocations() == []
    assert arena.take(SIZE - GUARD, "all of it")  # one free range again
    session.close()


def test_a_full_arena_says_what_to_do() -> None:
    session = Session()
    arena = Arena(session, SIZE)
    with pytest.raises(hmm.OutOfMemoryError, match="arena_bytes"):
        arena.take(SIZE, "too much")
    session.close()


def test_a_range_that_the_driver_refuses_is_given_back() -> None:
    class Refusing:
        def __init__(self) -> None:
            self.real, self.refuse = Session(), True

        def __getattr__(self, name: str) -> object:
            return getattr(self.real, name)

        def allocate(self, begin: int, end: int) -> None:
            if self.refuse:
                raise hmm.OutOfMemoryError("no mappings left")
            self.real.allocate(begin, end)

    session = Refusing()
    arena = Arena(cast(Session, session), SIZE)
    with pytest.raises(hmm.OutOfMemoryError, match="no mappings"):
        arena.take(SIZE - GUARD, "all of it")
    assert arena.allocations() == []
    session.refuse = False
    assert arena.take(SIZE - GUARD, "all of it")
    session.close()  # type: ignore[operator]
