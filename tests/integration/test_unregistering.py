"""Memory that leaves the address space while kernels use it: they are waited for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import hmmemu as hmm

SOURCE = r"""
extern "C" __global__ void add(volatile int* gate, int* x) {
  while (!*gate) {}
  x[0] += 1;
}
extern "C" __global__ void fail(volatile int* gate, int* x) {
  while (!*gate) {}
  assert(x[0] == -1);
}
"""


@pytest.fixture(scope="module")
def kernels() -> hmm.RawModule:
    return hmm.RawModule(SOURCE)


class Gate:
    """Kernels wait at it until somebody waits for them."""

    def __init__(self, space: hmm.AddressSpace, monkeypatch: pytest.MonkeyPatch) -> None:
        self.word, self.was_opened = space.zeros(1, np.int32), False
        supervisor = space.devices[0].supervisor
        wait = supervisor._wait

        def open_and_wait(ticket: int, timeout: float | None) -> None:
            self.word[0], self.was_opened = 1, True
            wait(ticket, timeout)

        monkeypatch.setattr(supervisor, "_wait", open_and_wait)

    def close(self) -> None:
        self.word[0], self.was_opened = 0, False


@pytest.fixture
def gate(space: hmm.AddressSpace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(space, monkeypatch)
    yield gate
    gate.word[0] = 1  # for a kernel that a test that failed has left


def test_an_array_that_kernels_use(space: hmm.AddressSpace, kernels: hmm.RawModule, gate: Gate) -> None:
    stream, add = hmm.Stream(), kernels.get_function("add")
    for given in (lambda x: x, hmm.InOut, lambda x: x[::2], lambda x: x):  # the first and later launches
        x = np.zeros(4096, np.int32)
        gate.close()
        add(1, 1, (gate.word, given(x)), stream=stream)
        space.unregister(x)
        assert gate.was_opened and x[0] == 1
        stream.synchronize()


def test_a_file_that_kernels_use(
    space: hmm.AddressSpace, kernels: hmm.RawModule, gate: Gate, tmp_path: Path
) -> None:
    stream = hmm.Stream()
    with hmm.SharedFile(tmp_path / "file", "w+", np.int32, 4096, space=space) as file:
        kernels.get_function("add")(1, 1, (gate.word, file.array), stream=stream)
    assert gate.was_opened and np.fromfile(tmp_path / "file", np.int32)[0] == 1
    stream.synchronize()


def test_kernels_that_use_other_memory_go_on(
    space: hmm.AddressSpace, kernels: hmm.RawModule, gate: Gate
) -> None:
    stream, x = hmm.Stream(), space.zeros(1, np.int32)
    y = space.register(np.zeros(4096, np.int32))
    kernels.get_function("add")(1, 1, (gate.word, x), stream=stream)
    space.unregister(y)
    assert not gate.was_opened and not stream.done
    stream.synchronize()
    assert x[0] == 1


def test_a_failure_is_told_to_who_waits_for_the_kernel(
    space: hmm.AddressSpace, kernels: hmm.RawModule, gate: Gate
) -> None:
    stream, x = hmm.Stream(), np.zeros(4096, np.int32)
    kernels.get_function("fail")(1, 1, (gate.word, x), stream=stream)
    space.unregister(x)
    with pytest.raises(hmm.RangeError, match="not in the address space"):
        space.residency(x)
    with pytest.raises(hmm.KernelAssertion, match="fail"):
        stream.synchronize()


def test_a_kernel_that_does_not_end_is_stopped(kernels: hmm.RawModule) -> None:
    with hmm.AddressSpace(timeout=0.2) as space:
        word, stream, x = space.zeros(1, np.int32), hmm.Stream(), np.full(4096, 7, np.int32)
        kernels.get_function("add")(1, 1, (word, x), stream=stream)
        space.unregister(x)
        assert (x == 7).all()
        with pytest.raises(hmm.KernelTimeout, match=r"within 0\.2 s"):
            stream.synchronize(timeout=20)
