"""`__device__` and `__constant__` variables on the stand-in: at addresses of their own, and arrays to the CPU."""

from __future__ import annotations

import numpy as np
import pytest

import hmmemu as hmm

SOURCE = r"""
__device__ int total[1000];
namespace deep { __constant__ float scale[3] = {1.5f, 2.5f, 3.5f}; __device__ double last = -1.0; }
__device__ unsigned char flag = 7;
extern "C" __global__ void add(const int* x, int n) { for (int i = threadIdx.x; i < n; i += blockDim.x) total[i] += x[i]; }
extern "C" __global__ void apply(float* y) { y[threadIdx.x] = deep::scale[threadIdx.x]; if (threadIdx.x == 0) { deep::last += 1; flag = 9; } }
extern "C" __global__ void fail() { total[0] = 1; assert(total[0] == 0); }
"""


@pytest.fixture
def module():
    return hmm.RawModule(SOURCE, filename="variables.cu")


def variable(module, name, kind):
    return module.get_global(name).view(kind)


def add(module, x, **options):
    module.get_function("add")((1,), (32,), (x, np.int32(x.size)), **options)


def test_initial_values(gpu, module):
    with gpu().devices[0]:
        assert list(variable(module, "deep::scale", np.float32)) == [1.5, 2.5, 3.5]
        assert (
            variable(module, "deep::last", np.float64)[0] == -1 and variable(module, "flag", np.uint8)[0] == 7
        )
        assert not variable(module, "total", np.int32).any()
        with pytest.raises(
            hmm.ArgumentError, match=r"no variable 'missing' .* it has: deep::last, deep::scale, flag, total"
        ):
            module.get_global("missing")


def test_cpu_and_kernels_in_turn(gpu, module):
    """Copies and kernels are late, so an order that is wrong shows."""
    with gpu("delay_us=300,kernel_us=3000").devices[0]:
        x, total = np.arange(1000, dtype=np.int32), variable(module, "total", np.int32)
        expected = np.zeros(1000, np.int32)
        for turn in range(4):
            add(module, x)
            expected += x
            assert np.array_equal(total, expected)
            total[turn::7] = expected[turn::7] = turn


def test_launches_in_a_row_and_a_store_of_the_cpu(gpu, module):
    with gpu("delay_us=100,kernel_us=10000").devices[0]:
        x, total, stream = np.ones(1000, np.int32), variable(module, "total", np.int32), hmm.Stream()
        for _ in range(3):
            add(module, x, stream=stream)
        total[0] = 100  # after the launches that were dispatched before, before those after it
        for _ in range(3):
            add(module, x, stream=stream)
        stream.synchronize()
        assert (total[1:] == 6).all() and 100 <= total[0] <= 106


def test_constants(gpu, module):
    with gpu("delay_us=100").devices[0]:
        y = np.zeros(3, np.float32)
        scale = variable(module, "deep::scale", np.float32)
        for turn in range(3):
            module.get_function("apply")((1,), (3,), (y,))
            assert np.array_equal(y, scale) and variable(module, "deep::last", np.float64)[0] == turn
            scale[:] = turn + 10
        assert variable(module, "flag", np.uint8)[0] == 9


def test_values_outlive_a_kernel_that_fails(gpu, module):
    with gpu().devices[0]:
        x, total = np.ones(1000, np.int32), variable(module, "total", np.int32)
        add(module, x)
        variable(module, "deep::scale", np.float32)[0] = 42
        with pytest.raises(hmm.KernelAssertion):
            module.get_function("fail")((1,), (1,), ())
        assert (total[1:] == 1).all()
        total[0] = 1
        add(module, x)
        assert (total == 2).all() and variable(module, "deep::scale", np.float32)[0] == 42


def test_each_space_has_its_own(gpu, module):
    with gpu().devices[0]:
        add(module, np.ones(1000, np.int32))
        first = variable(module, "total", np.int32)
    with gpu().devices[0]:
        assert not variable(module, "total", np.int32).any()
    assert first[0] == 1


@pytest.mark.parametrize("call", ["cuModuleGetGlobal_v2:1", "cuMemcpyDtoH_v2:1"])
def test_a_module_that_cannot_be_loaded(gpu, module, call):
    name = call.split(":")[0]
    with gpu(f"fail={call}").devices[0], pytest.raises(hmm.DeviceError, match=f"{name}: invalid argument"):
        module.get_global("total")


def test_a_copy_that_fails(gpu, module):
    with gpu("fail=cuMemcpyDtoDAsync_v2:1").devices[0]:
        total = variable(module, "total", np.int32)
        total[:] = 3
        with pytest.raises(hmm.DeviceError, match=r"variable .*cuMemcpyDtoDAsync_v2: invalid argument"):
            add(module, np.ones(1000, np.int32))
        assert (total == 3).all()
