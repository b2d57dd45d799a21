"""Fallback `exclusive`: what the link lacks is done on the CPU's own frame, of which the CPU loses its mapping meanwhile."""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import pytest

import hmmemu as hmm
from hmmemu import trackers

SOURCE = r"""
extern "C" __global__ void most(unsigned* x, unsigned value) { atomicMax_system(x + threadIdx.x * 1024, value); }
extern "C" __global__ void add(unsigned* x, unsigned value) { atomicAdd_system(x + threadIdx.x * 1024, value); }
extern "C" __global__ void store(unsigned* x, unsigned value) { x[threadIdx.x * 1024] = value; }
extern "C" __global__ void fail(unsigned* x) { if (atomicMax_system(x, 77u) < 77u) __trap(); }
extern "C" __global__ void turns(unsigned* x, volatile unsigned* stop, unsigned* done) {
  unsigned n = 0;
  for (; !*stop; ++n) atomicInc_system(x, 0xffffffffu);
  *done = n;
}
"""
PAGES = 4
N = PAGES * 1024


@pytest.fixture(scope="module")
def module() -> hmm.RawModule:
    return hmm.RawModule(SOURCE, filename="exclusive.cu")


@pytest.fixture
def one_by_one() -> Iterator[hmm.AddressSpace]:
    policy = hmm.Policy(grow=False)
    with hmm.AddressSpace(timeout=60, fallback="exclusive", policy=policy) as space:
        yield space


@pytest.fixture(params=["arena", "heap"])
def x(request: pytest.FixtureRequest, one_by_one: hmm.AddressSpace) -> np.ndarray:
    """Four pages of the CPU's."""
    arena = request.param == "arena"
    made = one_by_one.zeros(N, np.uint32) if arena else one_by_one.register(np.zeros(2 * N, np.uint32))
    start = -made.ctypes.data % 4096 // 4
    pages: np.ndarray = made[start : start + N]
    pages[:] = 7
    return pages


def residency(x: np.ndarray) -> list[str]:
    space = hmm.current_space()
    space.synchronize()
    return [str(code) for code in space.residency(x)]


def run(module: hmm.RawModule, kernel: str, x: np.ndarray, value: int, pages: int = PAGES) -> None:
    module.get_function(kernel)(1, pages, (x, np.uint32(value)))


def test_no_content_moves(one_by_one: hmm.AddressSpace, module: hmm.RawModule, x: np.ndarray) -> None:
    run(module, "most", x, 1000)
    assert residency(x) == ["-R"] * PAGES
    assert one_by_one.session.device_bytes(1) == 0
    one_by_one.reset_stats()
    for turn in range(1, 4):
        assert x[0] == 1000 * turn and x[1] == 7  # a fault each
        x[1024] = turn
        assert residency(x) == ["XR", "XR", "-R", "-R"]
        run(module, "most", x, 1000 * turn + 1000)
        run(module, "add", x, 0)  # the link has it: in place
        run(module, "store", x[2048:], 9, 2)  # plain
        assert residency(x) == ["-R"] * PAGES
        stats = one_by_one.stats()
        cpu, device = stats.processors
        assert not stats.transfers and device.remote_pages == 0
        assert device.exclusive_pages == 2 * turn and cpu.faults == 2 * turn
    assert list(x[::1024]) == [4000, 4000, 9, 9]


def test_where_the_page_was_before(
    one_by_one: hmm.AddressSpace, module: hmm.RawModule, x: np.ndarray
) -> None:
    device = one_by_one.devices[0]
    one_by_one.prefetch(x[:1024], device)  # the device's own: it stays there
    one_by_one.prefetch(x[1024:2048], device, write=False)
    run(module, "add", x[2048:], 1, 1)
    assert residency(x) == ["-X", "SS", "XR", "X-"]
    run(module, "most", x, 50)
    assert residency(x) == ["-X", "-R", "-R", "-R"]
    assert list(x[::1024]) == [50] * PAGES and list(x[1::1024]) == [7] * PAGES
    untouched = one_by_one.zeros(N, np.uint32)
    run(module, "most", untouched, 50)
    assert residency(untouched) == ["-R"] * PAGES
    assert untouched.sum() == 50 * PAGES


