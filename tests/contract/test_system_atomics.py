"""Atomics of system scope: in place where the link has them, by the fallback where not; the page's state and the result."""

from __future__ import annotations

import os

import numpy as np
import pytest

import hmmemu as hmm

SOURCE = r"""
extern "C" __global__ void add(unsigned long long* x, int n) {
  for (int i = 0; i < n; ++i) atomicAdd_system(x + threadIdx.x * 512, 1ull);
}
extern "C" __global__ void maximum(unsigned* x, unsigned value) { atomicMax_system(x, value); }
extern "C" __global__ void both(unsigned long long* x) {
  atomicAdd_system(x, 1ull);
  x[512] = 5;
}
extern "C" __global__ void store(unsigned long long* x) { *x = 5; }
extern "C" __global__ void half(float* x) { atomicAdd_system(x, 0.5f); }
"""


@pytest.fixture(scope="module")
def module() -> hmm.RawModule:
    return hmm.RawModule(SOURCE, filename="system_atomics.cu")


@pytest.fixture(params=["arena", "heap"])
def words(request: pytest.FixtureRequest, page_by_page: hmm.AddressSpace) -> np.ndarray:
    """Four pages, the words of which are the CPU's."""
    made = page_by_page.zeros(2048, np.uint64) if request.param == "arena" else np.zeros(4096, np.uint64)
    start = -made.ctypes.data % 4096 // 8
    x: np.ndarray = made[start : start + 2048]
    x[:] = 7
    return x


def test_what_the_link_has_is_done_where_the_page_is(
    page_by_page: hmm.AddressSpace, module: hmm.RawModule, words: np.ndarray
) -> None:
    module.get_function("add")(8, 4, (words, 5))
    page_by_page.synchronize()
    assert list(page_by_page.residency(words)) == ["XR"] * 4
    before = page_by_page.stats().transfers
    assert list(words[::512]) == [7 + 40] * 4 and words[1] == 7
    words[1] = 3  # no fault either
    module.get_function("add")(8, 4, (words, 5))
    assert list(words[::512]) == [7 + 80] * 4 and words[1] == 3
    assert page_by_page.stats().transfers == before


def test_what_it_lacks_takes_the_page_along(
    page_by_page: hmm.AddressSpace, module: hmm.RawModule, words: np.ndarray
) -> None:
    x = words.view(np.uint32)
    module.get_function("add")(1, 4, (words, 1))
    module.get_function("maximum")(1, 1, (x, np.uint32(1000)))
    page_by_page.synchronize()
    assert list(page_by_page.residency(words)) == ["-X", "XR", "XR", "XR"]
    assert x[0] == 1000 and words[512] == 8
    module.get_function("add")(1, 4, (words, 1))
    assert words[0] == 1001 and words[512] == 9


def test_a_plain_access_is_no_atomic_one(
    page_by_page: hmm.AddressSpace, module: hmm.RawModule, words: np.ndarray
) -> None:
    """A worker tells on which page its latest operation is: neither other pages nor the next kernel count as that."""
    module.get_function("both")(1, 1, (words,))
    page_by_page.synchronize()
    assert list(page_by_page.residency(words[:1024])) == ["XR", "-X"]
    page_by_page.prefetch(words, page_by_page.devices[0])
    page_by_page.prefetch(words, hmm.cpu)
    assert list(page_by_page.residency(words[:512])) == ["X-"]
    module.get_function("store")(1, 1, (words,))
    page_by_page.synchronize()
    assert list(page_by_page.residency(words[:512])) == ["-X"]
    assert words[0] == 5 and words[512] == 5


@pytest.mark.parametrize("fallback", ["cas-loop", "silent", "fault"])
def test_fallbacks(module: hmm.RawModule, fallback: str) -> None:
    with hmm.AddressSpace(timeout=60, fallback=fallback, policy=hmm.Policy(grow=False)) as space:
        x, y = space.full(4, 5, np.uint32), space.full(4, 1.0, np.float32)
        if fallback == "fault":
            with pytest.raises(hmm.KernelError, match=r"atomic max of 32 bits.*CPU's memory"):
                module.get_function("maximum")(1, 1, (x, np.uint32(9)))
            assert x[0] == 5
            return
        module.get_function("maximum")(1, 1, (x, np.uint32(9)))
        module.get_function("half")(1, 4, (y,))
        space.synchronize()
        assert x[0] == (9 if fallback == "cas-loop" else 5)
        assert y[0] == (3.0 if fallback == "cas-loop" else 1.0)
        assert list(space.residency(x)) == ["XR"]
        space.prefetch(x, space.devices[0])  # in the device's memory every operation works
        module.get_function("maximum")(1, 1, (x, np.uint32(11)))
        space.synchronize()
        assert list(space.residency(x)) == ["-X"]
        assert x[0] == 11


def test_a_link_without_atomics(module: hmm.RawModule) -> None:
    with hmm.AddressSpace(timeout=60, link="pcie3-noatomics") as space:
        x = space.zeros(2048, np.uint64)
        module.get_function("add")(4, 4, (x, 100))
        space.synchronize()
        assert "R" not in "".join(space.residency(x))
        assert list(x[::512]) == [400] * 4


def test_threads_that_want_the_same_pages_at_once(
    page_by_page: hmm.AddressSpace, module: hmm.RawModule
) -> None:
    """Whoever comes second finds the page mapped, and is not refused."""
    x = page_by_page.zeros(512 * 512, np.uint64)
    module.get_function("add")(4, 512, (x, 1))
    assert (x[::512] == 4).all()
    assert page_by_page.session.take_refusal(page_by_page.devices[0].processor)[0] == 0


def test_two_devices_take_turns(two_devices: hmm.AddressSpace, module: hmm.RawModule) -> None:
    x = two_devices.zeros(2048, np.uint64)
    for turn in range(1, 6):
        for device in two_devices.devices:
            with device:
                module.get_function("add")(2, 4, (x, 3))
                device.synchronize()
        assert list(x[::512]) == [12 * turn] * 4


def test_protectors_hear_of_atomics(
    page_by_page: hmm.AddressSpace, module: hmm.RawModule, words: np.ndarray
) -> None:
    module.get_function("add")(1, 4, (words, 1))
    page_by_page.synchronize()
    frozen, log = page_by_page.snapshot_of(words), page_by_page.dirty(words)
    module.get_function("add")(1, 2, (words, 1))
    page_by_page.synchronize()
    assert list(np.asarray(frozen)[::512]) == [8] * 4
    assert list(words[::512]) == [9, 9, 8, 8]
    assert len(page_by_page.dirty(words)) == 2 and log is not None


def test_a_fork_child_has_its_own_pages(
    page_by_page: hmm.AddressSpace, module: hmm.RawModule, words: np.ndarray
) -> None:
    module.get_function("add")(1, 4, (words, 1))
    page_by_page.synchronize()
    child = os.fork()
    if child == 0:
        words[0] = 1
        os._exit(0 if words[512] == 8 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert words[0] == 8
    module.get_function("add")(1, 4, (words, 1))
    assert list(words[::512]) == [9] * 4


def test_the_end_of_the_space(module: hmm.RawModule) -> None:
    with hmm.AddressSpace(timeout=60) as space:
        x, y = space.zeros(2048, np.uint64), np.zeros(8192, np.uint64)
        for array in (x, y):
            module.get_function("add")(1, 4, (array, 2))
        space.synchronize()
        space.discard(x)
        assert not x.any()
        module.get_function("add")(1, 4, (x, 3))
    assert list(x[::512]) == [3] * 4 and y[0] == 2
    y[:] = 1  # plain memory again
    assert y.sum() == 8192
