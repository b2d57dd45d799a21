"""The protocol function, explored exhaustively: every state reachable by four processors, every access from it.

Two independent judges: the oracle (single writer or many readers) and a model that carries values instead of
rights, in which a reader must find what was written last.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest

from hmmemu._native import broken_rule, eviction, transition

PROCESSORS = 4
OWNED = 1 << 32
INVALID, SHARED, EXCLUSIVE = range(3)
WATCHED, ASYNC = 1 << 54, 2 << 52


class Step(NamedTuple):
    name: str
    source: int
    protect: bool
    zap: int
    after: int


def step(state: int, p: int, write: bool, duplicate: bool = True) -> Step:
    return Step(*transition(state, p, write, duplicate))


def holds(state: int) -> tuple[int, ...]:
    return tuple(state >> (2 * p) & 3 for p in range(PROCESSORS))


def word(*held: int) -> int:
    return OWNED | sum(h << (2 * p) for p, h in enumerate(held))


def reachable(duplicate: bool) -> set[int]:
    seen, todo = {OWNED}, [OWNED]
    while todo:
        state = todo.pop()
        for p, write in itertools.product(range(PROCESSORS), (False, True)):
            after = step(state, p, write, duplicate).after
            if after not in seen:
                seen.add(after)
                todo.append(after)
    return seen


@pytest.mark.parametrize("duplicate", [True, False])
def test_every_reachable_state_obeys_the_oracle(duplicate: bool) -> None:
    states = reachable(duplicate)
    assert all(broken_rule(s) is None for s in states)
    # untouched; one writer; any two or more readers (or what a failed duplication leaves: none here)
    expected = 1 + PROCESSORS + (2**PROCESSORS - 1 - PROCESSORS if duplicate else 0)
    assert len(states) == expected


@pytest.mark.parametrize("duplicate", [True, False])
def test_an_access_grants_exactly_what_was_asked(duplicate: bool) -> None:
    for state, p, write in itertools.product(reachable(duplicate), range(PROCESSORS), (False, True)):
        after = holds(step(state, p, write, duplicate).after)
        assert after[p] == EXCLUSIVE if write else after[p] in (SHARED, EXCLUSIVE)
        if write:
            assert sum(h != INVALID for h in after) == 1


@pytest.mark.parametrize("duplicate", [True, False])
def test_no_access_is_needed_twice(duplicate: bool) -> None:
    for state, p, write in itertools.product(reachable(duplicate), range(PROCESSORS), (False, True)):
        once = step(state, p, write, duplicate).after
        again = step(once, p, write, duplicate)
        assert again == Step("none", 0, False, 0, once)


def test_flags_and_owners_survive() -> None:
    extra = (1 << 48) | (1 << 49) | (7 << 32)
    for state, p, write in itertools.product(reachable(True), range(PROCESSORS), (False, True)):
        assert step(state & 0xFFFFFFFF | extra, p, write).after >> 32 == extra >> 32


class Memories:
    """Each processor's copy of one page, moved by the actions in the order in which the driver takes them."""

    def __init__(self) -> None:
        self.copy: list[int | None] = [None] * PROCESSORS
        self.writable = [False] * PROCESSORS

    def perform(self, p: int, t: Step) -> None:
        if t.name in ("none", "notify"):
            return
        content = 0 if t.name == "first_touch" else self.copy[p if t.name == "upgrade" else t.source]
        if t.protect:
            self.writable[t.source] = False
        for q in range(PROCESSORS):
            if t.zap >> q & 1:
                self.copy[q], self.writable[q] = None, False
        others = [q for q in range(PROCESSORS) if q != p]
        self.copy[p] = content
        self.writable[p] = holds(t.after)[p] == EXCLUSIVE
        if self.writable[p]:
            assert all(self.copy[q] is None for q in others), "a stale copy is left beside a writer"
        assert not (any(self.writable) and sum(c is not None for c in self.copy) > 1)

    def evict(self, p: int, t: Step) -> None:
        if t.name == "migrate":
            self.perform(0, t)
        elif t.name == "drop":
            assert t.zap == 1 << p
            self.copy[p], self.writable[p] = None, False

    def arm(self) -> None:
        self.writable = [False] * PROCESSORS


