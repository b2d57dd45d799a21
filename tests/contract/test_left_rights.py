"""A device on which nothing runs keeps rights to read what the CPU writes; before anything runs they are gone."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

import hmmemu as hmm
from hmmemu.errors import DeviceError

WORDS = 1024  # int32 a page
PAGES = 1500  # some more than two blocks
SPREAD = slice(0, None, 7 * WORDS)  # a word of every seventh page


@pytest.fixture
def x(space: hmm.AddressSpace) -> np.ndarray:
    made = space.full(PAGES * WORDS, 1, np.int32)
    space.prefetch(made, space.devices[0], write=False)
    return made


def total(space: hmm.AddressSpace, kernels: hmm.RawModule, x: np.ndarray) -> int:
    """What a kernel reads, which faults where it has to."""
    out = space.zeros(1, np.uint64)
    kernel = kernels.get_function("total")
    kernel((2,), (64,), (x, np.int64(x.size), out), device=space.devices[0])
    return int(out[0])


def test_a_launch_reads_what_was_written(
    space: hmm.AddressSpace, x: np.ndarray, kernels: hmm.RawModule
) -> None:
    for value in (2, 3, 4):
        x[SPREAD] = value
        assert total(space, kernels, x) == x.sum(dtype=np.int64)
        x[value * WORDS] = value
        space.prefetch(x, space.devices[0], write=False)
        assert total(space, kernels, x) == x.sum(dtype=np.int64)


def test_only_what_was_written_leaves_the_device(
    space: hmm.AddressSpace, x: np.ndarray, tracker: str
) -> None:
    x[SPREAD] = 2
    away = np.array([code[1] == "-" for code in space.residency(x)])
    wanted = np.arange(PAGES) % 7 == 0
    if tracker == "async":
        assert np.array_equal(away, wanted)
    else:
        assert (
            np.array_equal(away & wanted, wanted) and away.sum() < 1.5 * wanted.sum()
        )  # where half is written
    space.prefetch(x, space.devices[0], write=False)
    assert set(space.residency(x)) == {"SS"}


def test_a_launch_may_write_them(space: hmm.AddressSpace, x: np.ndarray, kernels: hmm.RawModule) -> None:
    add = kernels.get_function("add")
    for _ in range(3):
        x[SPREAD] += 1
        wanted = x + 5
        add((2,), (64,), (x, np.int64(x.size), np.int32(5)), device=space.devices[0])
        assert np.array_equal(x, wanted)
        space.prefetch(x, space.devices[0], write=False)


def test_the_device_may_take_them_for_itself(
    space: hmm.AddressSpace, x: np.ndarray, kernels: hmm.RawModule
) -> None:
    x[SPREAD] = 2
    space.prefetch(x, space.devices[0], write=True)
    assert set(space.residency(x)) == {"-X"}
    add = kernels.get_function("add")
    wanted = x + 1
    space.prefetch(x, space.devices[0], write=True)
    add((2,), (64,), (x, np.int64(x.size), np.int32(1)), device=space.devices[0])
    assert np.array_equal(x, wanted)


def test_what_is_discarded_reads_as_zeros(
    space: hmm.AddressSpace, x: np.ndarray, kernels: hmm.RawModule
) -> None:
    x[SPREAD] = 2
    space.discard(x)
    assert total(space, kernels, x) == 0
    x[5] = 7
    assert total(space, kernels, x) == 7


def test_memory_that_is_given_to_another_array(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    for value in range(1, 6):
        x = space.full(PAGES * WORDS, value, np.int32)
        assert total(space, kernels, x) == value * x.size
        x[SPREAD] = 0
        del x


def test_a_device_that_ended_meanwhile(
    space: hmm.AddressSpace, x: np.ndarray, kernels: hmm.RawModule
) -> None:
    x[SPREAD] = 2
    device = space.devices[0]
    os.kill(device.process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while device.process.alive and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(DeviceError):
        total(space, kernels, x)
    x[3] = 9
    space.prefetch(x, device, write=False)
    assert total(space, kernels, x) == x.sum(dtype=np.int64)


def test_a_device_that_has_less_memory_than_the_array(kernels: hmm.RawModule) -> None:
    with hmm.AddressSpace(device="emulated", device_memory=4 << 20) as space:
        x = space.full(PAGES * WORDS, 1, np.int32)
        for value in (2, 3):
            space.prefetch(x[: 200 * WORDS], space.devices[0], write=False)
            x[SPREAD] = value
            assert total(space, kernels, x) == x.sum(dtype=np.int64)


def test_stores_while_a_kernel_runs(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    """Whatever runs must not see what was left: the flag that it waits for is on a page that was shared."""
    flag = space.zeros(WORDS, np.int32)
    spin = kernels.get_function("spin")
    for _ in range(5):
        flag[0] = 0
        space.prefetch(flag, space.devices[0], write=False)
        flag[1] += 1  # left
        stream = hmm.Stream()
        spin((1,), (1,), (flag,), stream=stream, device=space.devices[0])
        time.sleep(0.01)
        flag[0] = 1
        stream.synchronize()
