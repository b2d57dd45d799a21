"""A device's process is replaced while other threads launch: no launch is lost, none is kept for ever."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import hmmemu as hmm

SOURCE = r"""
extern "C" __global__ void endless(volatile int* stop) { while (!*stop) {} }
extern "C" __global__ void count(int* x, int steps) {
  for (volatile int i = 0; i < steps; ++i) {}
  x[0] += 1;
}
"""


@pytest.fixture(scope="module")
def kernels() -> hmm.RawModule:
    return hmm.RawModule(SOURCE)


def lose_a_launch(space: hmm.AddressSpace, kernels: hmm.RawModule) -> int:
    """The ticket of one that was stopped."""
    kernels.get_function("endless")(1, 1, (space.zeros(1, np.int32),), stream=hmm.Stream())
    with pytest.raises(hmm.KernelTimeout):
        space.synchronize(timeout=0.2)
    return int(space.devices[0].process.last_ticket)


def test_what_a_lost_launch_worked_on_is_freed(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    device, ticket = space.devices[0], lose_a_launch(space, kernels)
    things = np.zeros(1)
    gone = weakref.ref(things)
    device.supervisor.keep([things])[0] = ticket  # its thread was late: the process was replaced before
    del things
    x = space.zeros(1, np.int32)
    kernels.get_function("count")(1, 1, (x, 1))
    gc.collect()
    assert x[0] == 1 and gone() is None


def test_what_an_interrupted_launch_works_on_is_kept(
    space: hmm.AddressSpace, kernels: hmm.RawModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes when it is queued and nobody has heard of its ticket, and again when its end is looked for."""
    supervisor = space.devices[0].supervisor
    ask = supervisor.ask

    def ask_and_interrupt(request: Callable[..., Any], *args: Any, **options: Any) -> Any:
        answer = ask(request, *args, **options)
        if request.__name__ == "launch":
            raise KeyboardInterrupt
        return answer

    def interrupt(ticket: int) -> bool:
        raise KeyboardInterrupt

    stop = space.zeros(1, np.int32)
    address, kept = stop.ctypes.data, weakref.ref(stop)
    monkeypatch.setattr(supervisor, "ask", ask_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        kernels.get_function("endless")(1, 1, (stop,), stream=hmm.Stream())
    monkeypatch.setattr(supervisor, "completed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        supervisor.forget_completed()
    monkeypatch.undo()
    del stop
    gc.collect()
    assert kept() is not None and space.zeros(1).ctypes.data != address
    space.memory.view(address, 4)[0] = 1
    space.synchronize(timeout=60)
    gc.collect()
    assert kept() is None and not supervisor.pending


def test_who_waits_for_a_lost_launch_ends_no_other_process(
    space: hmm.AddressSpace, kernels: hmm.RawModule
) -> None:
    device, ticket = space.devices[0], lose_a_launch(space, kernels)
    pid = device.process.pid
    device.supervisor._wait(ticket, 10)  # it had looked for the failure before there was one
    assert device.process.pid == pid
    with pytest.raises(hmm.KernelTimeout):
        device.wait(ticket)


def test_a_launch_that_comes_before_relocation_is_waited_for(
    space: hmm.AddressSpace, kernels: hmm.RawModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, x, stream = space.devices[0], space.zeros(1, np.int32), hmm.Stream()
    supervisor, pid, waits = device.supervisor, device.process.pid, 0
    synchronize = supervisor.synchronize

    def synchronize_and_launch(timeout: float | None = None) -> None:
        nonlocal waits
        synchronize(timeout)
        waits += 1
        if waits == 1:  # another thread's
            kernels.get_function("count")(1, 1, (x, 500_000), stream=stream)

    monkeypatch.setattr(supervisor, "synchronize", synchronize_and_launch)
    supervisor._relocate([])
    assert device.process.pid != pid
    stream.synchronize()
    assert x[0] == 1


def test_a_process_that_ended_with_its_space_has_no_successor(kernels: hmm.RawModule) -> None:
    with hmm.AddressSpace() as space:
        device, x = space.devices[0], space.zeros(1, np.int32)
        count = kernels.get_function("count")
        for _ in range(2):  # the first launch and a later one
            count(1, 1, (x, 1))
        device.supervisor.close()  # another thread's `space.close()` has come so far
        with pytest.raises(hmm.SpaceClosedError, match="was closed meanwhile"):
            count(1, 1, (x, 1))
        assert not device.process.alive
    assert x[0] == 2


def test_two_threads_close_a_space(kernels: hmm.RawModule, monkeypatch: pytest.MonkeyPatch) -> None:
    space = hmm.AddressSpace()
    x, supervisor = space.full(1, 7, np.int32), space.devices[0].supervisor
    synchronize, others = supervisor.synchronize, [space.close]

    def synchronize_late(timeout: float | None = None) -> None:
        while others:
            others.pop()()  # another thread's
        synchronize(timeout)

    monkeypatch.setattr(supervisor, "synchronize", synchronize_late)
    space.close()
    assert not others and not space.session.open and x[0] == 7
