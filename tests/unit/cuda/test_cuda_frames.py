"""Where the CPU's frames lie that kernels on a GPU share: private memory, shared memory, files; on the stand-in for libcuda."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import tempfile
import threading

import numpy as np
import pytest

import hmmemu as hmm

SOURCE = r"""
extern "C" __global__ void add(unsigned* x, int times) {
  for (int i = 0; i < times; ++i) atomicAdd_system(x + threadIdx.x * 1024, 1u);
}
extern "C" __global__ void store(unsigned* x, unsigned value) { x[threadIdx.x * 1024 + 1] = value; }
"""
PAGES = 4
N = PAGES * 1024
HUGE = 2 << 20
MADV_REMOVE = 9
F_ADD_SEALS, F_SEAL_FUTURE_WRITE = 1033, 0x10


def of_memfd(flags, size, seals=0):
    fd = os.memfd_create("frames", flags)
    os.truncate(fd, size)
    memory = mmap.mmap(fd, size)
    if seals:
        fcntl.fcntl(fd, F_ADD_SEALS, seals)
    os.close(fd)
    return np.frombuffer(memory, np.uint32)[:N]


def private_file(folder):
    (folder / "file").write_bytes(bytes(4 * N))
    return np.memmap(folder / "file", np.uint32, "c")


def in_memory_file():
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.truncate(4 * N)
        return np.memmap(file, np.uint32, "r+", shape=N)


KINDS = {
    "private": lambda _: np.frombuffer(mmap.mmap(-1, 4 * N, flags=mmap.MAP_PRIVATE), np.uint32),
    "private file": private_file,
    "shared": lambda _: np.frombuffer(mmap.mmap(-1, 4 * N), np.uint32),
    "memfd": lambda _: of_memfd(0, 4 * N),
    "file": lambda _: in_memory_file(),
    "huge": lambda _: of_memfd(os.MFD_HUGETLB, HUGE),
}
NEEDED = {"huge": "huge_pages", "shared": "map_files"}  # fixtures that skip where the system does not give it


@pytest.fixture
def module():
    return hmm.RawModule(SOURCE, filename="frames.cu")


@pytest.fixture(params=KINDS)
def x(request, tmp_path):
    """Four pages, or a part of a huge one, full of sevens."""
    if needed := NEEDED.get(request.param):
        request.getfixturevalue(needed)
    memory = KINDS[request.param](tmp_path)
    memory[:] = 7
    return memory


def run(module, kernel, x, value, device, **options):
    module.get_function(kernel)(1, PAGES, (x, np.uint32(value)), device=device, **options)


def test_shared_and_the_gpus_in_turn(gpu, module, x):
    space = gpu("delay_us=100")
    for turn in range(1, 4):
        run(module, "add", x, 5, space.devices[0])
        assert set(space.residency(x)) == {"XR"}
        x[::1024] += 1
        run(module, "add", x, 5, space.devices[0])
        run(module, "store", x, turn, space.devices[0])
        assert set(space.residency(x)) == {"-X"}  # nothing is shared
        assert list(x[::1024]) == [7 + 11 * turn] * PAGES and list(x[1::1024]) == [turn] * PAGES
    assert list(x[2::1024]) == [7] * PAGES


def test_while_the_cpu_adds_too(gpu, module, x):
    space, stream = gpu("delay_us=100,kernel_us=20000"), hmm.Stream()
    run(module, "add", x, 3000, space.devices[0], stream=stream)
    threads = [
        threading.Thread(target=lambda: [hmm.atomic_add(x, 1024, 1) for _ in range(2000)]) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    stream.synchronize()
    assert list(x[::1024]) == [3007, 7007, 3007, 3007]


@pytest.mark.parametrize("device", ["cuda,emulated", "emulated,cuda"])
def test_by_a_gpu_and_an_emulated_device(gpu, module, x, device):
    space = gpu("delay_us=100", device=device, policy=hmm.Policy(grow=False))
    for both in (space.devices, space.devices[::-1]):
        for one in both:
            run(module, "add", x, 5, one)
            space.synchronize()
        assert set(space.residency(x)) == {"XRR"}
    streams = [hmm.Stream() for _ in space.devices]
    for one, stream in zip(space.devices, streams, strict=True):
        run(module, "add", x, 1000, one, stream=stream)
    for stream in streams:
        stream.synchronize()
    assert list(x[::1024]) == [7 + 4 * 5 + 2 * 1000] * PAGES and x[2] == 7


def test_what_a_gpu_does_not_share_and_another_device_does(gpu, module, x):
    space = gpu("delay_us=100", device="cuda,emulated")
    for turn in range(1, 4):
        run(module, "add", x, 5, space.devices[1])
        space.synchronize()
        run(module, "store", x, turn, space.devices[0])
    assert list(x[::1024]) == [22] * PAGES and list(x[1::1024]) == [3] * PAGES


def test_pages_of_all_kinds_in_one_block(gpu, module, tmp_path):
    """What is mapped for the GPU there is put together from several files."""
    memory = mmap.mmap(-1, 4 * HUGE, flags=mmap.MAP_PRIVATE)
    begin = np.frombuffer(memory, np.uint8).ctypes.data
    block = (begin + HUGE - 1) // HUGE * HUGE - begin
    private = np.frombuffer(memory, np.uint32, N, block)
    private[:] = 7
    space = gpu("delay_us=100")
    arrays = [private, np.frombuffer(memory, np.uint32, N, block + 4 * N + 4096)]
    arrays[1][:] = 7
    for turn in range(1, 4):
        for array in arrays:
            run(module, "add", array, 5, space.devices[0])
        run(module, "store", arrays[turn % 2], turn, space.devices[0])
    assert all(list(array[::1024]) == [22] * PAGES for array in arrays)
    assert arrays[0][1] == 2 and arrays[1][1] == 3


@pytest.mark.parametrize("kind", ["shared", "memfd", "file"])
def test_a_hole_that_the_program_makes_in_shared_pages(gpu, module, kind, request):
    """What was pinned for the GPU lives on for it alone, and nobody says so."""
    if needed := NEEDED.get(kind):
        request.getfixturevalue(needed)
    space, x = gpu("delay_us=100"), KINDS[kind](None)
    run(module, "add", x, 5, space.devices[0])
    for turn in range(1, 4):
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.madvise(ctypes.c_void_p(x.ctypes.data), ctypes.c_size_t(4096), MADV_REMOVE) == 0
        assert x[0] == 0
        x[0] = turn
        run(module, "add", x, 5, space.devices[0])
        assert list(x[::1024]) == [turn + 5] + [5 * (turn + 1)] * (PAGES - 1)


def test_pages_that_come_and_go_beside_shared_ones(gpu, module):
    """A launch beside them may have their block pinned again between the end of rights and that of frames."""
    memory = np.frombuffer(mmap.mmap(-1, 3 * HUGE, flags=mmap.MAP_PRIVATE), np.uint8)
    block = memory[-memory.ctypes.data % HUGE :][:HUGE].view(np.uint32)
    shared, others, stop = block[:N], block[2 * N : 3 * N], threading.Event()
    space = gpu("delay_us=0")
    space.register(block)

    launches, errors = [], []

    def share():
        stream = hmm.Stream()
        try:
            while not stop.is_set():
                run(module, "add", shared, 1, space.devices[0], stream=stream)
                stream.synchronize()
                launches.append(1)
        except hmm.Error as error:
            errors.append(error)

    thread = threading.Thread(target=share)
    thread.start()
    try:
        for turn in range(100):
            run(module, "store", others, turn, space.devices[0])
            assert list(others[1::1024]) == [turn] * PAGES
            space.discard(others)
    finally:
        stop.set()
        thread.join(60)
    assert not errors and list(shared[::1024]) == [len(launches)] * PAGES


def test_one_module_in_one_space_after_the_other(gpu, module):
    for _ in range(2):
        space, x = gpu("delay_us=100"), KINDS["private"](None)
        run(module, "add", x, 5, space.devices[0])
        assert list(x[::1024]) == [5] * PAGES
        space.close()


def test_memory_that_the_helper_may_not_write_moves(gpu, module):
    space = gpu("delay_us=100")
    x = of_memfd(os.MFD_ALLOW_SEALING, 4 * N, F_SEAL_FUTURE_WRITE)
    run(module, "add", x, 5, space.devices[0])
    assert set(space.residency(x)) == {"-X"}
    assert list(x[::1024]) == [5] * PAGES


def test_pages_of_a_file_on_a_disk_move(gpu, module, tmp_path):
    """Linux refuses to pin them, since 6.5; so they cannot be shared."""
    if os.statvfs(tmp_path).f_fsid == os.statvfs("/dev/shm").f_fsid:
        pytest.skip("the folder of temporary files is in memory")
    space = gpu("delay_us=100")
    x = np.memmap(tmp_path / "file", np.uint32, "w+", shape=N)
    for turn in range(1, 4):
        run(module, "add", x, 5, space.devices[0])
        assert set(space.residency(x)) == {"-X"}
        x[::1024] += 1
        assert list(x[::1024]) == [6 * turn] * PAGES
    space.close()
    x.flush()
    assert list(np.fromfile(tmp_path / "file", np.uint32)[::1024]) == [18] * PAGES


def test_what_cannot_be_registered_at_all_moves(gpu, module, x):
    space = gpu("delay_us=100,fail=cuMemHostRegister_v2:1:1:4000")
    for turn in range(1, 3):
        run(module, "add", x, 5, space.devices[0])
        assert set(space.residency(x)) == {"-X"} and list(x[::1024]) == [7 + 5 * turn] * PAGES


def test_registered_anew(gpu, module, x):
    space = gpu("delay_us=100")
    for turn in range(1, 4):
        run(module, "add", x, 5, space.devices[0])
        space.unregister(x)
        x[::1024] += 1
        assert list(x[::1024]) == [7 + 6 * turn] * PAGES


def test_a_helper_started_again_knows_the_frames(gpu, module, x):
    space = gpu("fail=cuLaunchKernel:1:3")
    run(module, "add", x, 5, space.devices[0])
    run(module, "add", x, 5, space.devices[0])
    with pytest.raises(hmm.DeviceError, match="cuLaunchKernel"):
        run(module, "add", x, 5, space.devices[0])
    run(module, "add", x, 5, space.devices[0])
    assert set(space.residency(x)) == {"XR"} and list(x[::1024]) == [22] * PAGES
