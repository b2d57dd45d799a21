"""Deleting, unregistering, closing, forking, leaving: pages come home first, in every order."""

from __future__ import annotations

import gc
import mmap
import multiprocessing
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import pytest
from forking import in_child
from running import run_python

import hmmemu as hmm


def numbers(n: int = 100_000) -> np.ndarray:
    return np.arange(n, dtype=np.int64)


def test_close_with_live_arrays() -> None:
    plain = numbers()
    with hmm.AddressSpace() as space:
        arena, registered = space.array(numbers()), space.register(plain)
        space.devices[0].migrate(arena)
        space.devices[0].migrate(registered)
    np.testing.assert_array_equal(arena, numbers())
    np.testing.assert_array_equal(registered, numbers())
    arena += 1  # plain memory, writable
    registered += 1
    with pytest.raises(hmm.SpaceClosedError):
        space.empty(3)


def test_space_deleted_before_its_arrays() -> None:
    space = hmm.AddressSpace()
    x = space.array(numbers())
    space.devices[0].migrate(x)
    space.close()
    del space
    gc.collect()
    np.testing.assert_array_equal(x, numbers())
    view = x[10:20]
    del x
    gc.collect()
    np.testing.assert_array_equal(view, numbers()[10:20])


def test_unregister_brings_home(space: hmm.AddressSpace) -> None:
    x = space.register(numbers())
    space.devices[0].migrate(x)
    space.unregister(x)
    np.testing.assert_array_equal(x, numbers())
    with pytest.raises(hmm.RangeError, match="not registered"):
        space.unregister(x)
    with pytest.raises(hmm.RangeError, match="not in the address space"):
        space.residency(x)


def test_neighbours_share_an_edge_page(space: hmm.AddressSpace) -> None:
    whole = np.zeros(40_000, np.uint8)
    middle = [whole[1000 + 9000 * i : 1000 + 9000 * (i + 1)] for i in range(4)]
    arrays = [np.frombuffer(memoryview(part), np.uint8) for part in middle]  # four roots on shared pages
    for i, array in enumerate(arrays):
        space.register(array)
        space.devices[0].write(array, i + 1)
    del arrays[1]
    middle[1][:] = 9
    space.devices[0].write(arrays[1], 7)
    space.unregister(arrays[0])
    expected = np.zeros_like(whole)
    for i, value in enumerate((1, 9, 7, 4)):
        expected[1000 + 9000 * i : 1000 + 9000 * (i + 1)] = value
    np.testing.assert_array_equal(whole, expected)


def test_thousands_of_small_arrays_on_the_heap(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    """Small arrays lie between Python objects of the interpreter: their pages are mirrored all the same."""
    add = kernels.get_function("add")
    kept = []
    for i in range(400):
        x = np.full(10 + i % 50, i, np.int32)
        add(1, 32, (x, x.size, 1))
        if i % 3 == 0:
            kept.append((i, x))
    for i, x in kept:
        assert (x == i + 1).all()


def test_memory_is_reused_and_fresh(space: hmm.AddressSpace) -> None:
    first = space.full(50_000, 7, np.int64)
    address = first.ctypes.data
    del first
    second = space.empty(50_000, np.int64)
    assert second.ctypes.data == address
    assert not second.any()


def test_two_spaces_at_once() -> None:
    with hmm.AddressSpace() as one, hmm.AddressSpace() as other:
        x, y = one.array(numbers()), other.array(numbers() * 2)
        one.devices[0].migrate(x)
        other.devices[0].migrate(y)
        np.testing.assert_array_equal(x * 2, y)


def test_memory_of_another_space_is_refused() -> None:
    """Each of two drivers would miss what the other one's devices write."""
    memory = mmap.mmap(-1, 2 * 4096)
    x, y = np.frombuffer(memory, np.int32, 64), np.frombuffer(memory, np.int32, 64, 2048)
    with hmm.AddressSpace() as one, hmm.AddressSpace() as other:
        one.register(x)
        for array in (x, y, one.zeros(5000)):
            with pytest.raises(hmm.UnsupportedError, match="belongs to another AddressSpace"):
                other.register(array)
        one.devices[0].write(x, 5)
        one.unregister(x)
        other.register(y)
        other.devices[0].write(y, 6)
        assert (x == 5).all() and (y == 6).all()


def test_memory_of_a_space_that_nobody_has_any_more() -> None:
    x = np.zeros(5000, np.int32)
    for i in range(3):
        space = hmm.AddressSpace()  # as in a notebook's cell that is run again
        space.register(x)
        space.devices[0].write(x, i)
    assert (x == 2).all()
    space.close()


def test_fork_while_pages_are_away(space: hmm.AddressSpace) -> None:
    x = space.array(numbers())
    untouched = space.zeros(10_000)
    space.devices[0].migrate(x)

    def child() -> bool:
        right = np.array_equal(x, numbers()) and not untouched.any()
        x[:] = 0  # the child's own copy
        with pytest.raises(hmm.SpaceClosedError):
            space.empty(1)
        assert "parent" in repr(space)
        return right

    assert in_child(child) == 0
    np.testing.assert_array_equal(space.devices[0].read(x), numbers())


def _square(i: int) -> int:
    return int(_SHARED[i]) ** 2


_SHARED: np.ndarray = np.zeros(0)


def test_multiprocessing_by_fork(space: hmm.AddressSpace) -> None:
    global _SHARED
    _SHARED = space.array(numbers(1000))
    space.devices[0].write(_SHARED, numbers(1000) + 1)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_square, range(1000)) == [(i + 1) ** 2 for i in range(1000)]
    assert int(_SHARED[10]) == 11


