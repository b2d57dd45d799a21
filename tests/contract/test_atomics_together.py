"""CPU and devices do every atomic operation on the same words at the same time: nothing is lost, nothing seen twice."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import wait_until

import hmmemu as hmm
from hmmemu._native import cpu_atomic

TYPES = [np.dtype(t) for t in ("i4", "u4", "i8", "u8", "f4", "f8", "u2", "u1")]  # a block each
THREADS, ROUNDS = 8, 6  # of a device, a block
CPU_THREADS, CPU_ROUNDS = 2, 6
HAMMERED = 400  # additions by a thread without the GIL
WAYS = [
    ("pcie3-noatomics", "migrate"),
    ("pcie4", "migrate"),
    ("pcie4", "cas-loop"),
    ("pcie4", "exclusive"),
    ("nvlink", "migrate"),
]
FAIR = [
    ("pcie3-noatomics", "migrate"),
    ("pcie3-noatomics", "exclusive"),
    ("nvlink", "migrate"),
]  # where both sides must get on
STATES = ["untouched", "cpu", "device", "both", "remote"]
LIMIT = 60.0  # s


@pytest.fixture(scope="module")
def module() -> hmm.RawModule:
    path = Path(__file__).parent / "atomics_together.cu"
    return hmm.RawModule(path.read_text(), filename=path.name)


class Words:
    """The eight words of each type, `apart` bytes from those of the next."""

    def __init__(self, memory: np.ndarray, apart: int) -> None:
        self.memory, self.apart = memory, apart
        self.of = [memory[apart * i :][: 8 * t.itemsize].view(t) for i, t in enumerate(TYPES)]

    def reset(self) -> None:
        for w in self.of:
            w[:] = 0
            if w.itemsize >= 4:
                w[3] = 1 << 30


class Actor:
    """A CPU thread that does what the kernel does (atomics_together.cu), from Python."""

    def __init__(self, me: int) -> None:
        self.me = me
        self.wrong: list[str] = []
        self.taken = [0] * len(TYPES)

    def expect(self, right: bool, what: str, w: np.ndarray) -> None:
        if not right:
            self.wrong.append(f"{what} of {w.dtype}")

    def work(self, words: Words) -> None:
        for r in range(CPU_ROUNDS):
            for type_, w in enumerate(words.of):
                half = 0.5 if w.dtype.kind == "f" else 1
                hmm.atomic_add(w, 0, 5 if half == 1 else 0.5)
                hmm.atomic_sub(w, 0, 2 if half == 1 else 0.25)
                if w.itemsize < 4:
                    continue
                self.taken[type_] += int(hmm.atomic_exch(w, 1, (self.me << 16) + r + 1))
                self.extremes(w, r)
                if w.dtype.kind != "f":
                    self.integers(w)
                if w.dtype == np.uint32:
                    self.expect(hmm.atomic_inc(w, 6, 10) <= 10, "inc", w)
                    self.expect(hmm.atomic_dec(w, 7, 10) <= 10, "dec", w)

    def extremes(self, w: np.ndarray, r: int) -> None:
        down, up = 100000 - (64 * r + self.me), 100000 + 64 * r + self.me
        lower, upper = hmm.atomic_min(w, 3, down), hmm.atomic_max(w, 4, up)
        if r:
            self.expect(lower <= down + 64, "min", w)
            self.expect(upper >= up - 64, "max", w)

    def integers(self, w: np.ndarray) -> None:
        seen = hmm.atomic_load(w, 2)
        while (old := hmm.atomic_cas(w, 2, seen, seen + w.dtype.type(1))) != seen:
            seen = old
        bit = 1 << self.me
        self.expect(not int(hmm.atomic_or(w, 5, bit)) & bit, "or", w)
        self.expect(bool(int(hmm.atomic_xor(w, 5, bit)) & bit), "xor", w)
        self.expect(not int(hmm.atomic_xor(w, 5, bit)) & bit, "xor", w)
        mask = ~bit if w.dtype.kind == "i" else int(np.iinfo(w.dtype).max) - bit
        self.expect(bool(int(hmm.atomic_and(w, 5, mask)) & bit), "and", w)


def hammer(words: Words) -> None:
    """Additions as threads of a C++ program make them: without the GIL, one after the other."""
    for _ in range(4):
        for w in words.of:
            one = w.dtype.type(1).tobytes()
            cpu_atomic("add", w.dtype.str[1:], w[:1], one, one, HAMMERED // 4)


def check_totals(words: Words, actors: list[Actor], bad: np.ndarray, taken: np.ndarray, devices: int) -> None:
    assert [actor.wrong for actor in actors] == [[]] * len(actors)
    assert list(bad) == [0] * len(TYPES)
    rounds = devices * THREADS * ROUNDS + len(actors) * CPU_ROUNDS
    numbers = [(me, ROUNDS) for me in range(devices * THREADS)] + [(a.me, CPU_ROUNDS) for a in actors]
    put_in = sum((me << 16) + r + 1 for me, mine in numbers for r in range(mine))
    farthest = max(64 * (mine - 1) + me for me, mine in numbers)
    for i, w in enumerate(words.of):
        total = rounds * (0.25 if w.dtype.kind == "f" else 3) + HAMMERED
        assert w[0] == (total if w.itemsize > 2 else total % (1 << 8 * w.itemsize)), w.dtype
        if w.itemsize < 4:
            continue
        assert int(taken[i]) + sum(actor.taken[i] for actor in actors) + int(w[1]) == put_in, w.dtype
        assert (w[3], w[4]) == (100000 - farthest, 100000 + farthest), w.dtype
        assert w[2] == (0 if w.dtype.kind == "f" else rounds) and w[5] == 0, w.dtype
    counted = words.of[1]
    assert (counted[6], counted[7]) == (rounds % 11, -rounds % 11)


def bring(space: hmm.AddressSpace, module: hmm.RawModule, words: Words, state: str) -> None:
    """Puts the words' pages where the test wants them; what they hold is as after `reset`."""
    if state == "untouched":
        space.discard(words.memory)
        for w in words.of:
            if w.itemsize >= 4:
                w[3] = 1 << 30
    words.reset()
    if state in ("device", "both"):
        space.prefetch(words.memory, space.devices[0], write=state == "device")
    elif state == "remote":
        module.get_function("look")((len(TYPES),), (1,), (words.memory, np.int32(words.apart)))


