"""GPU memory that no keeper can save, on the stand-in: the device works all the same, and says what is lost, and why."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import re
import resource
import signal

import numpy as np
import pytest
from keepers import keeper_of
from waiting import is_gone, wait_until

import hmmemu as hmm

SOURCE = r"""
extern "C" __global__ void fill(int* x, int n, int value) { for (int i = 0; i < n; ++i) x[i] = value; }
extern "C" __global__ void bad(int* x) { x[0] = 1; }
"""
BLOCK = 2 << 20
REFUSALS = {
    "noshare=1": "GPU 0 has no file descriptors for its memory",
    "unshared=1": "cannot allocate memory of GPU 0 that can be shared: cuMemCreate: .*801",
    "fail=cuMemExportToShareableHandle:801": "cannot share 2048 KiB at .*cuMemExportToShareableHandle: .*801",
}


@pytest.fixture
def kernels():
    return hmm.RawModule(SOURCE, filename="user.cu")


def fill(kernels, x, value):
    kernels.get_function("fill")((1,), (1,), (x, np.int32(x.size), np.int32(value)))


def fail(kernels, space, words):
    with pytest.raises(hmm.KernelFault, match=words):
        kernels.get_function("bad")((1,), (1,), (space.zeros(1, np.int32),))


@pytest.mark.parametrize("settings", REFUSALS)
def test_without_descriptors_it_works_and_says_what_is_lost(gpu, kernels, settings):
    words = REFUSALS[settings]
    space = gpu(f"bad=716,{settings}")
    device = space.devices[0]
    with device:
        x = space.full(5000, 3, np.int32)
        fill(kernels, x, 6)
        assert (x == 6).all()
        fill(kernels, x, 7)
        assert re.search(words, device.why_not_kept)
        fail(kernels, space, f"What the GPU alone had is lost: .*{words}")
        fill(kernels, x, 8)
        assert (x == 8).all()


def test_a_kernel_that_is_stopped_costs_it_as_well(gpu, kernels, gate):
    gate.unlink()
    space = gpu(f"noshare=1,gate={gate}")
    with space.devices[0] as device:
        x, y = space.full(5000, 3, np.int32), space.zeros(1, np.int32)
        fill(kernels, x, 6)
        gate.touch()
        kernels.get_function("bad")((1,), (1,), (y,), stream=hmm.Stream())
        with pytest.raises(
            hmm.KernelTimeout, match=r"What the GPU alone had is lost: .* no file descriptors"
        ):
            device.synchronize(0.1)
        gate.unlink()
        fill(kernels, x, 7)
        assert (x == 7).all()


def test_nothing_is_said_to_be_lost_that_is_home(gpu, kernels):
    space = gpu("bad=716,noshare=1")
    with space.devices[0]:
        x = space.full(5000, 3, np.int32)
        fill(kernels, x, 6)
        y = space.zeros(1, np.int32)
        assert (x == 6).all()
        with pytest.raises(hmm.KernelFault, match="misaligned") as caught:
            kernels.get_function("bad")((1,), (1,), (hmm.In(y),))
        assert "is lost" not in str(caught.value) and (x == 6).all()


def test_a_view_needs_descriptors(gpu, kernels, cupy):
    space = gpu("noshare=1")
    with space.devices[0]:
        x = space.full(5000, 3, np.int32)
        with (
            pytest.raises(hmm.DeviceError, match=r"cannot share .* has no file descriptors"),
            hmm.device_view(x),
        ):
            pass
        fill(kernels, x, 6)
        assert (x == 6).all()


def test_a_keeper_with_few_descriptors_saves_what_it_has(gpu, kernels):
    space = gpu("bad=716")
    keeper = keeper_of(space)
    opened = len(os.listdir(f"/proc/{keeper}/fd"))
    resource.prlimit(keeper, resource.RLIMIT_NOFILE, (opened + 2, opened + 100))
    with space.devices[0]:
        arrays = [space.full(BLOCK // 2, 3, np.int32) for _ in range(2)]  # of two blocks at least, each
        for x in arrays:
            fill(kernels, x, 6)
        assert "may open no more than" in space.devices[0].why_not_kept
        fail(kernels, space, r"What the GPU alone had is lost: .*every 2 MiB .*`ulimit -Hn`")
        found = [set(np.unique(x[::1024])) for x in arrays]
        assert 6 in found[0] and found[1] == {3}
        for x in arrays:
            fill(kernels, x, 7)
            assert (x == 7).all()


def around_an_object(fd):
    """Memory of two blocks: private, a page that shows the object, private, the second block with it. It stays mapped."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, *[ctypes.c_long] * 5]
    room = libc.mmap(None, 3 * BLOCK, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    begin = (room + BLOCK - 1) // BLOCK * BLOCK
    middle, behind, end = begin + 5 * 4096, begin + 6 * 4096, begin + 2 * BLOCK
    assert libc.mmap(middle, 4096, 3, mmap.MAP_SHARED | 0x10, fd, 0) == middle
    parts = ((begin, middle), (middle, behind), (behind, end))
    return [np.frombuffer((ctypes.c_int * ((to - at) // 4)).from_address(at), np.int32) for at, to in parts]


def test_a_page_that_cannot_be_written_costs_no_other(gpu, kernels):
    """An object that may not be written any more lies amid other pages of its block, and before another block."""
    space = gpu("bad=716")
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.truncate(fd, 4096)
    arrays = around_an_object(fd)
    with space.devices[0]:
        for x in arrays:
            x[:] = 3
            fill(kernels, x, 7)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0x10)  # F_SEAL_FUTURE_WRITE: what is mapped may be written still
        fail(
            kernels, space, "What the GPU alone had is lost: write pages of the host: Operation not permitted"
        )
        assert [set(np.unique(x)) for x in arrays] == [{7}, {3}, {7}]
    os.close(fd)


@pytest.mark.parametrize("helper_too", [False, True])
def test_a_keeper_that_was_killed(gpu, kernels, helper_too):
    """It can save nothing, so what is read afterwards is old; the error says so, whatever the helper's end."""
    space = gpu("bad=716")
    device, keeper = space.devices[0], keeper_of(space)
    with device:
        x = space.full(5000, 3, np.int32)
        fill(kernels, x, 7)
        assert not device.why_not_kept
        os.kill(keeper, signal.SIGKILL)
        wait_until(lambda: is_gone(keeper), "the keeper lives on")
        assert "hmmemu-keeper) has ended" in device.why_not_kept
        words = r"What the GPU alone had is lost: .*hmmemu-keeper\) has ended"
        if helper_too:
            os.kill(device.process.pid, signal.SIGKILL)
            with pytest.raises(hmm.DeviceError, match=words):
                fill(kernels, space.zeros(1, np.int32), 1)
        else:
            fail(kernels, space, words)
        assert (x == 3).all() and not device.why_not_kept
        fill(kernels, x, 8)
        assert (x == 8).all()
