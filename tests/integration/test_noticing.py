"""Stores that are noticed and not caught (tracker async): found wherever they are, told once, nothing hangs."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import hmmemu as hmm
from hmmemu import trackers

WORDS = 512  # int64 a page
BLOCK = 512  # pages


@pytest.fixture
def space() -> Iterator[hmm.AddressSpace]:
    if not (found := trackers.probe("async")).usable:
        pytest.skip(f"tracker async cannot work here: {found.words}")
    with hmm.AddressSpace(device="emulated", tracker="async") as opened:
        yield opened


def frames(space: hmm.AddressSpace, x: np.ndarray) -> np.ndarray:
    """What the device's own memory holds; asking the device would bring what is missing."""
    with mmap.mmap(
        space.devices[0].process.vram, x.nbytes, prot=mmap.PROT_READ, offset=x.ctypes.data
    ) as vram:
        return np.frombuffer(vram, x.dtype).copy()


def shared(space: hmm.AddressSpace, pages: int) -> np.ndarray:
    """An array of the arena that starts a page behind another one, with a copy on the device."""
    space.zeros(WORDS, np.int64)
    x = space.full(pages * WORDS, 1, np.int64)
    space.prefetch(x, space.devices[0], write=False)
    return x


@pytest.mark.parametrize("count", [1, 7, 300, 2000, 5 * BLOCK])
def test_any_number_of_pages_in_any_order(space: hmm.AddressSpace, count: int) -> None:
    x = shared(space, 5 * BLOCK)
    random = np.random.default_rng(count)
    for value in (2, 3):
        x[random.choice(5 * BLOCK, count, replace=False) * WORDS + value] = value
        space.prefetch(x, space.devices[0], write=False)
        assert np.array_equal(frames(space, x), x)
    assert set(space.residency(x)) == {"SS"}


def moved(space: hmm.AddressSpace) -> int:
    """Pages that devices were given."""
    return sum(t["pages"] for t in space.session.counters()["transfers"] if t["source"] == 0)


def test_what_was_told_is_not_told_again(space: hmm.AddressSpace) -> None:
    x = shared(space, BLOCK)
    x[::WORDS] = 2
    space.prefetch(x, space.devices[0], write=False)
    before = moved(space)
    space.prefetch(x, space.devices[0], write=False)
    x[5 * WORDS] = 3
    space.prefetch(x, space.devices[0], write=False)
    assert moved(space) == before + 1


def test_pages_that_a_device_gets_alone_are_sent_once(space: hmm.AddressSpace) -> None:
    x = shared(space, 2 * BLOCK)
    x[::WORDS] = 2
    before = moved(space)
    space.prefetch(x, space.devices[0])
    assert moved(space) == before + 2 * BLOCK
    assert set(space.residency(x)) == {"-X"}
    seen = frames(space, x)
    assert np.array_equal(seen, x)


def test_a_launch_brings_what_it_reads_up_to_date_in_place(space: hmm.AddressSpace) -> None:
    with hmm.AddressSpace(
        device="emulated", tracker="async", policy=hmm.Policy(launch="prefetch")
    ) as launching:
        x, y = launching.full(BLOCK * WORDS, 1, np.int64), launching.zeros(1, np.int64)
        total = hmm.RawKernel(
            'extern "C" __global__ void total(const long long* x, long long n, long long* y)'
            "{ for (long long i = 0; i < n; ++i) *y += x[i]; }",
            "total",
        )
        for value in (1, 5, 9):
            x[7] = value
            y[0] = 0
            total((1,), (1,), (x, np.int64(x.size), y), device=launching.devices[0])
            assert y[0] == x.sum()
        assert set(launching.residency(x)) == {"SS"}
        assert launching.session.counters()["processors"][1]["invalidated_pages"] <= 2  # that of y


def test_pages_that_the_program_drops_read_as_zeros(space: hmm.AddressSpace) -> None:
    """They count as written, are not there, and are read by the driver while it has them locked."""
    with mmap.mmap(-1, 64 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        x = space.register(np.frombuffer(memory, np.int64))
        x[:] = 1
        space.prefetch(x, space.devices[0], write=False)
        memory.madvise(mmap.MADV_DONTNEED, 8 * mmap.PAGESIZE, 20 * mmap.PAGESIZE)
        x[40 * WORDS] = 2
        space.prefetch(x, space.devices[0], write=False)
        seen = frames(space, x).reshape(64, WORDS)
        assert not seen[8:28].any() and seen[40, 0] == 2 and seen[:8].all() and seen[28:].all()
        assert np.array_equal(seen.ravel(), x)
        space.unregister(x)
        del x


def test_threads_that_ask_at_the_same_time(space: hmm.AddressSpace) -> None:
    x = shared(space, 8 * BLOCK)
    device, wrong = space.devices[0], []

    def work(first: int) -> None:
        mine = x[first * WORDS : (first + 2 * BLOCK) * WORDS]
        for value in range(2, 12):
            mine[::WORDS] = value
            space.prefetch(x, device, write=False)  # the pages of others, too
            if not np.array_equal(frames(space, mine), mine):
                wrong.append((first, value))

    threads = [threading.Thread(target=work, args=(n * 2 * BLOCK,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads) and not wrong
