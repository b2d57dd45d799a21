"""Frames of the CPU that are moved aside while a device has their pages, and the cases where they cannot be."""

from __future__ import annotations

import gc
import mmap
import os
import re
from pathlib import Path

import numpy as np
import pytest

import hmmemu as hmm

PAGES = 1600  # a little more than three blocks
WORDS = PAGES * 1024


@pytest.fixture
def space():
    with hmm.AddressSpace(device="emulated", devices=2) as made:
        yield made


def there_and_back(space, array, expected):
    for device in (*space.devices, space.devices[0]):
        space.prefetch(array, device)
        assert set(space.residency(array)) == {"-X-" if device is space.devices[0] else "--X"}
        np.testing.assert_array_equal(device.read(array), expected)
    space.prefetch(array, hmm.cpu)
    np.testing.assert_array_equal(array, expected)


def test_frames_shared_with_a_fork_child(space):
    array = space.array(np.arange(WORDS, dtype=np.int32))
    ends = os.pipe()
    child = os.fork()
    if child == 0:  # lives, sharing every frame, until the parent has moved its pages
        os.read(ends[0], 1)
        os._exit(int(not np.array_equal(array, np.arange(WORDS, dtype=np.int32))))
    array[::4096] += 1  # these frames are the parent's own again
    expected = np.arange(WORDS, dtype=np.int32)
    expected[::4096] += 1
    there_and_back(space, array, expected)
    os.write(ends[1], b".")
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("advice", ["MADV_HUGEPAGE", "MADV_NOHUGEPAGE"])
def test_registered_memory_with_huge_page_advice(space, advice):
    memory = mmap.mmap(-1, WORDS * 4, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(getattr(mmap, advice), 1 << 20, 2 << 20)  # three mappings of the kernel, one array
    array = np.frombuffer(memory, np.int32)
    array[:] = np.arange(WORDS)
    space.register(array)
    there_and_back(space, array, np.arange(WORDS, dtype=np.int32))


def test_page_that_came_home_as_a_copy_and_leaves_again(space):
    array = space.array(np.arange(WORDS, dtype=np.int32))
    for number in range(3):
        space.prefetch(array, space.devices[0])
        space.prefetch(array, hmm.cpu, write=False)
        array[::1024] = number
    expected = np.arange(WORDS, dtype=np.int32)
    expected[::1024] = 2
    there_and_back(space, array, expected)


def test_freed_arrays_leave_no_memory_behind(space):
    def resident() -> int:
        gc.collect()  # what tests before have left in cycles
        return int(re.search(r"VmRSS:\s*(\d+)", Path("/proc/self/status").read_text())[1]) * 1024

    def use(words: int) -> None:
        array = space.full(words, 1, np.int32)
        space.prefetch(array, space.devices[0])
        del array
        gc.collect()
        space.empty(1)

    use(1)
    before = resident()
    use(16 * WORDS)
    assert resident() < before + 2 * WORDS * 4