def run_together(space: hmm.AddressSpace, module: hmm.RawModule, words: Words) -> None:
    gate = space.zeros(1, np.uint32)
    bad, taken = space.zeros((2, len(TYPES)), np.uint64)
    devices = len(space.devices)
    actors = [Actor(devices * THREADS + i) for i in range(CPU_THREADS)]
    tasks = [*(actor.work for actor in actors), hammer]

    def at_the_gate(task: Callable[[Words], None]) -> None:
        hmm.atomic_add(gate, 0, 1)
        wait_until(lambda: hmm.atomic_load(gate, 0) >= len(tasks))
        task(words)

    with ThreadPoolExecutor(len(tasks)) as pool:
        for i, device in enumerate(space.devices):
            which = (words.memory, *map(np.int32, (words.apart, ROUNDS, i * THREADS)))
            launch(
                module,
                "together",
                len(TYPES),
                THREADS,
                *which,
                gate,
                np.uint32(len(tasks)),
                bad,
                taken,
                on=device,
            )
        for done in [pool.submit(at_the_gate, task) for task in tasks]:
            done.result(LIMIT)
    space.synchronize()
    check_totals(words, actors, bad, taken, devices)


def launch(module: hmm.RawModule, name: str, grid: int, block: int, *arguments: Any, on: hmm.Device) -> None:
    """Without waiting for it."""
    with on:
        stream = hmm.Stream()
    module.get_function(name)((grid,), (block,), arguments, stream=stream, device=on)


@pytest.mark.parametrize(("link", "fallback"), WAYS)
def test_every_operation_on_every_type(module: hmm.RawModule, link: str, fallback: str) -> None:
    with hmm.AddressSpace(timeout=LIMIT, link=link, fallback=fallback) as space:
        for apart, states in (
            (4096, STATES),
            (64, ["cpu", "device", "both"]),
        ):  # a page for each type, or one for all
            words = Words(space.zeros(apart * len(TYPES), np.uint8), apart)
            for state in states:
                bring(space, module, words, state)
                run_together(space, module, words)