def armed(state: int) -> int:
    """What Driver::arm makes of a state: watched, and the writer a reader."""
    return word(*(min(h, SHARED) for h in holds(state))) | WATCHED


@pytest.mark.parametrize("duplicate", [True, False])
def test_readers_find_the_last_write_after_any_five_accesses(duplicate: bool) -> None:
    processors = 3
    accesses = list(itertools.product(range(processors), (False, True)))
    for sequence in itertools.product(accesses, repeat=5):
        memories, state, latest = Memories(), OWNED, 0
        for number, (p, write) in enumerate(sequence, 1):
            t = step(state, p, write, duplicate)
            memories.perform(p, t)
            state = t.after
            if write:
                assert memories.writable[p]
                memories.copy[p] = latest = number
            assert memories.copy[p] == latest


def test_watched_pages_are_told_of_before_every_first_write() -> None:
    """All sequences of five of: an access, an eviction, a protector that is armed."""
    accesses: list[tuple[int, bool | str]] = list(itertools.product(range(3), (False, True)))
    for sequence in itertools.product([*accesses, (1, "evict"), (2, "evict"), (0, "arm")], repeat=5):
        memories, state, latest, watched = Memories(), OWNED, 0, False
        for number, (p, what) in enumerate(sequence, 1):
            if what == "arm":
                memories.arm()
                state, watched = armed(state), True
            elif what == "evict":
                t = Step(*eviction(state, p))
                memories.evict(p, t)
                state = t.after
                assert memories.copy[p] is None
            else:
                t = step(state, p, bool(what))
                assert (t.name == "notify") == (watched and bool(what))
                if t.name == "notify":
                    state, watched = t.after, False
                    t = step(state, p, True)
                memories.perform(p, t)
                state = t.after
                if what:
                    assert memories.writable[p]
                    memories.copy[p] = latest = number
                assert memories.copy[p] == latest
            assert bool(state & WATCHED) == watched
            assert not (watched and any(memories.writable))
            assert broken_rule(state) is None


def test_stores_that_nobody_noticed_are_never_lost() -> None:
    """Tracker async: while the CPU holds a page its copy is the newest, noticed or not, and a device takes it from there."""
    for state in reachable(True):
        cpu, *devices = holds(state)
        if cpu != SHARED:
            continue
        for p in range(1, PROCESSORS):
            memories = Memories()
            memories.copy = [7] + [6 if d else None for d in devices]  # 7: stored just now
            t = step(state | ASYNC, p, True)
            memories.perform(p, t)
            assert t.name == "migrate" and t.protect and memories.copy[p] == 7
            assert [q for q in range(PROCESSORS) if memories.copy[q] is not None] == [p]


@pytest.mark.parametrize(
    ("state", "rule"),
    [
        (word(EXCLUSIVE, EXCLUSIVE), "more than one processor may write"),
        (word(EXCLUSIVE, SHARED), "holds a copy"),
        (word(3), "none of"),
        (word(SHARED) & 0xFFFFFFFF, "nobody owns"),
        (word(EXCLUSIVE) | WATCHED, "a protector watches"),
    ],
)
def test_the_oracle_names_the_broken_rule(state: int, rule: str) -> None:
    assert rule in (broken_rule(state) or "")


def test_named_transitions() -> None:
    assert step(OWNED, 1, False) == Step("first_touch", 0, False, 0, word(INVALID, EXCLUSIVE))
    assert step(word(EXCLUSIVE), 1, False) == Step("duplicate", 0, True, 0, word(SHARED, SHARED))
    assert step(word(SHARED, SHARED), 2, False) == Step(
        "duplicate", 0, False, 0, word(SHARED, SHARED, SHARED)
    )
    assert step(word(EXCLUSIVE), 1, True) == Step("migrate", 0, True, 0b1, word(INVALID, EXCLUSIVE))
    assert step(word(SHARED, SHARED), 2, True) == Step("migrate", 0, False, 0b11, word(0, 0, EXCLUSIVE))
    assert step(word(SHARED, SHARED), 0, True) == Step("upgrade", 0, False, 0b10, word(EXCLUSIVE))
