"""CPU threads and kernels that work together: every chunk once, and no wait without end when one side fails."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

import hmmemu as hmm
from hmmemu.kernels import WORKLOADS
from hmmemu.kernels.sharing import Beside, run_threads, share
from hmmemu.kernels.workload import Launcher

SOURCE = r"""
extern "C" __global__ void mark(unsigned* counter, int share, unsigned* marks, unsigned mark) {
  for (int done = blockIdx.x; done < share; done += gridDim.x)
    atomicAdd_system(&marks[atomicAdd_system(counter, 1u)], mark);
}
extern "C" __global__ void wait_for(const volatile unsigned* word) { while (*word == 0) { } }
extern "C" __global__ void fail(unsigned* counter, int share) { assert(share == 0); }
"""
NAMES = ("mark", "wait_for", "fail")
ON_THE_DEVICE = 1000  # a mark; the CPU's is 1


@pytest.fixture(scope="module")
def module() -> hmm.RawModule:
    return hmm.RawModule(SOURCE, filename="sharing.cu")


@pytest.fixture
def launch(space: hmm.AddressSpace, module: hmm.RawModule) -> Launcher:
    return Launcher(space, module, NAMES)


@pytest.fixture
def at_once() -> Iterator[None]:
    """Below any limit."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 50


@pytest.mark.parametrize(("fraction", "devices"), [(0, 1), (0.25, 2), (0.5, 1), (0.5, 3), (1, 2)])
def test_every_chunk_is_done_once(module: hmm.RawModule, fraction: float, devices: int) -> None:
    with hmm.AddressSpace(devices=devices, timeout=60) as space:
        launch = Launcher(space, module, NAMES, fraction)
        marks = space.zeros(200, np.uint32)

        def mark(chunk: int, beside: Beside) -> None:
            hmm.atomic_add(marks, chunk, 1)

        share(launch, 200, "mark", 1, (marks, np.uint32(ON_THE_DEVICE)), mark)
        by_cpu, by_device = (marks == 1).sum(), (marks == ON_THE_DEVICE).sum()
        assert (by_cpu, by_device) == (200 * fraction, 200 - 200 * fraction)
        assert launch.launches == (0 if fraction == 1 else devices) and launch.seconds > 0


def test_no_chunks(launch: Launcher, space: hmm.AddressSpace) -> None:
    share(launch, 0, "mark", 1, (space.zeros(1, np.uint32), np.uint32(1)), lambda chunk, beside: None)
    assert launch.launches == 0


@pytest.mark.usefixtures("at_once")
def test_a_thread_that_fails_ends_the_others_and_the_kernel(
    launch: Launcher, space: hmm.AddressSpace
) -> None:
    word = space.zeros(1, np.uint32)

    def wait(beside: Beside) -> None:
        beside.wait(word, 0, bool)

    def fail(beside: Beside) -> None:
        raise ZeroDivisionError("a bug in the workload")

    with pytest.raises(ZeroDivisionError, match="a bug in the workload"), launch.together():
        launch("wait_for", 8, 1, word)
        run_threads(launch, [wait, fail, wait])
    works_again(launch, space)


@pytest.mark.usefixtures("at_once")
def test_a_kernel_that_fails_ends_the_threads(launch: Launcher, space: hmm.AddressSpace) -> None:
    word = space.zeros(1, np.uint32)

    def wait(chunk: int, beside: Beside) -> None:
        beside.wait(word, 0, bool)

    with pytest.raises(hmm.KernelAssertion, match="Assertion `share == 0` failed"):
        share(launch, 10, "fail", 1, (), wait)
    works_again(launch, space)


def test_a_thread_that_waits_too_long(launch: Launcher, space: hmm.AddressSpace) -> None:
    words = space.full(5, 7, np.int64)

    def wait(beside: Beside) -> None:
        beside.wait(words, 3, lambda word: word == 8)

    expected = r"waited 0\.2 s for another thread or a kernel to write: element 3 of the int64 array at 0x\w+ is still 7"
    with pytest.raises(hmm.KernelTimeout, match=expected):
        run_threads(launch, [wait], limit=0.2)


@pytest.mark.usefixtures("at_once")
def test_a_kernel_that_waits_too_long(launch: Launcher, space: hmm.AddressSpace) -> None:
    with pytest.raises(hmm.KernelTimeout, match=r"did not end within 0\.2 s"), launch.together(0.2):
        launch("wait_for", 8, 1, space.zeros(1, np.uint32))
        run_threads(launch, [lambda beside: None])
    works_again(launch, space)


def works_again(launch: Launcher, space: hmm.AddressSpace) -> None:
    """The device that was stopped is there again."""
    marks = space.zeros(3, np.uint32)
    launch("mark", 1, 1, space.zeros(1, np.uint32), np.int32(3), marks, np.uint32(1))
    assert list(marks) == [1, 1, 1]


@pytest.mark.parametrize("fraction", [0.1, 0.9])
@pytest.mark.parametrize("name", [name for name in WORKLOADS if WORKLOADS[name].shares])
def test_workloads(name: str, fraction: float, space: hmm.AddressSpace) -> None:
    for seed in range(3):
        outcome = WORKLOADS[name].run(space, "tiny", seed=seed, fraction=fraction)
        assert outcome.verified, outcome.mismatch
