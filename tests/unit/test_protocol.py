"""The protocol function, explored exhaustively: every state reachable by four processors, every access from it.

Two independent judges: the oracle (single writer or many readers) and a model that carries values instead of
rights, in which a reader must find what was written last.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest

from hmmemu._native import broken_rule, eviction, settling, transition

PROCESSORS = 4
OWNED = 1 << 32
INVALID, SHARED, EXCLUSIVE, REMOTE = range(4)
SHARED_MAPPING, FILE, WATCHED, ASYNC, MERGED, HUGE = 1 << 49, 1 << 51, 1 << 54, 2 << 52, 1 << 55, 1 << 57
OPEN = 1 << 62  # devices can map the object
FULL = ("read", "write", "atomic", "own", "alone", "share")  # what a device may want; the CPU the first two


class Step(NamedTuple):
    name: str
    source: int
    protect: bool
    zap: int
    after: int


def step(state: int, p: int, access: bool | str, duplicate: bool = True) -> Step:
    """`access`: what it is called, or whether it writes."""
    name = access if isinstance(access, str) else "write" if access else "read"
    return Step(*transition(state, p, name, duplicate))


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


def test_while_kernels_wait_no_device_shares_what_the_cpu_writes_unseen() -> None:
    """Policy all_caught, tracker async: an unseen store has nobody to see an older copy. All sequences of five."""
    accesses = list(itertools.product(range(3), (False, True)))
    shared_by_devices = False
    for sequence in itertools.product(accesses, repeat=5):
        memories, state, latest = Memories(), OWNED | ASYNC, 0
        for number, (p, write) in enumerate(sequence, 1):
            t = Step(*transition(state, p, "write" if write else "read", True, True))
            memories.perform(p, t)
            state = t.after
            if write:
                memories.copy[p] = latest = number
            assert memories.copy[p] == latest and broken_rule(state) is None
            cpu, *devices = holds(state)
            assert cpu == INVALID or not any(devices)
            shared_by_devices |= devices[:2] == [SHARED, SHARED]
    assert shared_by_devices
    caught = step(word(EXCLUSIVE), 1, False)  # where stores are caught nothing changes
    assert Step(*transition(word(EXCLUSIVE), 1, "read", True, True)) == caught and caught.name == "duplicate"


class Serving:
    """One page, served as the driver does it: until the access has its rights. Remote is the CPU's own copy, which the
    CPU may have lost its mapping of."""

    def __init__(self) -> None:
        self.memories, self.state, self.steps = Memories(), OWNED, list[str]()

    def access(self, p: int, access: str) -> None:
        for _ in range(6):
            t = step(self.state, p, access)
            self.steps.append(t.name)
            if t.name == "home":
                self.access(0, "write")
            elif t.name in ("none", "admit", "recall", "remote", "exclude", "notify"):
                self.state = t.after
            else:
                self.memories.perform(p, t)
                self.state = t.after
            assert broken_rule(self.state) is None
            if t.name not in ("home", "admit", "recall", "notify"):
                return
        raise AssertionError(f"no end: {self.steps}")

    def evict(self, p: int) -> None:
        t = Step(*eviction(self.state, p))
        assert t.name == "none" or holds(self.state)[p] in (SHARED, EXCLUSIVE)
        self.memories.evict(p, t)
        self.state = t.after

    def place(self, p: int) -> int:
        """Whose copy the processor reads and writes."""
        return 0 if holds(self.state)[p] == REMOTE else p


def test_atomics_over_the_link_find_the_last_write_and_lose_none() -> None:
    """All sequences of four reads, writes, atomics that the link has and atomics that it lacks, of three processors;
    and of evictions, which find nothing to take where a device uses the CPU's frame."""
    accesses = [
        (p, a)
        for p, names in ((0, ("read", "write")), (1, (*FULL, "evict")), (2, ("read", *FULL[2:])))
        for a in names
    ]
    together = False
    for sequence in itertools.product(accesses, repeat=4):
        page, latest = Serving(), 0
        for number, (p, access) in enumerate(sequence, 1):
            if access == "evict":
                page.evict(p)
                continue
            page.access(p, access)
            assert holds(page.state)[p] != INVALID
            at = page.place(p)
            assert page.memories.copy[at] == latest
            if access != "read":
                assert page.memories.writable[at]
                page.memories.copy[at] = latest = number
            if access == "own":
                assert holds(page.state)[p] == EXCLUSIVE
            if access == "share":
                assert holds(page.state)[p] == REMOTE
            if access == "alone":
                assert [q for q in range(3) if holds(page.state)[q] != INVALID] == [p]
            together |= holds(page.state) == (EXCLUSIVE, REMOTE, REMOTE, INVALID)
    assert together


