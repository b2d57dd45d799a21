"""Two mappings of one object and a GPU: one is registered, or goes, while kernels that use the other are in flight; on the
stand-in for libcuda, whose kernels begin when the gate opens.
"""

from __future__ import annotations

import gc
import mmap
import os
import subprocess
import time
from contextlib import contextmanager

import numpy as np
import pytest

import hmmemu as hmm

SOURCE = r"""
extern "C" __global__ void add(int* x, int n, int value) { for (int i = 0; i < n; ++i) x[i] += value; }
"""
COPY = r"""
extern "C" __global__ void copy(int* x, const int* y, int n) { for (int i = 0; i < n; ++i) x[i] = y[i]; }
"""
PAGE = 1024  # ints
PAGES = 600  # more than a block
ADD = hmm.RawKernel(SOURCE, "add")


class InFlight:
    """A space in which `add(x, 1)` was launched, which begins when the gate opens; and y, which shows the same memory."""

    def __init__(self, gpu, gate):
        self.gate, self.stream = gate, hmm.Stream()
        launched = gate.with_name("launched")
        gate.touch(), launched.touch()
        self.space = gpu(f"delay_us=20,gate={gate},launched={launched}")
        fd = os.memfd_create("overlap")
        os.truncate(fd, 4096 * PAGES)
        self.x, self.y, self.unknown = (
            np.frombuffer(mmap.mmap(fd, 4096 * PAGES), np.int32) for _ in range(3)
        )
        os.close(fd)
        self.x[:] = np.arange(self.x.size)
        self.launch(self.x, 1)
        deadline = time.monotonic() + 30
        while not launched.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def launch(self, array, value):
        with self.space.devices[0]:
            ADD((1,), (1,), (array, np.int32(array.size), np.int32(value)), stream=self.stream)

    def is_in_flight(self):
        return not self.stream.done and self.unknown[0] == 0 and self.space.residency(self.x)[0] == "-X"

    @contextmanager
    def gate_opens_soon(self):
        """By another process: a thread that waits for a page has the interpreter."""
        with subprocess.Popen(["sh", "-c", 'sleep 0.2; rm "$0"', str(self.gate)]):
            yield

    def open_gate(self):
        self.gate.unlink()
        self.stream.synchronize()


@pytest.fixture
def in_flight(gpu, tmp_path):
    return InFlight(gpu, tmp_path / "gate")


def expected(value):
    return np.arange(PAGE * PAGES) + value


def test_registered(in_flight):
    """Nobody waits for the kernel, and what it writes is read through both."""
    in_flight.space.register(in_flight.y)
    assert in_flight.is_in_flight() and set(in_flight.space.residency(in_flight.y)) == {"--"}
    in_flight.open_gate()
    for array in (in_flight.y, in_flight.x, in_flight.unknown):
        assert np.array_equal(array, expected(1))


def test_registered_by_a_launch(in_flight):
    with in_flight.gate_opens_soon():
        in_flight.launch(in_flight.y, 10)
        in_flight.launch(in_flight.x, 100)
        in_flight.stream.synchronize()
    for array in (in_flight.y, in_flight.x, in_flight.unknown):
        assert np.array_equal(array, expected(111))


def test_registered_and_read_at_once(in_flight):
    in_flight.space.register(in_flight.y)
    with in_flight.gate_opens_soon():
        assert in_flight.y[-1] == expected(1)[-1]
    in_flight.stream.synchronize()
    assert np.array_equal(in_flight.y, expected(1))


@pytest.mark.parametrize("how", ["unregister", "delete", "discard"])
def test_ends_again(in_flight, how):
    space = in_flight.space
    space.register(in_flight.y)
    with in_flight.gate_opens_soon():
        if how == "unregister":
            space.unregister(in_flight.y)
            assert np.array_equal(in_flight.y, expected(1))
        elif how == "discard":
            space.discard(in_flight.y)
        in_flight.y = None
        gc.collect()
        in_flight.stream.synchronize()
    want = np.zeros(PAGE * PAGES) if how == "discard" else expected(1)
    assert np.array_equal(in_flight.x, want)
    in_flight.launch(in_flight.x, 5)
    in_flight.stream.synchronize()
    assert np.array_equal(in_flight.x, want + 5)


@pytest.mark.parametrize("writer", ["cpu", "gpu"])
def test_one_goes_with_all_that_there_is(in_flight, writer):
    """What was written through it is not zeros to a kernel that uses the other, which had nothing."""
    space, y = in_flight.space, in_flight.y
    in_flight.open_gate()
    space.register(y)
    if writer == "cpu":
        y += 2
    else:
        in_flight.launch(y, 2)
        in_flight.stream.synchronize()
    assert set(space.residency(in_flight.x)) == {"--"}
    space.unregister(y)
    in_flight.launch(in_flight.x, 4)
    in_flight.stream.synchronize()
    assert np.array_equal(in_flight.x, expected(7))


def test_a_launch_that_names_memory_at_two_addresses_is_refused(gpu):
    """It would wait for both for ever: a page that is written is at one address at a time."""
    fd = os.memfd_create("twice")
    os.truncate(fd, 4096 * PAGES)
    x, y = (np.frombuffer(mmap.mmap(fd, 4096 * PAGES), np.int32) for _ in range(2))
    os.close(fd)
    space, copy = gpu(), hmm.RawKernel(COPY, "copy")
    x[:] = 3
    with space.devices[0] as device:
        with pytest.raises(hmm.DeviceError, match=r"same memory at 0x.* and at 0x.*one mapping"):
            copy((1,), (1,), (x, y[PAGE:], np.int32(y.size - PAGE)))
        assert set(x) == {3}
        copy((1,), (1,), (x, x[PAGE:], np.int32(x.size - PAGE)))  # at one address it may be
        assert device.synchronize() is None and set(y) == {3}
