"""Launches like others before, which take a short way (native/bind/repeated_launch.cpp): when they do, and when not.

`only("short")` is a block in which every launch takes the short one.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from forking import in_child

import hmmemu as hmm
from hmmemu.device import Device

SOURCE = r"""
extern "C" __global__ void add(int* x, int n, int value) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] += value;
}
extern "C" __global__ void copy(const int* x, int* y, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = x[i];
}
extern "C" __global__ void wild(int* x, int wrong) { *(wrong ? (volatile int*)8 : x) += 1; }
extern "C" __global__ void nothing() {}
extern "C" __global__ void wait_for(volatile int* flag, int* x) { while (*flag == 0) { } *x = 5; }
"""
N = 3000


@pytest.fixture(scope="module")
def module() -> hmm.RawModule:
    return hmm.RawModule(SOURCE)


@pytest.fixture
def add(module: hmm.RawModule, space: hmm.AddressSpace) -> hmm.RawKernel:
    """Was launched before."""
    kernel = module.get_function("add")
    kernel(1, 32, (space.zeros(N, np.int32), N, 1))
    return kernel


@contextmanager
def only(wanted: str) -> Iterator[None]:
    """All launches of the block, of which there are some, go the "short" or the "long" way."""
    long, short = Device.launch, Device.launch_again
    ways: list[str] = []

    def launch(self: Device, *args: Any) -> int:
        ways.append("long")
        return long(self, *args)

    def launch_again(self: Device, *args: Any) -> int:
        ticket = short(self, *args)
        if ticket:
            ways.append("short")
        return ticket

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Device, "launch", launch)
        patch.setattr(Device, "launch_again", launch_again)
        yield
    assert set(ways) == {wanted}


def test_the_same_again(add: hmm.RawKernel, space: hmm.AddressSpace) -> None:
    x = space.zeros(N, np.int32)
    with only("short"):
        for value in range(20):
            add(1, 32, (x, N, value))
            x[value] = 0  # the CPU writes between launches
    assert list(x[:20]) == [sum(range(value + 1, 20)) for value in range(20)]
    assert np.all(x[20:] == sum(range(20)))


def test_other_arrays_scalars_and_shapes(add: hmm.RawKernel, space: hmm.AddressSpace) -> None:
    x, y = space.zeros(N, np.int32), space.register(np.zeros(N, np.int32))
    with only("short"):
        add((1,), (32, 1, 1), (x, np.int32(N), -3))
        add((1, 1), 64, (y, N, np.int32(4)))
        add(1, 32, (x[10:20], 10, 1))
        add(1, 32, (y[:100].view(np.uint32), 100, 2), shared_mem=64)
        add(1, 1, (None, 0, 1))
        add(1, 32, (hmm.InOut(x), 1, 1), device=space.devices[0])
    assert x[0] == -2 and np.all(x[10:20] == -2) and np.all(x[20:] == -3)
    assert np.all(y[:100] == 6) and np.all(y[100:] == 4)


def test_streams_and_threads(add: hmm.RawKernel, space: hmm.AddressSpace) -> None:
    xs = [space.zeros(N, np.int32) for _ in range(4)]
    failures: list[BaseException] = []

    def work(x: Any) -> None:
        try:
            with hmm.Stream() as stream:
                for _ in range(100):
                    add(1, 32, (x, N, 1), device=space.devices[0])
                stream.synchronize(60)
        except BaseException as error:
            failures.append(error)

    with only("short"):
        threads = [threading.Thread(target=work, args=(x,)) for x in xs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
    assert not failures and all(np.all(x == 100) for x in xs)


def test_what_only_reads_leaves_the_cpu_its_copy(module: hmm.RawModule, space: hmm.AddressSpace) -> None:
    copy = module.get_function("copy")
    x, y = space.full(N, 7, np.int32), space.zeros(N, np.int32)
    copy(1, 32, (x, y, N))
    x.flags.writeable = False
    y[:] = 0
    with only("short"):
        copy(1, 32, (x, y, N))
    assert np.all(y == 7)


WRONG: list[tuple[Callable[[Any], tuple[Any, ...]], str]] = [
    (lambda x: (1, 32, (x, N)), "takes 3 arguments"),
    (lambda x: (1, 32, (x, N, 1.5)), "does not fit"),
    (lambda x: (1, 32, (x.view(np.float32), N, 1)), "are not of that type"),
    (lambda x: (1, 32, (np.broadcast_to(x[0], 5), N, 1)), "is read-only"),
    (lambda x: (1, 32, (x, N, 2**31)), "out of that type's range"),
    (lambda x: (0, 32, (x, N, 1)), "outside CUDA's limits"),
    (lambda x: (1, (32, 64), (x, N, 1)), "a block of 2048 threads"),
    (lambda x: (1, 32.0, (x, N, 1)), "an integer, or one to three"),
    (lambda x: (1, 32, {x.size: N}), "a tuple or a list"),
]


@pytest.mark.parametrize(("launch", "words"), WRONG, ids=[words for _, words in WRONG])
def test_mistakes_are_told_as_at_the_first_launch(
    add: hmm.RawKernel, module: hmm.RawModule, space: hmm.AddressSpace, launch: Any, words: str
) -> None:
    x = space.zeros(N, np.int32)
    told = []
    for kernel in (module.get_function("add"), add):
        with pytest.raises(hmm.ArgumentError, match=words) as error:
            kernel(*launch(x))
        told.append(str(error.value))
    assert told[0] == told[1] and not x.any()
    with only("short"):
        add(1, 32, (x, N, 1))
    assert np.all(x == 1)


def test_memory_that_is_not_registered(add: hmm.RawKernel, space: hmm.AddressSpace) -> None:
    for _ in range(3):
        x = np.zeros(N, np.int32)
        with only("long"):
            add(1, 32, (x, N, 1))  # registers it
        with only("short"):
            add(1, 32, (x[:], N, 1))
        assert np.all(x == 2)
        space.unregister(x)
        with only("long"):
            add(1, 32, (x, N, 1))
        assert np.all(x == 3)
        del x  # the next may have its address


def test_what_goes_on_in_the_space(add: hmm.RawKernel, space: hmm.AddressSpace) -> None:
    x, y = space.zeros(N, np.int32), space.zeros(N, np.int32)
    with space.device_view(x), pytest.raises(hmm.ViewError):
        add(1, 32, (x, N, 1))
    with space.device_view(y), only("long"):
        add(1, 32, (x, N, 1))
    with only("long"):
        add(1, 32, (x, N, 1), reaches=[y])
        add(1, 32, [x, N, 1])
        add(1, 32, (hmm.Out(x), N, 1))
    with only("short"):
        add(1, 32, (x, N, 1))


def test_counted_operations(space: hmm.AddressSpace) -> None:
    if space.devices[0].kind != "emulated":
        pytest.skip("only emulated devices count")
    kernel = hmm.RawKernel('extern "C" __global__ void up(int* x) { atomicAdd(x, 1); }', "up")
    x = space.zeros(1, np.int32)
    kernel(1, 32, (x,))
    with space.atomics_report() as report:
        kernel(1, 32, (x,))
        kernel(1, 32, (x,))
    assert sum(use.count for use in report.uses) == 64
    with only("short"):
        kernel(1, 32, (x,))
    assert x[0] == 128


@pytest.mark.parametrize(
    "options", [{"policy": hmm.Policy(launch="prefetch")}, {"check_reach": True}], ids=["prefetch", "check"]
)
def test_spaces_that_look_at_every_launch(module: hmm.RawModule, options: dict[str, Any]) -> None:
    with hmm.AddressSpace(timeout=60, **options) as space:
        x, add = space.zeros(N, np.int32), module.get_function("add")
        with only("long"):
            add(1, 32, (x, N, 1))
            add(1, 32, (x, N, 1))
        assert np.all(x == 2)


def test_several_devices_and_spaces(module: hmm.RawModule) -> None:
    add = module.get_function("add")
    with hmm.AddressSpace(devices=2, timeout=60) as one, hmm.AddressSpace(timeout=60) as other:
        devices = [*one.devices, *other.devices]
        xs = [device.space.zeros(N, np.int32) for device in devices]
        for device, x in zip(devices, xs, strict=True):
            add(1, 32, (x, N, 1), device=device)
        with only("short"):
            for device, x in zip(devices, xs, strict=True):
                add(1, 32, (x, N, 1), device=device)
            add(1, 32, (xs[0], N, 1), device=devices[1])
        assert [int(x[0]) for x in xs] == [3, 2, 2]
        with only("long"):  # memory of another space is registered
            add(1, 32, (np.zeros(N, np.int32), N, 1), device=devices[2])


def test_a_kernel_that_fails_is_told_and_others_go_on(
    add: hmm.RawKernel, module: hmm.RawModule, space: hmm.AddressSpace
) -> None:
    wild = module.get_function("wild")
    x = space.zeros(N, np.int32)
    wild(1, 1, (x, 0))
    for turn in range(2):
        with only("short"), pytest.raises(hmm.KernelFault):
            wild(1, 1, (x, 1))
        with only("long"):  # another process, in which nothing is loaded yet
            add(1, 32, (x, N, 1))
            wild(1, 1, (x, 0))
        with only("short"):
            add(1, 32, (x, N, 1))
        assert x[0] == 1 + 3 * (turn + 1) and x[1] == 2 * (turn + 1)


def test_a_device_that_ended_meanwhile(add: hmm.RawKernel, space: hmm.AddressSpace) -> None:
    x = space.zeros(N, np.int32)
    add(1, 32, (x, N, 1))
    x[0] = 7  # comes home
    space.devices[0].process.kill()
    with pytest.raises(hmm.DeviceError):
        add(1, 32, (x, N, 1))
    add(1, 32, (x, N, 1))
    with only("short"):
        add(1, 32, (x, N, 1))


def test_arrays_live_as_long_as_the_launch(module: hmm.RawModule, space: hmm.AddressSpace) -> None:
    if space.devices[0].kind != "emulated":
        pytest.skip("the CPU writes what a kernel waits for")
    kernel, stream = module.get_function("wait_for"), hmm.Stream()
    flag, x = space.ones(1024, np.int32), space.zeros(1, np.int32)
    kernel(1, 1, (flag, x))
    flag[0] = 0
    end = weakref.ref(x)
    with only("short"):
        kernel(1, 1, (flag, x), stream=stream)
    del x
    gc.collect()
    assert end() is not None
    flag[0] = 1
    stream.synchronize(60)
    assert end() is None


def test_a_full_queue(module: hmm.RawModule, space: hmm.AddressSpace) -> None:
    kernel, stream = module.get_function("nothing"), hmm.Stream()
    kernel(1, 1)
    for _ in range(2000):
        kernel(1, 1, stream=stream)
    stream.synchronize(60)
    assert stream.done


def test_a_closed_space_and_a_fork_child(add: hmm.RawKernel, space: hmm.AddressSpace) -> None:
    x, device = space.zeros(N, np.int32), space.devices[0]

    def launch() -> bool:
        with pytest.raises(hmm.SpaceClosedError):
            add(1, 32, (x, N, 1), device=device)
        return True

    assert in_child(launch) == 0
    add(1, 32, (x, N, 1), device=device)
    space.close()
    assert launch() and x[0] == 1


def test_kernels_and_devices_are_not_kept_alive(module: hmm.RawModule) -> None:
    with hmm.AddressSpace(timeout=60) as space:
        kernel = module.get_function("nothing")
        kernel(1, 1)
        kernel(1, 1)
        gone = weakref.ref(kernel)
        del kernel
        assert gone() is None
        kept = module.get_function("nothing")
        kept(1, 1)
        device = weakref.ref(space.devices[0])
    del space
    gc.collect()
    assert device() is None
    assert kept.name == "nothing"  # the kernel outlives the device