def test_an_atomic_leaves_the_page_where_it_is() -> None:
    for before in reachable(True):
        page = Serving()
        page.state = before
        page.memories.copy = [7 if h != INVALID else None for h in holds(before)]
        page.access(1, "atomic")
        after = holds(page.state)
        assert after == (
            holds(before) if holds(before)[1] == EXCLUSIVE else (EXCLUSIVE, REMOTE, INVALID, INVALID)
        )
        assert step(page.state, 1, "atomic").name == "none"
        assert after[1] != REMOTE or step(page.state, 0, "write").name == "none"


def test_the_frame_stays_where_it_is_while_cpu_and_device_take_turns() -> None:
    page = Serving()
    page.access(0, "write")
    for _ in range(3):
        page.access(1, "alone")
        assert holds(page.state)[:2] == (INVALID, REMOTE)
        for access in ("read", "write", "atomic", "alone"):
            assert step(page.state, 1, access).name == "none"
        page.access(0, "read")
        assert holds(page.state)[:2] == (EXCLUSIVE, REMOTE)
        for p, access in ((0, "write"), (1, "read"), (1, "write"), (1, "atomic")):
            assert step(page.state, p, access).name == "none"
    assert not {"duplicate", "migrate", "upgrade"} & set(page.steps)


def test_a_device_gives_up_what_it_has_to_share_it() -> None:
    for before in reachable(True):
        page = Serving()
        page.state = before
        page.memories.copy = [7 if h != INVALID else None for h in holds(before)]
        page.access(1, "share")
        assert holds(page.state) == (EXCLUSIVE, REMOTE, INVALID, INVALID)
        assert all(
            step(page.state, p, a).name == "none" for p, a in ((0, "write"), (1, "share"), (1, "write"))
        )


def test_devices_join_whoever_uses_the_cpus_frame() -> None:
    remote = word(EXCLUSIVE, REMOTE)
    for access in ("read", "write", "atomic", "share"):
        assert step(remote, 2, access) == Step("remote", 0, False, 0, word(EXCLUSIVE, REMOTE, REMOTE))
        assert step(word(INVALID, REMOTE), 2, access) == Step("admit", 1, False, 0, remote)
    both = word(EXCLUSIVE, REMOTE, REMOTE)
    assert step(both, 3, "atomic").after == word(EXCLUSIVE, REMOTE, REMOTE, REMOTE)
    for p in range(3):
        assert step(both, p, "atomic").name == "none"


def test_who_wants_the_frame_alone_sends_all_others_away() -> None:
    both = word(EXCLUSIVE, REMOTE, REMOTE)
    assert step(both, 1, "alone") == Step("exclude", 0, False, 0b100, word(INVALID, REMOTE))
    assert step(both, 3, "alone") == Step("exclude", 0, False, 0b110, word(0, 0, 0, REMOTE))
    for p in (1, 3):
        assert step(both, p, "own") == Step("recall", 0, False, 0b110, word(EXCLUSIVE))
    assert step(word(INVALID, REMOTE), 2, "alone").name == "admit"


@pytest.mark.parametrize("access", ["atomic", "alone", "share"])
def test_which_memory_a_device_can_map(access: str) -> None:
    """Shared memory if its object can be opened; private memory unless it is huge pages."""
    for state, kind in itertools.product(
        reachable(True), (SHARED_MAPPING, SHARED_MAPPING | HUGE, SHARED_MAPPING | FILE, HUGE)
    ):
        assert step(state | kind, 1, access) == step(state | kind, 1, "write")
    for kind in (0, FILE, *(OPEN | SHARED_MAPPING | more for more in (0, HUGE, FILE))):
        assert step(word(EXCLUSIVE) | kind, 1, access).name == "remote"


@pytest.mark.parametrize("access", ["atomic", "alone", "share"])
def test_a_merged_page_is_the_cpus_own_before_a_device_maps_it(access: str) -> None:
    for state in (word(SHARED), word(SHARED, SHARED)):
        assert step(state | MERGED, 1, access) == Step("home", 0, False, 0, state | MERGED)