@pytest.mark.parametrize("kind", ["heap", "shared memory", "file"])
def test_in_any_memory(space: hmm.AddressSpace, module: hmm.RawModule, kind: str, tmp_path: Path) -> None:
    size = 4096 * len(TYPES)
    if kind == "heap":
        words = Words(np.zeros(size, np.uint8), 4096)
    elif kind == "shared memory":
        words = Words(np.frombuffer(mmap.mmap(-1, size), np.uint8), 4096)
    else:
        words = Words(np.memmap(tmp_path / "words", np.uint8, "w+", shape=(size,)), 4096)
    space.register(words.memory)
    for state in ("device", "both"):
        bring(space, module, words, state)
        run_together(space, module, words)


@pytest.mark.parametrize("link", ["pcie3-noatomics", "pcie4"])
def test_two_devices_and_the_cpu(module: hmm.RawModule, link: str) -> None:
    with hmm.AddressSpace(devices=2, timeout=LIMIT, link=link) as space:
        words = Words(space.zeros(64 * len(TYPES), np.uint8), 64)
        for state in ("cpu", "both", "remote"):
            bring(space, module, words, state)
            run_together(space, module, words)


@pytest.mark.parametrize(("link", "fallback"), FAIR)
@pytest.mark.parametrize("type_", ["unsigned", "double"])
def test_a_cpu_that_hammers_a_word_stops_no_kernel(
    module: hmm.RawModule, link: str, fallback: str, type_: str
) -> None:
    """The kernel ends when it has made its additions and the CPU, meanwhile, many of its own."""
    done = threading.Event()
    with hmm.AddressSpace(timeout=LIMIT, link=link, fallback=fallback) as space:
        word = space.zeros(1, np.uint64 if type_ == "unsigned" else np.float64)
        made = space.zeros(1, np.uint64)
        one = word.dtype.type(1).tobytes()

        def keep_adding() -> int:
            count = 0
            while not done.is_set():
                cpu_atomic("add", word.dtype.str[1:], word, one, one, 1000)
                count += 1000
            return count

        with ThreadPoolExecutor(1) as pool:
            adding = pool.submit(keep_adding)
            try:
                launch(
                    module,
                    f"add_ones_{type_}",
                    1,
                    1,
                    word,
                    np.uint32(300),
                    np.uint32(20000),
                    made,
                    on=space.devices[0],
                )
                space.synchronize(LIMIT)
            finally:
                done.set()
            made_by_cpu = adding.result(LIMIT)
        assert made[0] >= 300 and made_by_cpu >= 20000
        assert word[0] == made_by_cpu + made[0]


@pytest.mark.parametrize(("link", "fallback"), FAIR)
def test_a_kernel_that_hammers_a_word_stops_no_cpu(module: hmm.RawModule, link: str, fallback: str) -> None:
    """The kernel goes on until the CPU has made its additions, one by one."""
    with hmm.AddressSpace(timeout=LIMIT, link=link, fallback=fallback) as space:
        word, made = space.zeros(1, np.uint64), space.zeros(1, np.uint64)
        launch(
            module, "add_ones_unsigned", 1, 1, word, np.uint32(1), np.uint32(200), made, on=space.devices[0]
        )
        wait_until(lambda: hmm.atomic_load(word, 0) > 0)
        for _ in range(201):
            hmm.atomic_add(word, 0, 1)
        space.synchronize(LIMIT)
        assert word[0] == 201 + made[0]


def test_after_the_space_and_in_a_fork_child(module: hmm.RawModule) -> None:
    with hmm.AddressSpace(timeout=LIMIT) as space:
        x = space.zeros(4, np.int64)
        space.prefetch(x, space.devices[0])
        child = os.fork()
        if child == 0:
            os._exit(int(hmm.atomic_add(x, 0, 5) + hmm.atomic_load(x, 0)))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
        assert hmm.atomic_add(x, 0, 1) == 0
    assert hmm.atomic_add(x, 0, 1) == 1 and x[0] == 2
