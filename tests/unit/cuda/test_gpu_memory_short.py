"""A GPU without room: what is given up for what, and what is waited for; on the stand-in."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

import hmmemu as hmm

SOURCE = r"""
extern "C" __global__ void fill(int* x, int n, int v) { for (int i = 0; i < n; ++i) x[i] = v; }
extern "C" __global__ void sum(int* x, const int* y) { x[0] += y[1 << 18]; }
extern "C" __global__ void both(int* x, const int* y) { x[0] += y[0]; }
"""
MIB = 1 << 20


@pytest.fixture
def kernels():
    return hmm.RawModule(SOURCE)


def launch(kernels, name, *args, stream):
    kernels.get_function(name)((1,), (1,), args, stream=stream)


def evicted(space):
    return sum(counters["evicted_pages"] for counters in space.session.counters()["processors"])


def test_a_full_gpu_evicts(gpu, kernels):
    """No limit is set: 32 MiB of arrays, one after the other, on a GPU of 16."""
    space = gpu(f"bytes={16 * MIB},delay_us=20")
    arrays = [space.zeros(MIB, np.int32) for _ in range(8)]
    with space.devices[0]:
        for turn in range(2):
            for number, x in enumerate(arrays):
                value = np.int32(10 * turn + number)
                launch(kernels, "fill", x, np.int32(x.size), value, stream=hmm.Stream.null)
                space.devices[0].synchronize()
    assert all((x == 10 + number).all() for number, x in enumerate(arrays))
    assert evicted(space) > 0


def test_a_full_gpu_evicts_private_memory(gpu, kernels):
    """Its content is taken from the CPU first, and goes back when the GPU has no room for it."""
    space = gpu(f"bytes={16 * MIB},delay_us=20")
    arrays = [np.full(MIB, number, np.int32) for number in range(6)]
    with space.devices[0]:
        for x in arrays:
            launch(kernels, "fill", x, np.int32(x.size // 2), np.int32(100), stream=hmm.Stream.null)
            space.devices[0].synchronize()
    for number, x in enumerate(arrays):
        assert (x[: x.size // 2] == 100).all() and (x[x.size // 2 :] == number).all()
    assert evicted(space) > 0


def test_a_prefetch_of_more_than_the_gpu_has(gpu):
    space = gpu(f"bytes={16 * MIB},delay_us=20")
    x = space.full(8 * MIB, 7, np.int32)
    space.prefetch(x, space.devices[0])
    assert evicted(space) > 0 and (x == 7).all()


def test_queued_launches_whose_pages_are_evicted_before_they_begin(gpu, kernels):
    """Then the GPU asks for them, and has no room either."""
    space = gpu(f"bytes={32 * MIB},kernel_us=2000,delay_us=20")
    arrays = [space.full(1 << 20, k, np.int32) for k in range(16)]
    x, stream = space.zeros(1, np.int32), hmm.Stream()
    with space.devices[0]:
        for array in arrays * 2:
            launch(kernels, "sum", x, array, stream=stream)
        stream.synchronize()
    assert x[0] == 2 * sum(range(16))


def test_a_launch_for_which_others_leave_no_room(gpu, kernels):
    """Whatever is evicted: the launch's own pages go for others of its own. That ends."""
    space = gpu(f"bytes={16 * MIB},others={10 * MIB},delay_us=20")
    x, y = space.full(MIB, 1, np.int32), space.full(MIB, 2, np.int32)
    with space.devices[0]:
        with pytest.raises(hmm.DeviceError, match="has no memory for"):
            launch(kernels, "both", x, y, stream=hmm.Stream.null)
        launch(kernels, "both", x[:1024], y[:1024], stream=hmm.Stream.null)
    assert x[0] == 3 and (x[1:] == 1).all() and (y == 2).all()


@pytest.mark.parametrize("mode", ["", "nowrites=1"])
def test_memory_that_launches_in_flight_use_is_waited_for(gpu, gate, kernels, mode):
    space = gpu(f"bytes={16 * MIB},delay_us=20,gate={gate},{mode}", device_memory=8 * MIB)
    arrays = [space.full(MIB >> 1, k, np.int32) for k in range(16)]
    x, stream = space.zeros(1, np.int32), hmm.Stream()
    opener = subprocess.Popen(["sh", "-c", 'sleep 0.5; rm "$0"', str(gate)])  # while this thread waits
    with opener, space.devices[0]:
        for array in arrays:
            launch(kernels, "sum", x, array, stream=stream)
        stream.synchronize()
    assert x[0] == sum(range(16))