@pytest.mark.parametrize("access", ["atomic", "alone", "share"])
def test_a_watched_page_is_told_of_before_an_atomic(access: str) -> None:
    assert step(word(SHARED) | WATCHED, 1, access).name == "notify"


@pytest.mark.parametrize(
    ("state", "rule"),
    [
        (word(EXCLUSIVE, EXCLUSIVE), "more than one processor may write"),
        (word(EXCLUSIVE, SHARED), "holds a copy"),
        (word(EXCLUSIVE, REMOTE, SHARED), "not the CPU's alone"),
        (word(SHARED, REMOTE), "not the CPU's alone"),
        (word(INVALID, EXCLUSIVE, REMOTE), "not the CPU's alone"),
        (word(INVALID, REMOTE, SHARED), "not the CPU's alone"),
        (word(INVALID, REMOTE, REMOTE), "not the CPU's alone"),
        (word(INVALID, REMOTE) & 0xFFFFFFFF, "nobody owns"),
        (word(INVALID, REMOTE) | WATCHED, "a protector watches"),
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


# ---------------------------------------------------------------------------------- pages with several owners

SEVERAL = 1 << 59 | 1 << 49  # linked, and of a shared mapping


class Owner:
    """One address of a page: a state, and the copies of its processors; the CPU's copy is the frame that owners share."""

    def __init__(self) -> None:
        self.state = OWNED | SEVERAL
        self.copy: dict[int, int] = {}  # of devices

    def rights(self, p: int) -> int:
        return holds(self.state)[p]


class Frame:
    """Two owners of one page, as the driver moves them (Driver::step_with_owners)."""

    def __init__(self) -> None:
        self.content = 0
        self.owners = Owner(), Owner()

    def show(self, owner: Owner) -> None:
        self.perform(owner, 0, step(owner.state, 0, False))

    def perform(self, owner: Owner, p: int, t: Step) -> None:
        def read(q: int) -> int:
            return self.content if q == 0 else owner.copy[q]

        if t.name in ("duplicate", "migrate"):
            content = read(t.source)
            if p == 0:
                self.content = content
            else:
                owner.copy[p] = content
        elif t.name == "first_touch":
            assert p == 0, "a device's zeros are not what the frame holds"
        owner.state = t.after
        owner.copy = {q: c for q, c in owner.copy.items() if owner.rights(q) != INVALID}

    def settle(self, other: Owner, write: bool) -> None:
        show, protect, zap, after = settling(other.state, write)
        if show:
            self.show(other)
            show, protect, zap, after = settling(other.state, write)
        assert not show and (protect or zap or after == other.state)
        other.state = after
        other.copy = {q: c for q, c in other.copy.items() if other.rights(q) != INVALID}

    def access(self, which: int, p: int, write: bool) -> Owner:
        owner, other = self.owners[which], self.owners[1 - which]
        if step(owner.state, p, write).name != "none":
            self.settle(other, write)
            if p and not any(holds(owner.state)):
                self.show(owner)
            self.perform(owner, p, step(owner.state, p, write))
        return owner

    def check(self) -> None:
        writers = [o for o in self.owners if EXCLUSIVE in holds(o.state)]
        holders = [o for o in self.owners if any(holds(o.state))]
        assert not writers or holders == writers, "one owner may write while the other holds a copy"
        for owner in holders:
            assert owner.rights(0) or len(holders) == 1, "content that is not in the frame, and another owner"
            assert broken_rule(owner.state) is None


def test_what_is_written_through_one_owner_is_read_through_the_other() -> None:
    """All sequences of four accesses and evictions of three processors, through two owners."""
    actions: list[tuple[int, bool | str]] = [*itertools.product(range(3), (False, True)), (1, "evict")]
    for sequence in itertools.product(itertools.product(range(2), actions), repeat=4):
        page, latest = Frame(), 0
        for number, (which, (p, what)) in enumerate(sequence, 1):
            owner = page.owners[which]
            if what == "evict":
                t = Step(*eviction(owner.state, p))
                if t.name != "none":
                    page.perform(owner, 0, t)
                page.check()
                continue
            owner = page.access(which, p, bool(what))
            if what:
                assert owner.rights(p) == EXCLUSIVE
                latest = number
                if p == 0:
                    page.content = latest
                else:
                    owner.copy[p] = latest
            assert (page.content if p == 0 else owner.copy[p]) == latest
            page.check()
