"""Pages that CPU and device fight over: turns, pins, and nothing of the kind where they take turns of their own accord."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

import hmmemu as hmm

SOURCE = r"""
extern "C" __global__ void atomics(volatile unsigned* x, volatile unsigned* stop, unsigned* done) {
  unsigned n = 0;
  for (; !*stop; ++n) atomicInc_system((unsigned*)x, 0xffffffffu);
  *done = n;
}
extern "C" __global__ void stores(volatile unsigned* x, volatile unsigned* stop, unsigned* done) {
  unsigned n = 0;
  while (!*stop) x[0] = ++n;
  *done = n;
}
extern "C" __global__ void look(unsigned* x) { atomicAdd_system(x, 0u); }
"""
LIMIT = 50.0  # s
LAPSE = 0.004  # s: turns of threads that share a CPU are fast enough


@pytest.fixture(scope="module")
def module() -> hmm.RawModule:
    return hmm.RawModule(SOURCE, filename="thrashing.cu")


def fight(
    space: hmm.AddressSpace, module: hmm.RawModule, kernel: str, enough: Callable[[], bool]
) -> tuple[np.ndarray, list[str]]:
    """CPU and kernel write words of one page until it is enough. Returns the page, and its residency then."""
    x, stop, done = (space.zeros(n, np.uint32) for n in (1024, 1, 1))
    module.get_function("look")(1, 1, (stop,))  # remote: both see it
    space.synchronize()
    space.reset_stats()
    with hmm.Stream() as stream:
        module.get_function(kernel)(1, 1, (x, stop, done))
        count, end = 0, time.monotonic() + LIMIT
        while not enough() and time.monotonic() < end:
            for _ in range(1000):
                x[1] += 1
            count += 1000
        where = [str(code) for code in space.residency(x)]
        stop[0] = 1
        stream.synchronize()
    assert enough()
    assert x[1] == count and x[0] == done[0]
    return x, where


@pytest.mark.parametrize("fallback", ["migrate", "exclusive"])
def test_atomics_by_turns(module: hmm.RawModule, fallback: str) -> None:
    policy = hmm.Policy(thrashing_lapse=LAPSE)
    with hmm.AddressSpace(timeout=LIMIT, fallback=fallback, policy=policy) as space:
        fight(space, module, "atomics", lambda: all(p.throttles > 2 for p in space.stats().processors))
        assert all(p.pinned_pages == 0 for p in space.stats().processors)
        assert "Page throttles" in str(space.stats())


def test_a_page_of_plain_stores_is_pinned_for_a_while(module: hmm.RawModule) -> None:
    with hmm.AddressSpace(timeout=LIMIT, policy=hmm.Policy(thrashing_lapse=LAPSE)) as space:
        device = space.devices[0]
        x, where = fight(space, module, "stores", lambda: space.stats().processors[1].pinned_pages > 0)
        assert where == ["XR"]  # and nobody faults on it any more
        assert sum(p.throttles for p in space.stats().processors) >= 10
        time.sleep(300 * LAPSE)
        stop, done = space.ones(1, np.uint32), space.zeros(1, np.uint32)
        module.get_function("stores")(1, 1, (x, stop, done))  # a launch: the pin has ended
        space.synchronize()
        assert space.residency(x) == ["X-"]
        space.prefetch(x, device)
        assert space.residency(x) == ["-X"]


@pytest.mark.parametrize("kernel", ["atomics", "stores"])
def test_not_if_it_is_not_wanted(module: hmm.RawModule, kernel: str) -> None:
    with hmm.AddressSpace(timeout=LIMIT, policy=hmm.Policy(thrashing=False)) as space:
        fight(space, module, kernel, lambda: space.stats().processors[1].faults > 30)
        assert all(p.throttles == p.pinned_pages == 0 for p in space.stats().processors)


def test_a_program_of_phases_never_thrashes(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    x = space.zeros(4096, np.int32)
    for turn in range(60):
        kernels.get_function("add")(4, 256, (x, x.size, 1))
        assert x[0] == turn + 1
        x[0] += 0
    stats = space.stats()
    assert all(p.throttles == p.pinned_pages == 0 for p in stats.processors)
    assert stats.processors[1].faults >= 60
