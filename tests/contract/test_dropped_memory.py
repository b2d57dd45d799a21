"""Memory that the program itself drops (madvise) while it is registered: nobody waits, nobody dies, zeros are read."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Callable

import numpy as np
import pytest
from forking import in_child
from page_states import State, alone, copied, frozen, logged

import hmmemu as hmm
from hmmemu import trackers

PAGES, INTS = 24, 1024
DROPPED = slice(8 * INTS, 16 * INTS)
DONTNEED, FREE, REMOVE = 4, 8, 9  # advice

Space = hmm.AddressSpace


def advise(x: np.ndarray, advice: int) -> None:
    """madvise(2), as an allocator would call it."""
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.madvise(ctypes.c_void_p(x.ctypes.data), ctypes.c_size_t(x.nbytes), advice)
    assert done == 0, os.strerror(ctypes.get_errno())


def memory(sharing: int) -> np.ndarray:
    x = np.frombuffer(mmap.mmap(-1, PAGES * 4096, flags=sharing | mmap.MAP_ANONYMOUS), np.int32)
    x[:] = 7
    return x


@pytest.fixture
def x() -> np.ndarray:
    return memory(mmap.MAP_PRIVATE)


STATES = [alone, copied, logged, frozen]


def cpu_reads(space: Space, x: np.ndarray, part: np.ndarray) -> None:
    assert not part.any()
    assert not space.devices[1].read(part).any()


def cpu_writes(space: Space, x: np.ndarray, part: np.ndarray) -> None:
    part[5] = 3
    assert space.devices[1].read(part).sum() == 3


def a_system_call_writes(space: Space, x: np.ndarray, part: np.ndarray) -> None:
    if not trackers.probe(space.tracker).system_calls:
        pytest.skip("EFAULT, wherever a page may not be written")
    read, write = os.pipe()
    os.write(write, b"\1" * 4)
    assert os.readv(read, [memoryview(part[5:6]).cast("B")]) == 4
    os.close(read)
    os.close(write)
    assert space.devices[1].read(part).sum() == 0x01010101


def another_device_reads(space: Space, x: np.ndarray, part: np.ndarray) -> None:
    assert not space.devices[1].read(part).any()
    assert not part.any()


def another_device_writes(space: Space, x: np.ndarray, part: np.ndarray) -> None:
    assert not part[INTS:].any()
    space.devices[1].write(part[:10], 3)
    assert part.sum() == 30


def everything_goes_there_and_back(space: Space, x: np.ndarray, part: np.ndarray) -> None:
    assert not part.any()
    space.prefetch(x, space.devices[1], write=True)
    space.prefetch(x, hmm.cpu)
    assert not part.any()


def a_child_is_forked(space: Space, x: np.ndarray, part: np.ndarray) -> None:
    assert not part.any()
    assert in_child(lambda: not part.any() and x[0] == 7) == 0


ACTS = [
    cpu_reads,
    cpu_writes,
    a_system_call_writes,
    another_device_reads,
    another_device_writes,
    everything_goes_there_and_back,
    a_child_is_forked,
]


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_dropped_pages_are_zeros(
    two_devices: Space,
    x: np.ndarray,
    state: State,
    act: Callable[[Space, np.ndarray, np.ndarray], None],
) -> None:
    space = two_devices
    space.register(x)
    kept = state(space, x)
    advise(x[DROPPED], DONTNEED)
    act(space, x, x[DROPPED])
    assert (x[: DROPPED.start] == 7).all() and (x[DROPPED.stop :] == 7).all()
    del kept
    space.unregister(x)
    x[:] = 1


def test_a_kernel_reads_and_writes_them(space: Space, kernels: hmm.RawModule, x: np.ndarray) -> None:
    with space:
        space.register(x)
        logged(space, x)
        advise(x[DROPPED], DONTNEED)
        kernels.get_function("add")(PAGES, 256, (x, x.size, 1))
    assert (x[DROPPED] == 1).all() and (x[: DROPPED.start] == 8).all()


def test_pages_that_a_device_has_are_not_dropped(two_devices: Space, x: np.ndarray) -> None:
    space = two_devices
    space.register(x)
    space.prefetch(x, space.devices[0], write=True)
    advise(x[DROPPED], DONTNEED)
    assert (x == 7).all()
    assert (space.devices[1].read(x) == 7).all()


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_free_keeps_or_drops(
    two_devices: Space, x: np.ndarray, state: Callable[[Space, np.ndarray], object]
) -> None:
    """MADV_FREE: the kernel drops pages when it needs the memory, and not before."""
    space = two_devices
    space.register(x)
    kept = state(space, x)
    advise(x[DROPPED], FREE)
    found = space.devices[1].read(x[DROPPED])
    assert ((found == 7) | (found == 0)).all()
    x[DROPPED] = 3
    assert (space.devices[0].read(x[DROPPED]) == 3).all()
    del kept


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_a_hole_in_shared_memory(two_devices: Space, state: Callable[[Space, np.ndarray], object]) -> None:
    x, space = memory(mmap.MAP_SHARED), two_devices
    space.register(x)
    kept = state(space, x)
    advise(x[DROPPED], REMOVE)
    assert not space.devices[1].read(x[DROPPED]).any()
    assert not x[DROPPED].any()
    x[DROPPED] = 3
    assert (space.devices[0].read(x[DROPPED]) == 3).all()
    assert (x[: DROPPED.start] == 7).all()
    del kept


def test_dropped_while_a_device_reads(two_devices: Space, x: np.ndarray) -> None:
    """A program that does both at once gets zeros or what was there; nobody waits for ever."""
    space, stop = two_devices, threading.Event()
    if space.tracker != "signal" and not trackers.probe(space.tracker).system_calls:
        pytest.skip(
            "what is dropped while the driver copies it is an error where userfaultfd is for user mode only"
        )
    space.register(x)

    def drop() -> None:
        while not stop.is_set():
            advise(x[DROPPED], DONTNEED)

    thread = threading.Thread(target=drop)
    thread.start()
    try:
        for i in range(200):
            x[DROPPED] = 5
            found = space.devices[i % 2].read(x[DROPPED])
            assert ((found == 5) | (found == 0)).all()
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    assert (x[: DROPPED.start] == 7).all()
