"""A GPU, or CUDA itself, that has no memory left, on the stand-in: room is made, and who goes without loses nothing."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import pytest
from keepers import keeper_of
from waiting import wait_until

import hmmemu as hmm

SOURCE = r"""
extern "C" __global__ void fill(int* x, int n, int value) { for (int i = 0; i < n; ++i) x[i] = value; }
extern "C" __global__ void copy(int* x, const int* y, int n) { for (int i = 0; i < n; ++i) x[i] = y[i]; }
extern "C" __global__ void wait_for(volatile int* flag) { while (!flag[0]) {} }
"""
BLOCK = 2 << 20
CALLS = ["cuMemMap", "cuMemSetAccess", "cuMemAddressReserve"]


@pytest.fixture
def kernels():
    return hmm.RawModule(SOURCE)


@pytest.fixture
def failing(tmp_path):
    """While this file is there, calls fail."""
    return tmp_path / "failing"


def fill(kernels, x, value):
    kernels.get_function("fill")((1,), (1,), (x, np.int32(x.size), np.int32(value)))


def granules_of(keeper):
    """How many the keeper has descriptors of."""
    folder = f"/proc/{keeper}/fd"
    return sum("fake-gpu" in os.readlink(f"{folder}/{name}") for name in os.listdir(folder))


def used_and_home(space, kernels, value):
    """An array of which the GPU has granules, and nothing in them."""
    x = space.zeros(2 * BLOCK // 4, np.int32)
    fill(kernels, x, value + 1)
    x[:] = value
    return x


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_finds_no_memory_is_made_again_with_more_room(gpu, kernels, failing, call):
    space = gpu(f"failing={failing},fail={call}:2:1:1")
    with space.devices[0]:
        x, y = used_and_home(space, kernels, 3), space.zeros(2 * BLOCK // 4, np.int32)
        failing.touch()
        fill(kernels, y, 7)
        assert (y == 7).all() and (x == 3).all()


@pytest.mark.parametrize("call", CALLS)
def test_a_granule_that_cannot_be_had_is_not_kept(gpu, kernels, failing, call):
    space = gpu(f"failing={failing},fail={call}:2")
    keeper = keeper_of(space)
    with space.devices[0]:
        x, y = used_and_home(space, kernels, 3), space.zeros(2 * BLOCK // 4, np.int32)
        wait_until(lambda: granules_of(keeper), "the keeper got no descriptor")
        failing.touch()
        with pytest.raises(hmm.OutOfMemoryError):
            fill(kernels, y, 7)
        wait_until(lambda: granules_of(keeper) == 0, "the keeper has granules that the GPU has not")
        failing.unlink()
        fill(kernels, y, 7)
        fill(kernels, x, 8)
        assert (y == 7).all() and (x == 8).all()


@pytest.mark.parametrize("touched", [False, True])
def test_a_view_without_memory_loses_nothing(gpu, kernels, cupy, failing, touched):
    """The block is to leave the CPU's memory: the GPU has no room for it, and then it cannot go back, either."""
    space = gpu(f"bytes={8 * BLOCK},failing={failing},fail=cuMemHostRegister_v2:2")
    with space.devices[0]:
        x = space.full(BLOCK // 4, 3, np.int32)
        kernels.get_function("wait_for")((1,), (1,), (x,))  # the CPU's memory, from now on
        others = [space.zeros(BLOCK // 4, np.int32) for _ in range(9)]
        with contextlib.suppress(hmm.OutOfMemoryError):
            for other in others:
                fill(kernels, other, 1)
        failing.touch()
        with pytest.raises(hmm.DeviceError, match="cannot map the CPU's memory"), hmm.device_view(hmm.In(x)):
            pass
        failing.unlink()
        del other
        others.clear()
        if touched:
            x[-1] = 5
        y = space.zeros(x.size, np.int32)
        kernels.get_function("copy")((1,), (1,), (y, x, np.int32(x.size)))
        assert (y[:-1] == 3).all() and np.array_equal(x, y)


@pytest.mark.parametrize("call", ["cuLaunchKernel", "cuModuleLoadData", "cuModuleGetFunction"])
def test_memory_that_cuda_needs_itself_is_made_room_for(gpu, kernels, failing, call):
    """For a kernel's local memory, say, or its code."""
    space = gpu(f"failing={failing},fail={call}:2:1:1")
    with space.devices[0]:
        x, y = used_and_home(space, kernels, 3), space.zeros(1000, np.int32)
        fill(kernels, y, 6)
        other = hmm.RawModule(SOURCE.replace("= value", "= value + 0"))
        failing.touch()
        fill(other if "Module" in call else kernels, y, 7)
        assert (y == 7).all() and (x == 3).all()
