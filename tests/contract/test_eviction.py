"""A device with less memory than the data: it evicts, and nothing is lost."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import hmmemu as hmm
from hmmemu._native import broken_rule, eviction, transition

INTS = 1024
MEMORY = 8 << 20


@pytest.fixture
def small() -> Iterator[hmm.AddressSpace]:
    with hmm.AddressSpace(device_memory=MEMORY, timeout=60) as space:
        yield space


def used(space: hmm.AddressSpace) -> int:
    device = space.devices[0]
    return int(space.session.device_bytes(device.processor))


def test_a_kernel_over_four_times_the_memory(small: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    x = small.empty(4 * MEMORY // 4, np.int32)
    x[:] = np.arange(x.size)
    for _ in range(3):
        kernels.get_function("add")(2, 256, (x, x.size, 1))
        assert used(small) <= MEMORY
    np.testing.assert_array_equal(x, np.arange(x.size) + 3)
    assert small.stats().processors[1].evicted_pages > 0
    assert any("eviction" in t.causes for t in small.stats().transfers)


def test_prefetching_more_than_fits(small: hmm.AddressSpace) -> None:
    x = small.register(np.arange(2 * MEMORY // 4, dtype=np.int32))
    small.prefetch(x, small.devices[0])
    assert used(small) <= MEMORY
    np.testing.assert_array_equal(x, np.arange(x.size))


def test_readable_copies_are_dropped(small: hmm.AddressSpace) -> None:
    x = small.empty(2 * MEMORY // 4, np.int32)
    x[:] = np.arange(x.size)
    small.prefetch(x, small.devices[0], write=False)
    assert used(small) <= MEMORY
    small.reset_stats()
    np.testing.assert_array_equal(small.devices[0].read(x), np.arange(x.size))
    assert set(small.residency(x)) == {"SS", "S-"}
    assert not any(t.direction == "DtoH" for t in small.stats().transfers)


def test_watched_pages_are_evicted_without_being_written(
    small: hmm.AddressSpace, kernels: hmm.RawModule
) -> None:
    x = small.empty(3 * MEMORY // 4, np.int32)
    x[:] = np.arange(x.size)
    small.prefetch(x[: INTS * 100], small.devices[0])
    snapshot = small.snapshot_of(x)
    small.devices[0].read(x)
    assert snapshot.copied_pages == 0
    kernels.get_function("add")(2, 256, (x, x.size, 1))
    np.testing.assert_array_equal(np.asarray(snapshot), np.arange(x.size))
    np.testing.assert_array_equal(x, np.arange(x.size) + 1)


def of_the_arena(space: hmm.AddressSpace, folder: Path) -> np.ndarray:
    return space.zeros(4 * MEMORY // 4, np.int32)


def of_a_file(space: hmm.AddressSpace, folder: Path) -> np.ndarray:
    return space.register(np.memmap(folder / "data", np.int32, "w+", shape=4 * MEMORY // 4))


def of_shared_memory(space: hmm.AddressSpace, folder: Path) -> np.ndarray:
    return space.register(np.frombuffer(mmap.mmap(-1, 4 * MEMORY), np.int32))


def watched(space: hmm.AddressSpace, folder: Path) -> np.ndarray:
    x = of_the_arena(space, folder)
    space.dirty(x)
    return x


def merged(space: hmm.AddressSpace, folder: Path) -> np.ndarray:
    x = of_the_arena(space, folder)
    x[::INTS] = np.arange(x.size // INTS) % 50 + 1  # fifty frames for all of it, and the same again
    assert space.merge(x).merged == x.size // INTS
    return x


KINDS = [of_the_arena, of_a_file, of_shared_memory, watched, merged]


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_random_accesses_by_everybody(
    small: hmm.AddressSpace,
    kernels: hmm.RawModule,
    make: Callable[[hmm.AddressSpace, Path], np.ndarray],
    tmp_path: Path,
) -> None:
    """Four times oversubscribed: CPU threads and kernels write words of their own, anywhere."""
    x = make(small, tmp_path)
    expected = x.copy()
    poke = kernels.get_function("poke")
    random = np.random.default_rng(11)
    places = random.permutation(x.size)[:2400].astype(np.int64)
    own, theirs = places[:2000], places[2000:]
    failures: list[BaseException] = []

    def cpu(part: np.ndarray) -> None:
        try:
            for i in part:
                x[i] = i + 1
                assert x[i] == i + 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=cpu, args=(part,)) for part in np.split(own, 2)]
    for thread in threads:
        thread.start()
    for part, some in zip(np.split(x, 4), np.split(theirs, 4), strict=True):
        small.devices[0].read(part)
        for i in some:
            poke(1, 1, (x, int(i), int(i) + 1))
    for thread in threads:
        thread.join(60)
    assert not failures and used(small) <= MEMORY
    assert small.stats().processors[1].evicted_pages > 0
    if make is watched:
        assert set(small.dirty(x)) == set(np.r_[own, theirs] // INTS)
    expected[own] = own + 1
    expected[theirs] = theirs + 1
    np.testing.assert_array_equal(x, expected)


def test_two_small_devices(kernels: hmm.RawModule) -> None:
    with hmm.AddressSpace(devices=2, device_memory=MEMORY, timeout=60) as space:
        x = space.empty(3 * MEMORY // 4, np.int32)
        x[:] = 0
        add = kernels.get_function("add")
        for device in space.devices * 2:
            add(2, 256, (x, x.size, 1), device=device)
        assert (x == 4).all()


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(hmm.ArgumentError, match="at least 4 MiB"):
        hmm.AddressSpace(device_memory=1 << 20)


def test_the_pure_function() -> None:
    owned = 1 << 32
    seen, todo = {owned}, [owned]
    while todo:  # everything that three processors can reach
        state = todo.pop()
        for p in range(3):
            steps = [transition(state, p, access)[4] for access in ("read", "write")]
            after = eviction(state, p) if p else None
            if after:
                name, source, protect, zap, word = after
                assert broken_rule(word) is None and word >> (2 * p) & 3 == 0
                if state >> (2 * p) & 3 == 0:
                    assert (name, word) == ("none", state)
                elif name == "migrate":
                    assert (
                        source == p and word & 3 and zap == 1 << p and protect == (state >> (2 * p) & 3 == 2)
                    )
                else:
                    assert name == "drop" and zap == 1 << p and word & 0xFF
                steps.append(word)
            for word in steps:
                if word not in seen:
                    seen.add(word)
                    todo.append(word)
