"""Streams and events with several threads, devices and spaces."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest

import hmmemu as hmm

SOURCE = r"""
extern "C" __global__ void late(volatile int* flag, int* x) { while (!*flag) {} x[0] = 7; }
extern "C" __global__ void copy(const int* x, int* y) { y[0] = x[0]; }
"""


@pytest.fixture(scope="module")
def kernels() -> hmm.RawModule:
    return hmm.RawModule(SOURCE)


@pytest.fixture
def two() -> hmm.AddressSpace:
    with hmm.AddressSpace("emulated", devices=2, timeout=60) as space:
        yield space


def test_threads_have_current_streams_of_their_own() -> None:
    """Though they enter the same one, and leave in any order."""
    shared, other = hmm.Stream(), hmm.Stream()
    entered, left = threading.Event(), threading.Event()
    found = []

    def second() -> None:
        with other:
            with shared:
                entered.set()
                left.wait(30)
            found.append(hmm.current_stream())

    thread = threading.Thread(target=second)
    with shared:
        thread.start()
        entered.wait(30)
    found.append(hmm.current_stream())
    left.set()
    thread.join(30)
    assert found == [hmm.Stream.null, other]


def test_an_event_is_on_the_devices_that_its_stream_uses(
    two: hmm.AddressSpace, kernels: hmm.RawModule
) -> None:
    flag, x, stream = two.zeros(1, np.int32), two.zeros(1, np.int32), hmm.Stream()
    kernels.get_function("late")(1, 1, (flag, x), stream=stream, device=two.devices[1])
    event = stream.record()  # while device 0 is the current one
    assert not event.done
    flag[0] = 1
    event.synchronize(60)
    assert x[0] == 7 and event.done and stream.done


def test_a_stream_waits_for_an_event_of_another_device(two: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    flag, x, y = (two.zeros(1, np.int32) for _ in range(3))
    first, second = hmm.Stream(), hmm.Stream()
    kernels.get_function("late")(1, 1, (flag, x), stream=first, device=two.devices[0])
    second.wait_event(first.record())
    lifted = threading.Timer(0.2, lambda: hmm.atomic_store(flag, 0, 1))
    lifted.start()
    for _ in range(2):  # the first launch, and one like one before
        kernels.get_function("copy")(1, 1, (x, y), stream=second, device=two.devices[1])
    second.synchronize(60)
    lifted.join()
    assert y[0] == 7 and not second.awaited


def test_a_failure_before_the_event_is_told_to_who_waits(
    two: hmm.AddressSpace, kernels: hmm.RawModule
) -> None:
    x, first, second = two.zeros(1, np.int32), hmm.Stream(), hmm.Stream()
    bad = hmm.RawKernel('extern "C" __global__ void bad(int* x) { assert(x[0]); }', "bad")
    bad((1,), (1,), (x,), stream=first, device=two.devices[0])
    second.wait_event(first.record())
    with pytest.raises(hmm.DeviceError):
        kernels.get_function("copy")(1, 1, (x, x), stream=second, device=two.devices[1])


def test_spaces_that_are_closed_are_forgotten(kernels: hmm.RawModule) -> None:
    """A stream that was used there records on the devices of others, and keeps nothing of them alive."""
    stream, gone = hmm.Stream(), []
    for _ in range(2):
        with hmm.AddressSpace("emulated") as space:
            x = space.zeros(1, np.int32)
            kernels.get_function("copy")(1, 1, (x, x), stream=stream)
            stream.record().synchronize(60)
            hmm.Event().record(hmm.Stream.null)
        gone.append(weakref.ref(space.devices[0]))
    del space, x
    gc.collect()
    assert gone[0]() is None
    stream.devices()
    gc.collect()
    assert gone[1]() is None
