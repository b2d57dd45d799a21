"""Arrays of a space with a GPU lie in a file that the helper has, too: their content stays there; on the stand-in."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

import hmmemu as hmm

SOURCE = r"""
extern "C" __global__ void add(int* x, const int* y, long long n, int value) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x)
    x[i] += y[i] + value;
}
"""
PAGE = 1024  # ints
PAGES = 1100  # more than two blocks


@pytest.fixture
def add():
    kernel = hmm.RawModule(SOURCE, filename="test_content_in_arena.cu").get_function("add")

    def launch(space, x, y, value, device=0):
        kernel((4,), (64,), (x, y, np.int64(x.size), np.int32(value)), device=space.devices[device])

    return launch


def file_pages(space):
    """How many pages the video memory file of the space's first device has."""
    return os.stat(f"/proc/self/fd/{space.devices[0].process.vram}").st_blocks * 512 // 4096


def test_no_copy_of_it_on_the_host(gpu, add):
    space = gpu("delay_us=100")
    x, y = (space.zeros(PAGES * PAGE, np.int32) for _ in range(2))
    x[:], y[:] = np.arange(x.size), 1
    for turn in range(1, 4):
        add(space, x, y, 1)
        assert np.array_equal(x, np.arange(x.size) + 2 * turn)
        y[:] = 1
    assert file_pages(space) == 0
    assert space.devices[0].crossings["direct_pages"] > 6 * PAGES // 2


def test_pages_that_nobody_touched_do_not_cross(gpu, add):
    space = gpu("delay_us=100")
    x, y = (space.zeros(PAGES * PAGE, np.int32) for _ in range(2))
    add(space, x, y, 7)
    assert space.devices[0].crossings["pages_to_gpu"] == 0
    assert (x == 7).all() and not y.any()


def test_scattered_pages_in_turn(gpu, add):
    space, random = gpu("delay_us=200", policy=hmm.Policy(grow=False)), np.random.default_rng(5)
    x, y = (space.zeros(PAGES * PAGE, np.int32) for _ in range(2))
    mirror = np.zeros(x.size, np.int32)
    for turn in range(6):
        pages = random.choice(PAGES, 130, replace=False)
        x.reshape(-1, PAGE)[pages, turn] = mirror.reshape(-1, PAGE)[pages, turn] = turn * 1000 + pages
        add(space, x, y, turn)
        mirror += turn
        chosen = random.choice(PAGES, 60, replace=False)
        assert np.array_equal(x.reshape(-1, PAGE)[chosen], mirror.reshape(-1, PAGE)[chosen])
    assert np.array_equal(x, mirror)


@pytest.mark.parametrize("writes_first", [False, True])
def test_merged_pages(gpu, add, writes_first):
    """A merged page's content is not in the file: it gets there before the GPU uses it."""
    space = gpu("delay_us=100")
    x, y = (space.zeros(100 * PAGE, np.int32) for _ in range(2))
    want = np.zeros(x.size, np.int32)
    for turn in range(3):
        x[:], y[:] = 3, 4
        want[:] = 3
        assert space.merge(x, y).merged > 100
        if writes_first:
            add(space, x, y, turn)
            want += 4 + turn
        add(space, y, x, 0)
        assert np.array_equal(y, 4 + want)
        assert np.array_equal(x, want)


def test_pages_that_are_merged_while_the_gpu_may_read_them(gpu, add):
    """Their content is not on the GPU yet, so it has to stay in the file."""
    space = gpu("delay_us=100")
    x, y, z = (space.zeros(100 * PAGE, np.int32) for _ in range(3))
    x[:], y[:] = 3, 3
    space.prefetch(x, space.devices[0])
    assert (x == 3).all()
    assert space.merge(x, y).merged > 100
    add(space, z, x, 0)
    assert (z == 3).all()


def test_an_array_in_the_place_of_one_that_is_gone(gpu, add):
    """Registered frames of the old one are not those of the new one."""
    space = gpu("delay_us=100")
    y = space.zeros(PAGES * PAGE, np.int32)
    places = set()
    for turn in range(1, 5):
        x = space.zeros(PAGES * PAGE, np.int32)
        places.add(x.ctypes.data)
        assert not x[::PAGE].any()
        x[::7] = turn
        add(space, x, y, 100)
        want = np.full(x.size, 100)
        want[::7] += turn
        assert np.array_equal(x, want)
        del x
    assert len(places) < 4


def test_discarded(gpu, add):
    space = gpu("delay_us=100")
    x, y = (space.zeros(PAGES * PAGE, np.int32) for _ in range(2))
    for turn in range(1, 4):
        x[:] = 5
        add(space, x, y, turn)
        space.synchronize()
        space.discard(x)
        add(space, x, y, turn)
        assert (x == turn).all()


def test_a_helper_that_dies_loses_nothing(gpu, add):
    space = gpu("delay_us=100")
    x, y = (space.zeros(PAGES * PAGE, np.int32) for _ in range(2))
    x[:], y[:] = np.arange(x.size), 1
    add(space, x, y, 0)
    space.synchronize()
    os.kill(space.devices[0].process.pid, signal.SIGKILL)
    with pytest.raises(hmm.DeviceError):
        for _ in range(100):
            add(space, y, x, 0)
            space.synchronize()
            time.sleep(0.05)
    assert np.array_equal(x, np.arange(x.size) + 1)
    y[:] = 1
    add(space, x, y, 0)  # the next helper
    assert np.array_equal(x, np.arange(x.size) + 2)


def test_a_fork_child_has_what_the_gpu_had(gpu, add):
    space = gpu("delay_us=100")
    x, y = (space.zeros(PAGES * PAGE, np.int32) for _ in range(2))
    add(space, x, y, 4)
    space.synchronize()
    child = os.fork()
    if child == 0:
        x[0] += 1
        os._exit(0 if x[0] == 5 and (x[1:] == 4).all() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    add(space, x, y, 4)
    assert (x == 8).all()


def test_more_than_the_gpu_may_hold(gpu, add):
    space = gpu("delay_us=100", device_memory=6 << 20)
    arrays = [space.zeros(400 * PAGE, np.int32) for _ in range(6)]
    want = np.zeros(6, int)
    for _ in range(2):
        for i in range(6):
            add(space, arrays[i], arrays[i - 1], 1)
            want[i] += want[i - 1] + 1
    for value, x in zip(want, arrays, strict=True):
        assert (x == value).all()
    assert file_pages(space) == 0


@pytest.mark.parametrize("device", ["cuda,emulated", "emulated,cuda"])
def test_a_gpu_and_an_emulated_device(gpu, add, device):
    space = gpu("delay_us=100", device=device)
    x, y = (space.zeros(60 * PAGE, np.int32) for _ in range(2))
    for turn in range(1, 4):
        for one in range(2):
            add(space, x, y, 1, one)
            add(space, y, x, 0, 1 - one)
            y[:] = 0
        assert (x == 2 * turn).all()


def test_closed_while_the_gpu_has_it(gpu, add):
    space = gpu("delay_us=100")
    x, y = (space.zeros(PAGES * PAGE, np.int32) for _ in range(2))
    add(space, x, y, 4)
    space.close()
    assert (x == 4).all()
    x += 1
    assert (x == 5).all()
