"""Memory that other processes have mapped too, and frames that cannot be moved: nothing is lost, nobody sees zeros."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import pytest

import hmmemu as hmm

INTS = 1024
PAGES = 700  # more than a block


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    made = SharedMemory(create=True, size=PAGES * 4096)
    yield made
    made.close()  # fails if a test leaves an array on it behind
    made.unlink()


def numbers(memory: SharedMemory) -> np.ndarray:
    x = np.frombuffer(memory.buf, np.int32)
    x[:] = np.arange(x.size)
    return x


def bump(x: np.ndarray, kernels: hmm.RawModule, by: int) -> None:
    kernels.get_function("add")((x.size + 255) // 256, 256, (x, x.size, by))


def seen_by_file(memory: SharedMemory) -> np.ndarray:
    with open(f"/dev/shm/{memory.name.lstrip('/')}", "rb") as file:
        return np.frombuffer(file.read(PAGES * 4096), np.int32)


def test_pages_that_are_away_keep_their_last_content_for_others(
    space: hmm.AddressSpace, kernels: hmm.RawModule, memory: SharedMemory
) -> None:
    x = numbers(memory)
    expected = np.arange(x.size)
    with space:
        for round_ in range(3):
            bump(x, kernels, 5)
            space.devices[0].synchronize()
            space.prefetch(x, space.devices[0])
            assert space.residency(x)[0][0] == "-"
            seen = seen_by_file(memory)
            np.testing.assert_array_equal(seen, expected)  # what was here when the pages left, never zeros
            expected = expected + 5
            np.testing.assert_array_equal(x, expected)
            np.testing.assert_array_equal(seen_by_file(memory), expected)
            x += round_
            expected = expected + round_
    del x


@pytest.mark.parametrize("there", ["cpu", "device", "both"])
def test_another_process_writes_to_a_page_that_is_here(
    space: hmm.AddressSpace, memory: SharedMemory, there: str
) -> None:
    x = numbers(memory)
    with space:
        space.register(x)
        if there != "cpu":
            space.prefetch(x, space.devices[0], write=there == "device")
        np.testing.assert_array_equal(space.devices[0].read(x), np.arange(x.size))
        x[3 * INTS] = -7
        np.testing.assert_array_equal(seen_by_file(memory)[3 * INTS], -7)
        assert space.devices[0].read(x)[3 * INTS] == -7
    del x


def test_two_arrays_of_one_mapping(
    space: hmm.AddressSpace, kernels: hmm.RawModule, memory: SharedMemory
) -> None:
    x = numbers(memory)
    low, high = x[: x.size // 2 + 10], x[x.size // 2 + 10 :]
    with space:
        bump(low, kernels, 1)
        bump(high, kernels, 2)
        np.testing.assert_array_equal(low, np.arange(low.size) + 1)
        np.testing.assert_array_equal(high, np.arange(low.size, x.size) + 2)
    del x, low, high


def test_discarded_shared_memory_reads_as_zeros(space: hmm.AddressSpace, memory: SharedMemory) -> None:
    x = numbers(memory)
    with space:
        space.register(x)
        space.prefetch(x, space.devices[0])
        space.discard(x)
        assert not x.any()
        x[5] = 1
        assert space.devices[0].read(x)[5] == 1
    del x


def test_dropping_entries_of_shared_memory_loses_nothing(
    space: hmm.AddressSpace, memory: SharedMemory
) -> None:
    """The kernel does so, too, when it reclaims memory."""
    if space.tracker == "signal":
        pytest.skip("entries that are dropped come back by themselves")
    x = numbers(memory)
    with space:
        space.register(x)
        for write in (True, False):
            if not write:
                space.prefetch(x, space.devices[0], write=False)
            drop_entries(x)
            np.testing.assert_array_equal(x, np.arange(x.size))
        x[7] = -1
        assert space.devices[0].read(x)[7] == -1
    del x


def drop_entries(x: np.ndarray) -> None:
    import ctypes

    done = ctypes.CDLL(None, use_errno=True).madvise(ctypes.c_void_p(x.ctypes.data), x.nbytes, 4)
    assert done == 0, os.strerror(ctypes.get_errno())


@pytest.fixture
def sleeping_child() -> Iterator[Callable[[], int]]:
    """Forks a child that does nothing but share our private frames."""
    children = []

    def fork() -> int:
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
        children.append(child)
        return child

    yield fork
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_frames_that_a_child_shares(
    space: hmm.AddressSpace, kernels: hmm.RawModule, sleeping_child: Callable[[], int]
) -> None:
    """The kernel moves no frame that is in another process, too."""
    x = np.arange(PAGES * INTS, dtype=np.int32)
    with space:
        space.register(x)
        for round_ in range(3):
            sleeping_child()
            x[::INTS] += 1
            bump(x, kernels, 2)
            expected = np.arange(x.size, dtype=np.int32) + 2 * (round_ + 1)
            expected[::INTS] += round_ + 1
            np.testing.assert_array_equal(x, expected)
