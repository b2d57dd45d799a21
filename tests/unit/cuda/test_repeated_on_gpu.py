"""Launches like others before on a GPU, on the stand-in: what they reach is there, also on the short way."""

from __future__ import annotations

import fakecuda
import numpy as np
import pytest

import hmmemu as hmm
from hmmemu.device import Device

SOURCE = r"""
__device__ int launches;
extern "C" __global__ void add(int* x, const int* y, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] += y[i];
  if (threadIdx.x == 0) launches += 1;
}
extern "C" __global__ void count(int* hits, int* x, int n) {
  for (int i = 0; i < n; ++i) atomicAdd_system(hits, 1);
  x[0] += n;
}
extern "C" __global__ void through(int* const* table) { if (table) *table[0] = 1; }
"""
N = 5000


@pytest.fixture
def module():
    return hmm.RawModule(SOURCE, filename="repeated.cu")


@pytest.fixture
def long_ways(monkeypatch):
    """The kernels that were launched on the long way."""
    names, launch = [], Device.launch

    def noted(self, compiled, kernel, *args):
        names.append(kernel.name)
        return launch(self, compiled, kernel, *args)

    monkeypatch.setattr(Device, "launch", noted)
    return names


def test_the_cpu_writes_between_launches(gpu, module, long_ways):
    space = gpu("delay_us=100")
    with space.devices[0], hmm.Stream() as stream:
        add = module.get_function("add")
        x, y = space.zeros(N, np.int32), space.register(np.ones(N, np.int32))
        for turn in range(20):
            add(1, 64, (x, y, N))
            y[turn] += 1  # the CPU's copy goes on while the kernel may run
            if turn % 5 == 4:
                stream.synchronize(60)
                x[turn] = 0
        stream.synchronize(60)
        assert np.all(x[20:] == 20)
        assert module.get_global("launches").view(np.int32)[0] == 20
    assert long_ways == ["add"]


def test_memory_that_is_shared_with_the_cpu(gpu, module, long_ways):
    space = gpu(link="nvlink")
    with space.devices[0]:
        count = module.get_function("count")
        hits, x = space.zeros(1, np.int32), space.zeros(1, np.int32)
        for _ in range(3):
            count(1, 1, (hits, x, 5))
            assert space.residency(hits)[0][1] == "R"
            assert hits[0] == x[0]
        assert hits[0] == 15
    assert long_ways == ["count"]


def test_arrays_for_which_there_is_no_room(gpu, module, long_ways):
    space = gpu(device_memory=16 << 20)
    with space.devices[0]:
        add = module.get_function("add")
        x, large = space.zeros(N, np.int32), space.zeros(16 << 20, np.int32)
        add(1, 64, (x, x, N))
        add(1, 64, (x, x, N))
        with pytest.raises(hmm.OutOfMemoryError, match=r"take [0-9,]+ KiB .* has 16,384 KiB"):
            add(1, 64, (large, x, N))
    assert long_ways == ["add", "add"]


def test_pointers_to_pointers_at_a_distance(gpu, module, long_ways):
    space = gpu(fakecuda.AT_A_DISTANCE)
    with space.devices[0]:
        through, add = module.get_function("through"), module.get_function("add")
        x = space.ones(N, np.int32)
        table = space.zeros(1, np.uint64)
        through(1, 1, (None,))
        through(1, 1, (None,))
        with pytest.raises(hmm.UnsupportedError, match="int\\* const\\* table"):
            through(1, 1, (table,))
        for _ in range(3):
            add(1, 64, (x, x, N))
        assert np.all(x == 8)
    assert long_ways == ["through", "through", "add"]