def test_everything_else_that_wants_the_page(
    one_by_one: hmm.AddressSpace, module: hmm.RawModule, x: np.ndarray
) -> None:
    device = one_by_one.devices[0]

    def exclude(value: int) -> None:
        run(module, "most", x, value)
        assert set(residency(x)) == {"-R"}

    exclude(10)
    assert (device.read(x)[::1024] == 10).all()  # the device has it
    device.write(x, np.full(N, 11, np.uint32))
    assert residency(x) == ["-R"] * PAGES and (x == 11).all()
    exclude(20)
    one_by_one.prefetch(x, device)
    assert residency(x) == ["-X"] * PAGES and (x[::1024] == 20).all()
    one_by_one.prefetch(x, hmm.cpu)
    exclude(30)
    one_by_one.prefetch(x, hmm.cpu)
    assert residency(x) == ["XR"] * PAGES and (x[::1024] == 30).all()
    exclude(40)
    frozen, log = one_by_one.snapshot_of(x), one_by_one.dirty(x)
    assert residency(x) == ["S-"] * PAGES and len(log) <= PAGES
    exclude(50)
    assert (np.asarray(frozen)[::1024] == 40).all() and len(one_by_one.dirty(x)) == PAGES
    one_by_one.merge(x)
    exclude(60)
    one_by_one.discard(x)
    assert not x.any()


def test_a_child_has_the_pages_and_so_has_a_system_call(
    one_by_one: hmm.AddressSpace, module: hmm.RawModule, x: np.ndarray
) -> None:
    run(module, "most", x, 10)
    one_by_one.synchronize()
    child = os.fork()
    if child == 0:
        os._exit(0 if (x[::1024] == 10).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
    run(module, "most", x, 20)
    one_by_one.synchronize()
    with tempfile.TemporaryFile(buffering=0) as file:
        if not trackers.probe(one_by_one.tracker).system_calls:  # they say so
            with pytest.raises(OSError, match="Bad address"):
                file.write(x.data)
            one_by_one.prefetch(x, hmm.cpu)
        assert file.write(x.data) == x.nbytes
        file.seek(0)
        assert (np.frombuffer(file.read(), np.uint32)[::1024] == 20).all()


def test_the_end_of_everything(module: hmm.RawModule) -> None:
    with hmm.AddressSpace(timeout=60, fallback="exclusive") as space:
        x, y, z = space.full(N, 7, np.uint32), np.full(4 * N, 7, np.uint32), np.full(4 * N, 7, np.uint32)
        for array in (x, y, z):
            run(module, "most", array, 10)
        space.synchronize()
        space.unregister(z)
        assert z[0] == 10
        with pytest.raises(hmm.KernelError, match="trap"):
            module.get_function("fail")(1, 1, (y,))
        assert y[0] == 77 and x[0] == 10  # the device is a new one
        run(module, "most", x, 90)
    assert x[0] == 90 and y[1024] == 10
    x[:], y[:], z[:] = 1, 1, 1


def test_devices_take_turns(module: hmm.RawModule) -> None:
    with hmm.AddressSpace(devices=2, timeout=60, fallback="exclusive") as space:
        x = space.zeros(N, np.uint32)
        for turn in range(1, 9):
            with space.devices[turn % 2]:
                run(module, "most", x, turn)
            assert set(residency(x)) == {("-R-", "--R")[turn % 2]}
        assert list(x[::1024]) == [8] * PAGES


def test_pages_that_the_program_unmaps(module: hmm.RawModule) -> None:
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    apart = 0x2000_0000_0000  # far from where the kernel puts mappings: nobody else fills the hole
    at = libc.mmap(apart, 4 * N, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    x = np.ctypeslib.as_array((ctypes.c_uint32 * N).from_address(at))
    with hmm.AddressSpace(timeout=60, fallback="exclusive") as space:
        run(module, "most", x, 10)
        space.synchronize()
        libc.munmap(at + 4096, 4096)
        with pytest.raises(hmm.RangeError):
            space.prefetch(x[1024:2048], space.devices[0])
        with pytest.raises(hmm.KernelError):
            run(module, "most", x[1024:], 20, 1)
        run(module, "most", x[2048:], 20, 2)
        assert x[0] == 10 and list(x[2048::1024]) == [20, 20]
    libc.munmap(at, 4 * N)


@pytest.mark.parametrize("fallback", ["migrate", "exclusive"])
def test_both_sides_go_on(module: hmm.RawModule, fallback: str) -> None:
    """A kernel and the CPU write words of one page as fast as they can: neither loses a store, or waits for good."""
    with hmm.AddressSpace(timeout=60, fallback=fallback) as space:
        x, stop, done = (space.zeros(n, np.uint32) for n in (1024, 1, 1))
        module.get_function("add")(1, 1, (stop, np.uint32(0)))  # remote: both see it
        counted = [0]
        with hmm.Stream() as stream:
            module.get_function("turns")(1, 1, (x, stop, done))
            count, end = 0, time.perf_counter() + 0.4
            while time.perf_counter() < end or (counted[-1] == 0 and time.perf_counter() < end + 60):
                x[1] += 1
                count += 1
                if count % 1000 == 0:
                    counted.append(int(x[0]))
            counted.append(int(x[0]))
            stop[0] = 1
            stream.synchronize()
        assert x[1] == count and x[0] == done[0]
        assert counted == sorted(counted) and counted[-1] > 0 and count > 0
