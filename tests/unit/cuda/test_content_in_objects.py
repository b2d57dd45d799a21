"""Shared memory and a GPU: its content stays in the object that the pages show, and the helper reads and writes it there;
on the stand-in for libcuda.
"""

from __future__ import annotations

import gc
import mmap
import os
import signal
import time
from multiprocessing import shared_memory

import numpy as np
import pytest

import hmmemu as hmm

SOURCE = r"""
extern "C" __global__ void add(int* x, const int* y, long long n, int value) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x)
    x[i] += y[i] + value;
}
extern "C" __global__ void share(unsigned* x) { atomicAdd_system(x + threadIdx.x * 1024, 1u); }
"""
PAGE = 1024  # ints
PAGES = 700  # more than a block


@pytest.fixture
def kernels():
    return hmm.RawModule(SOURCE, filename="test_content_in_objects.cu")


def of_memfd(pages=PAGES):
    """An array in shared memory, and another view of its object, which hmmemu knows nothing of."""
    fd = os.memfd_create("content")
    os.truncate(fd, 4096 * pages)
    own, other = (np.frombuffer(mmap.mmap(fd, 4096 * pages), np.int32) for _ in range(2))
    os.close(fd)
    return own, other


def add(space, kernels, x, y, value, device=0):
    kernels.get_function("add")(
        (4,), (64,), (x, y, np.int64(x.size), np.int32(value)), device=space.devices[device]
    )


def helper_of(space):
    return space.devices[0].process.pid


def file_pages(space):
    """How many pages the video memory file of the space's first device has."""
    link = f"/proc/self/fd/{space.devices[0].process.vram}"
    return os.stat(link).st_blocks * 512 // 4096


def test_the_object_has_it_and_nothing_else_of_the_host(gpu, kernels):
    space = gpu("delay_us=100")
    (x, there), (y, _) = of_memfd(), of_memfd()
    x[:], y[:] = 1, 2
    for turn in range(1, 4):
        add(space, kernels, x, y, 10)
        space.synchronize()
        assert there[0] == 1 + 12 * (turn - 1)  # the GPU alone has what is newer
        assert x[0] == 1 + 12 * turn and (x == 1 + 12 * turn).all()
        assert np.array_equal(x, there)
    assert file_pages(space) == 0


def punch(x, first, count):
    """The program frees pages of the object, which read as zeros from then on."""
    memory = x.base if isinstance(x.base, mmap.mmap) else x.base.obj
    memory.madvise(mmap.MADV_REMOVE, 4096 * first, 4096 * count)


@pytest.mark.parametrize("fails", ["", "fail=cuMemHostRegister_v2:1"])
def test_long_runs_cross_without_a_buffer(gpu, kernels, fails):
    space = gpu(f"delay_us=100,{fails}")
    (x, there), (y, _) = of_memfd(), of_memfd()
    x[:] = np.arange(x.size)
    before = space.devices[0].crossings
    for turn in range(1, 4):
        add(space, kernels, x, y, 1)
        assert np.array_equal(x, np.arange(x.size) + turn)
        x[:] = there
    after = space.devices[0].crossings
    crossed = sum(after[way] - before[way] for way in ("pages_to_gpu", "pages_home"))
    assert crossed >= 6 * PAGES
    direct = after["direct_pages"] - before["direct_pages"]
    assert direct == 0 if fails else direct >= crossed - 6 * 32  # short runs at the ends of blocks


@pytest.mark.parametrize("device_has_it", [False, True])
def test_frames_that_the_program_frees(gpu, kernels, device_has_it):
    """What was registered for copies is not the object's any more then."""
    space = gpu("delay_us=100", policy=hmm.Policy(grow=False))
    (x, there), (y, _) = of_memfd(), of_memfd()
    mirror = x.copy()
    for turn in range(1, 5):
        x[:] = mirror[:] = turn
        add(space, kernels, x, y, 1)
        mirror += 1
        if not device_has_it:
            assert np.array_equal(x, mirror)
            x[:] = mirror  # the CPU's alone
            punch(x, 100, 300)
            mirror.reshape(-1, PAGE)[100:400] = 0
            x.reshape(-1, PAGE)[150:350:2] += turn
            mirror.reshape(-1, PAGE)[150:350:2] += turn
        else:
            space.synchronize()
            punch(there, 100, 300)  # what the GPU has comes home to new frames
        add(space, kernels, x, y, 1)
        mirror += 1
        assert np.array_equal(x, mirror) and np.array_equal(there, mirror)
    assert space.devices[0].crossings["direct_pages"] > 2000