def test_leaving_the_interpreter_with_everything_open() -> None:
    done = run_python("""
        import atexit, numpy as np, hmmemu as hmm
        x = hmm.full(100000, 5)
        atexit.register(lambda: print(int(x.sum())))
        y = hmm.register(np.ones(100000))
        hmm.current_space().devices[0].migrate(x)
        hmm.current_space().devices[0].migrate(y)
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "500000\n", "")


def test_an_exception_at_top_level_ends_cleanly() -> None:
    done = run_python("""
        import hmmemu as hmm
        x = hmm.full(1000, 5)
        hmm.current_space().devices[0].migrate(x)
        raise SystemExit(int(x.sum()) == 5000 and 7)
    """)
    assert done.returncode == 7 and done.stderr == ""


def test_memory_that_goes_before_we_are_told(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    """numpy 2.5 frees an array's memory before weak references hear of it; here munmap does so with every numpy."""
    import ctypes
    import mmap

    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    size, flags = 64 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    for _ in range(5):
        address = libc.mmap(None, size, 3, flags, -1, 0)
        x = np.ctypeslib.as_array((ctypes.c_int * (size // 4)).from_address(address))
        x[:] = 5
        space.register(x)
        space.devices[0].migrate(x)
        assert libc.munmap(address, size) == 0
        space.unregister(x)
        again = libc.mmap(address, size, 3, flags, -1, 0)  # the kernel gives the same addresses to the next
        y = np.ctypeslib.as_array((ctypes.c_int * (size // 4)).from_address(again))
        assert not y.any()
        kernels.get_function("add")(4, 64, (y, y.size, 3))
        assert (y == 3).all()
        space.unregister(y)
        libc.munmap(again, size)


def test_large_arrays_come_and_go(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    for i in range(20):
        x = np.full(1 << 20, i, np.int32)  # above malloc's mmap threshold: the memory goes with the array
        kernels.get_function("add")(16, 256, (x, x.size, 1))
        space.devices[0].migrate(x)
        assert i % 2 or (x == i + 1).all()


def test_a_closed_space_holds_nothing(kernels: hmm.RawModule) -> None:
    """Its descriptors and its address space are given back without the help of Python's collector."""

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    gc.collect()
    gc.disable()
    try:
        before, devices = descriptors(), []
        for _ in range(3):
            with hmm.AddressSpace(timeout=60) as space:
                x = space.zeros(5000, np.int32)
                kernels.get_function("add")(4, 64, (x, x.size, 1))
                space.dirty(space.register(np.ones(5000)))
                space.snapshot_of(x)
            devices.append(weakref.ref(space.devices[0]))
            last = space.devices[0]
            del space
        assert descriptors() <= before + 11  # those of the device that `last` keeps
        assert [device() is None for device in devices] == [True, True, False]
        with pytest.raises(hmm.SpaceClosedError):
            last.read(x)
    finally:
        gc.enable()


def test_a_closed_space_says_so() -> None:
    space = hmm.AddressSpace()
    x, plain, device = space.full(5000, 7, np.int32), np.ones(5), space.devices[0]
    protection = space.protect(x, type("Ear", (), {"on_write": lambda self, pages: None})())
    space.register(plain)
    for _ in range(2):
        space.close()
    calls: list[Callable[[], object]] = [
        lambda: space.zeros(3),
        lambda: space.register(np.ones(5)),
        lambda: space.unregister(plain),
        lambda: space.prefetch(x, hmm.cpu),
        lambda: space.discard(x),
        lambda: space.residency(x),
        lambda: space.dirty(x),
        lambda: space.snapshot_of(x),
        lambda: space.merge(x),
        lambda: space.record(x, 0),
        lambda: space.stats(),
        lambda: space.synchronize(),
        lambda: device.read(x),
        lambda: device.write(x, 1),
        lambda: device.synchronize(),
        lambda: protection.flush(),
        lambda: space.__enter__(),
    ]
    for call in calls:
        with pytest.raises(hmm.SpaceClosedError, match="is closed"):
            call()
    protection.arm()
    protection.drop()
    assert "closed" in repr(space) and (x == 7).all()


def test_what_another_thread_has_entered_is_left() -> None:
    """A generator, say, that was begun in one thread and ends in another."""
    contexts, spaces = ExitStack(), []

    def enter() -> None:
        spaces.append(contexts.enter_context(hmm.AddressSpace()))
        contexts.enter_context(spaces[0].devices[0])

    with hmm.AddressSpace() as outer:
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        assert spaces[0].session.open
        contexts.close()
        assert not spaces[0].session.open and hmm.current_space() is outer


def test_closing_while_other_threads_use_the_space() -> None:
    """Their calls work or say that the space is closed; nobody waits for ever, stores are kept."""

    def register_some() -> None:
        space.register(np.ones(5000))

    def protect_some() -> None:
        with space.protect(x, Listener()) as protection:
            protection.flush()

    def use(action: Callable[[], object]) -> None:
        while not stop.is_set():
            try:
                action()
            except hmm.Error:  # closed, or the device has ended
                pass
            except BaseException as error:
                failures.append(error)

    class Listener:
        def on_write(self, pages: hmm.WrittenPages) -> None:
            pass

    failures: list[BaseException] = []
    for _ in range(5):
        stop = threading.Event()
        space = hmm.AddressSpace(timeout=60)
        x, mine = space.zeros(1 << 16, np.int32), space.zeros(1 << 16, np.int32)
        device = space.devices[0]
        actions = (
            lambda x=x: x[::512].sum(),
            lambda x=x, device=device: device.write(x, 3),
            lambda x=x, device=device, space=space: space.prefetch(x, device),
            lambda x=x, space=space: space.dirty(x),
            lambda x=x, space=space: space.snapshot_of(x).drop(),
            lambda space=space: space.zeros(1000).fill(1),
            register_some,
            protect_some,
        )
        threads = [threading.Thread(target=use, args=(action,)) for action in actions]
        for thread in threads:
            thread.start()
        for i in range(200):
            mine[i * 300] = i + 1
        space.close()
        np.testing.assert_array_equal(mine[: 200 * 300 : 300], np.arange(1, 201))
        time.sleep(0.02)
        stop.set()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
    assert not failures


DAEMON = """
import sys, threading
import numpy as np, hmmemu as hmm

space = hmm.AddressSpace(device="emulated", timeout=60)
x, started = space.zeros(1024, np.int32), threading.Event()
add = hmm.RawKernel('extern "C" __global__ void add(int* x) { x[threadIdx.x] += 1; }', "add")

def launch_for_ever():
    with space:
        while True:
            add(1, 64, (x,))
            started.set()

for _ in range(3):
    threading.Thread(target=launch_for_ever, daemon=True).start()
assert started.wait(60)
print("done")
"""


def test_daemon_threads_that_launch_when_the_program_ends() -> None:
    """CPython ends them where they ask for its lock: in our C++, which they may not be unwound through."""
    for _ in range(3):
        done = run_python(DAEMON, timeout=100)
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
        assert "terminate" not in done.stderr
