"""A second mapping of memory that a kernel is using comes, or goes: nobody waits for the kernel but who needs what it
writes, and that is read through every mapping.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from forking import in_child
from several_views import INTS, KINDS, PAGES, SIZE, Views, numbers
from waiting import wait_until

import hmmemu as hmm
from hmmemu import file_parts, mappings, registry

SOURCE = r"""
extern "C" __global__ void step(int* x, long long n, volatile int* begun, volatile int* go_on) {
  x[0] += 1;
  begun[0] = 1;
  while (!go_on[0]) {}
  for (long long i = 1; i < n; ++i) x[i] += 1;
}
"""
APART = 0x2000_0000_0000  # far from where the kernel puts mappings: nobody else fills a hole there

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]


@pytest.fixture(scope="module")
def kernel() -> hmm.RawKernel:
    return hmm.RawKernel(SOURCE, "step")


@pytest.fixture(params=KINDS[:3])
def views(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Views]:
    made = Views(request.param, tmp_path / "data")
    yield made
    made.close()


class Step:
    """`step` over all of an array, which has begun, and goes on when it is told to."""

    def __init__(self, space: hmm.AddressSpace, kernel: hmm.RawKernel, x: np.ndarray) -> None:
        self.x, self.go_on, self.stream = x, space.zeros(1, np.int32), hmm.Stream()
        begun = space.zeros(INTS + 1, np.int32)[INTS:]  # on another page
        kernel((1,), (1,), (x, np.int64(x.size), begun, self.go_on), stream=self.stream)
        wait_until(lambda: begun[0], "the kernel has not begun")

    def end(self) -> None:
        self.go_on[0] = 1
        self.stream.synchronize()


@pytest.fixture
def step(space: hmm.AddressSpace, kernel: hmm.RawKernel, views: Views) -> Step:
    """It makes 1, 2, 3, ... of 0, 1, 2, ..."""
    x = views.another()
    x[:] = numbers()
    return Step(space, kernel, x)


def test_registered(space: hmm.AddressSpace, step: Step, views: Views) -> None:
    y, z = views.another(), views.another()
    space.register(y)
    assert set(space.residency(y)) == {"--"} and not step.stream.done
    step.end()
    space.register(z)
    for x in (step.x, y, z):
        np.testing.assert_array_equal(x, numbers() + 1)


def test_used_by_both_sides(
    space: hmm.AddressSpace, step: Step, views: Views, kernels: hmm.RawModule
) -> None:
    """What the kernel has is taken from it in the middle, and comes again."""
    y, z = views.another(), views.another()
    space.register(y)
    y[5] = 100  # which the kernel has not come to
    assert y[0] == 1
    add = kernels.get_function("add")
    add((1,), (64,), (z, np.int64(z.size), np.int32(1000)), stream=step.stream)  # the launch registers it
    step.end()
    want = numbers() + 1001
    want[5] = 1101
    for x in (step.x, y, z):
        np.testing.assert_array_equal(x, want)


@pytest.mark.parametrize("how", ["unregister", "delete", "discard"])
def test_ends_again(space: hmm.AddressSpace, step: Step, views: Views, how: str) -> None:
    y = views.another()
    space.register(y)
    y[INTS] = -1
    want = numbers() + 1
    want[INTS] = 0
    if how == "unregister":
        space.unregister(y)
    elif how == "discard":
        space.discard(y)
        want[:] = 1
        want[0] = 0
    del y
    gc.collect()
    step.end()
    np.testing.assert_array_equal(step.x, want)
    np.testing.assert_array_equal(views.another(), want)


@pytest.mark.parametrize("views", ["memfd"], indirect=True)
@pytest.mark.parametrize("how", [libc.munmap, libc.mremap], ids=["unmapped", "moved"])
def test_is_gone(space: hmm.AddressSpace, step: Step, views: Views, how: Callable[..., int]) -> None:
    """Without a word to us, and without harm to the other mapping."""
    at = libc.mmap(APART, SIZE, 3, mmap.MAP_SHARED, views.fd, 0)
    y = np.ctypeslib.as_array((ctypes.c_int * (PAGES * INTS)).from_address(at))
    space.register(y)
    y[INTS] = -1
    space.devices[0].write(y[2 * INTS : 4 * INTS], -2)
    arguments = (at, SIZE) if how is libc.munmap else (at, SIZE, SIZE, 1 | 2, APART + (1 << 30))
    moved = how(*arguments)
    step.end()
    want = numbers() + 1
    want[INTS], want[2 * INTS : 4 * INTS] = 0, -1
    np.testing.assert_array_equal(step.x, want)
    space.unregister(y)
    step.x[INTS] = 7
    assert space.devices[0].read(step.x)[INTS] == 7
    if moved:
        libc.munmap(moved, SIZE)


def test_forks_meanwhile(space: hmm.AddressSpace, step: Step, views: Views) -> None:
    """The child has all mappings as they were, however far the registration of one had come."""
    others = [views.another() for _ in range(6)]

    def register() -> None:
        for y in others:
            space.register(y)

    thread = threading.Thread(target=register)
    thread.start()
    for _ in range(4):
        assert in_child(lambda: step.x[0] == 1 and step.x[-1] == numbers()[-1]) == 0
    thread.join(60)
    assert not thread.is_alive()
    step.end()
    for y in others:
        np.testing.assert_array_equal(y, numbers() + 1)


def test_another_registration_ends_meanwhile(
    space: hmm.AddressSpace, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pages, which nobody had looked at, are looked at then."""
    x = views.another()
    x[:] = numbers()
    part = np.frombuffer(memoryview(x), np.int32)[: 5 * INTS]
    space.register(x)
    ends = [x]

    def parts_of(mappings: list[mappings.Mapping]) -> list[file_parts.FilePart]:
        if ends:
            space.unregister(ends.pop())
        return file_parts.parts_of(mappings)

    monkeypatch.setattr(registry, "parts_of", parts_of)
    space.register(part)
    assert not ends
    space.devices[0].write(part, -1)
    assert (views.another()[: 5 * INTS] == numbers()[: 5 * INTS]).all()  # as of shared memory
    assert (part == -1).all() and (views.another()[: 5 * INTS] == -1).all()