def test_what_the_cpu_changes_and_what_the_gpu_changes_in_turn(gpu, kernels):
    space, random = gpu("delay_us=200", policy=hmm.Policy(grow=False)), np.random.default_rng(3)
    (x, there), (y, _) = of_memfd(), of_memfd()
    mirror = x.copy()
    for turn in range(6):
        pages = random.choice(PAGES, 90, replace=False)
        x.reshape(-1, PAGE)[pages, turn] = mirror.reshape(-1, PAGE)[pages, turn] = turn * 1000 + pages
        before = space.devices[0].crossings
        add(space, kernels, x, y, turn)
        mirror += turn
        chosen = random.choice(PAGES, 50, replace=False)
        assert np.array_equal(x.reshape(-1, PAGE)[chosen], mirror.reshape(-1, PAGE)[chosen])
        crossed = space.devices[0].crossings["pages_to_gpu"] - before["pages_to_gpu"]
        assert turn == 0 or crossed <= 90 + 50 + 90
    assert np.array_equal(x, mirror) and np.array_equal(there, mirror)
    assert file_pages(space) == 0


def test_an_unaligned_part_of_an_object_and_two_parts_of_one(gpu, kernels):
    """Offsets in the object are none of the addresses; one run of pages may lie in several places."""
    space = gpu("delay_us=100")
    fd = os.memfd_create("parts")
    os.truncate(fd, 4096 * 64)
    room = mmap.mmap(-1, 4096 * 48, flags=mmap.MAP_PRIVATE)
    address = np.frombuffer(room, np.uint8).ctypes.data
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, *[ctypes.c_long] * 5]
    for part, offset in ((0, 40), (16, 8), (32, 24)):  # pages of the array, pages of the object
        at = libc.mmap(address + 4096 * part, 4096 * 16, 3, mmap.MAP_SHARED | 0x10, fd, 4096 * offset)
        assert at == address + 4096 * part
    x, y = np.frombuffer(room, np.int32), np.zeros(48 * PAGE, np.int32)
    object_pages = np.frombuffer(mmap.mmap(fd, 4096 * 64), np.int32).reshape(-1, PAGE)
    x[:] = np.arange(x.size)
    for _ in range(2):
        add(space, kernels, x, y, 5)
    assert np.array_equal(x, np.arange(x.size) + 10)
    for part, offset in ((0, 40), (16, 8), (32, 24)):
        assert np.array_equal(object_pages[offset : offset + 16], x.reshape(-1, PAGE)[part : part + 16])
    os.close(fd)


def test_two_mappings_of_one_object(gpu, kernels):
    space = gpu("delay_us=100")
    x, second = of_memfd(40)
    y = np.zeros(40 * PAGE, np.int32)
    space.register(second)
    for turn in range(3):
        add(space, kernels, x, y, 1)
        assert (second == 3 * turn + 1).all()
        add(space, kernels, second, y, 1)
        x[:] += 1
    assert (x == 9).all() and (second == 9).all() and file_pages(space) <= 41  # y


@pytest.mark.parametrize("device", ["cuda,emulated", "emulated,cuda"])
def test_a_gpu_and_an_emulated_device(gpu, kernels, device):
    space = gpu("delay_us=100", device=device, policy=hmm.Policy(grow=False))
    (x, there), (y, _) = of_memfd(40), of_memfd(40)
    for turn in range(1, 4):
        for one in range(2):
            add(space, kernels, x, y, 1, one)
            add(space, kernels, y, x, 0, 1 - one)
            y[:] = 0
        assert x[5] == 2 * turn and (x == 2 * turn).all() and (there == 2 * turn).all()


def test_a_helper_that_dies_loses_nothing(gpu, kernels):
    space = gpu("delay_us=100")
    (x, there), (y, _) = of_memfd(), of_memfd()
    x[:], y[:] = np.arange(x.size), 1
    add(space, kernels, x, y, 0)
    space.synchronize()
    assert there[0] == 0
    os.kill(helper_of(space), signal.SIGKILL)
    with pytest.raises(hmm.DeviceError):
        for _ in range(100):
            add(space, kernels, y, x, 0)
            space.synchronize()
            time.sleep(0.05)
    assert np.array_equal(x, np.arange(x.size) + 1) and np.array_equal(there, x)
    y[:] = 1
    add(space, kernels, x, y, 0)  # the next helper
    assert np.array_equal(x, np.arange(x.size) + 2)


