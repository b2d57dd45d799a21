"""Device views of memory that kernels share with the CPU: its blocks become the GPU's own first."""

from __future__ import annotations

import types

import numpy as np
import pytest

import hmmemu as hmm
from hmmemu import cuda_view

SOURCE = r"""
extern "C" __global__ void count(int* hits) { atomicAdd_system(hits, 1); }
"""


class Memory:
    """In the place of a CuPy array: what the helper passes on is not looked at here."""


@pytest.fixture
def count(monkeypatch):
    monkeypatch.setattr(cuda_view, "_cupy", lambda gpu: NoCupy)
    monkeypatch.setattr(cuda_view, "_mirror", lambda cupy, device, array: Memory())
    module = hmm.RawModule(SOURCE)
    return lambda space, x: module.get_function("count")((1,), (4,), (x,), device=space.devices[0])


class NoCupy:
    class cuda:
        @staticmethod
        def get_current_stream(gpu):
            return types.SimpleNamespace(ptr=0)

        runtime = types.SimpleNamespace(streamQuery=lambda stream: 0)


def test_a_view_of_what_was_shared(gpu, count):
    space = gpu()
    hits, beside = space.zeros(1024, np.int32), space.full(1024, 7, np.int32)
    for turn in range(1, 4):
        count(space, hits)
        assert space.residency(hits) == ["XR"]
        with space.device_view(hits, device=space.devices[0]):
            assert space.residency(hits) == ["-X"]
        assert hits[0] == 4 * turn and (beside == 7).all()


def test_a_launch_that_shares_beside_an_open_view(gpu, count):
    space = gpu()
    hits, beside = space.zeros(1024, np.int32), space.full(1024, 7, np.int32)
    with pytest.raises(hmm.Error) as caught, space.device_view(beside, device=space.devices[0]):
        count(space, hits)
    words = str(caught.value) + str(caught.value.__context__)
    assert "while a device view has it: close the view first" in words
    assert (beside == 7).all() and not hits.any()
    count(space, hits)
    assert hits[0] == 4