def test_more_than_the_gpu_may_hold(gpu, kernels):
    space = gpu("delay_us=100", device_memory=6 << 20)
    arrays = [of_memfd(512) for _ in range(5)]
    for _ in range(2):
        for i, (x, _) in enumerate(arrays):
            add(space, kernels, x, arrays[i - 1][0], 1)
    want = np.zeros(5, int)
    for _ in range(2):
        for i in range(5):
            want[i] += want[i - 1] + 1
    for value, (x, there) in zip(want, arrays, strict=True):
        assert (x == value).all() and (there == value).all()
    assert file_pages(space) == 0


def test_discarded_pages_are_zeros(gpu, kernels):
    space = gpu("delay_us=100")
    (x, there), (y, _) = of_memfd(), of_memfd()
    x[:] = 5
    add(space, kernels, x, y, 1)
    space.synchronize()
    space.discard(x)
    assert not there.any()
    add(space, kernels, x, y, 3)
    assert (x == 3).all() and (there == 3).all()


def test_what_others_put_into_discarded_pages(gpu, kernels):
    """The GPU sees what the CPU would see."""
    space = gpu("delay_us=100")
    (x, there), (y, _) = of_memfd(), of_memfd()
    space.register(x)
    space.discard(x)
    there[7 * PAGE] = 9
    add(space, kernels, x, y, 1)
    assert x[7 * PAGE] == 10 and x[0] == 1 and (x == 1).sum() == x.size - 1


def test_beside_memory_that_a_kernel_shares(gpu, kernels):
    """Where a block is the CPU's own memory, its pages are the object's."""
    space = gpu("delay_us=100")
    fd = os.memfd_create("block")
    os.truncate(fd, 8 << 20)
    whole = np.frombuffer(mmap.mmap(fd, 8 << 20), np.int32)
    there = np.frombuffer(mmap.mmap(fd, 8 << 20), np.int32)
    os.close(fd)
    first = -whole.ctypes.data // 4 % (512 * PAGE)
    x, flags = whole[first : first + 100 * PAGE], whole[first + 200 * PAGE : first + 204 * PAGE]
    y = np.ones(x.size, np.int32)
    shared = kernels.get_function("share")
    for turn in range(1, 5):
        shared(1, 4, (flags.view(np.uint32),), device=space.devices[0])
        add(space, kernels, x, y, 0)  # over the link, or put back
        if turn % 2:
            shared(1, 4, (flags.view(np.uint32),), device=space.devices[0])
            assert (x == turn).all()
    assert list(flags[::PAGE]) == [6] * 4 and (x == 4).all()
    space.synchronize()
    assert np.array_equal(whole, there)


def test_unregistered_and_freed(gpu, kernels):
    space = gpu("delay_us=100")
    memory = shared_memory.SharedMemory(create=True, size=4096 * 40)
    try:
        x, y = np.frombuffer(memory.buf, np.int32), np.ones(40 * PAGE, np.int32)
        for turn in range(1, 4):
            add(space, kernels, x, y, 0)
            space.unregister(x)
            assert (x == turn).all()
            other = shared_memory.SharedMemory(memory.name)
            there = np.frombuffer(other.buf, np.int32)
            assert (there == turn).all()
            del there
            other.close()
        del x
        gc.collect()
    finally:
        memory.close()
        memory.unlink()


def test_fork_sees_it(gpu, kernels):
    space = gpu("delay_us=100")
    (x, there), (y, _) = of_memfd(40), of_memfd(40)
    add(space, kernels, x, y, 4)
    space.synchronize()
    child = os.fork()
    if child == 0:
        os._exit(0 if (x == 4).all() and (there == 4).all() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    add(space, kernels, x, y, 4)
    assert (x == 8).all()


def test_what_others_store_in_merged_pages(gpu, kernels):
    """A GPU that only reads such a page changes nothing in its object."""
    space = gpu("delay_us=100")
    x, other = of_memfd(64)
    x[:] = 3
    space.register(x)
    assert space.merge(x).merged == 64
    other[5] = 99
    add(space, kernels, space.zeros(x.size, np.int32), x, 0)
    space.synchronize()
    assert other[5] == 99 and (other[6:] == 3).all()


def test_an_object_that_becomes_shorter_stays_so(gpu, kernels):
    space = gpu("delay_us=100")
    fd = os.memfd_create("shorter")
    os.truncate(fd, 4096 * 8)
    x, y = np.frombuffer(mmap.mmap(fd, 4096 * 8), np.int32), np.ones(8 * PAGE, np.int32)
    add(space, kernels, x, y, 0)
    space.synchronize()
    os.truncate(fd, 4096 * 4)
    assert (x[: 4 * PAGE] == 1).all()
    assert os.fstat(fd).st_size == 4096 * 4
    os.close(fd)
    space.close()  # with pages on the GPU that have no place any more
