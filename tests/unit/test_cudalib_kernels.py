"""The device library inside kernels, through the kernel compiler and the device process."""

from __future__ import annotations

import numpy as np
import pytest

import hmmemu as hmm

N = 1000


def launch(space: hmm.AddressSpace, source: str, *args: object, grid: int = 4, block: int = 256) -> None:
    hmm.RawKernel(source, "k", filename="user.cu")((grid,), (block,), args)
    space.synchronize()


def test_macros_of_system_headers(space: hmm.AddressSpace) -> None:
    out = space.zeros(6, np.float64)
    source = r"""
    #include <cfloat>
    #include <climits>
    #include <cmath>
    #include <cstdint>
    #include <math_constants.h>
    extern "C" __global__ void k(double* y) {
      y[0] = FLT_MAX, y[1] = INT_MAX, y[2] = M_PI, y[3] = CUDART_PI, y[4] = UINT32_MAX, y[5] = isinf(INFINITY) + 2 * isnan(NAN);
    }"""
    launch(space, source, out, grid=1, block=1)
    assert out.tolist() == [np.finfo(np.float32).max, 2**31 - 1, np.pi, np.pi, 2**32 - 1, 3]


@pytest.mark.parametrize("header", ["", "#include <cmath>\n#include <algorithm>\nusing namespace std;\n"])
def test_mathematics(space: hmm.AddressSpace, header: str) -> None:
    x, y = space.asarray(np.linspace(-5, 5, N, dtype=np.float32)), space.zeros(N, np.float32)
    source = (
        header
        + r"""
    extern "C" __global__ void k(const float* x, float* y, int n) {
      int i = blockIdx.x * blockDim.x + threadIdx.x;
      if (i >= n) return;
      float s, c;
      sincosf(x[i], &s, &c);
      y[i] = s * sin(x[i]) + c * __cosf(x[i]) + max(x[i], 0.0f) + rsqrtf(1 + x[i] * x[i]) + __expf(-abs(x[i]));
    }"""
    )
    launch(space, source, x, y, np.int32(N))
    wide = x.astype(np.float64)
    np.testing.assert_allclose(
        y, 1 + np.maximum(wide, 0) + 1 / np.sqrt(1 + wide**2) + np.exp(-np.abs(wide)), rtol=1e-5
    )


def test_strict_mathematics_is_the_same_alone_and_in_a_loop(space: hmm.AddressSpace) -> None:
    x, y, alone = (
        space.asarray(np.linspace(-5, 5, N, dtype=np.float32)),
        space.zeros(N, np.float32),
        space.zeros(N, np.float32),
    )
    source = r"""extern "C" __global__ void k(const float* x, float* y, int first, int n) {
      int i = first + blockIdx.x * blockDim.x + threadIdx.x;
      if (i < n) y[i] = expf(x[i]) + sinf(x[i]) * logf(8 + x[i]);
    }"""
    kernel = hmm.RawKernel(source, "k", options=("-DHMMEMU_STRICT_MATH",))
    kernel((4,), (256,), (x, y, np.int32(0), np.int32(N)))
    for i in range(0, N, 13):
        kernel((1,), (1,), (x, alone, np.int32(i), np.int32(N)))
    np.testing.assert_array_equal(y[::13], alone[::13])


def test_half(space: hmm.AddressSpace) -> None:
    x, y = space.asarray(np.linspace(0, 10, N).astype(np.float16)), space.zeros(N, np.float16)
    source = r"""
    #include <cuda_fp16.h>
    extern "C" __global__ void k(const half* x, half* y, int n) {
      int i = blockIdx.x * blockDim.x + threadIdx.x;
      if (i < n) y[i] = __hmul(x[i], x[i]) + half(0.5f);
    }"""
    launch(space, source, x, y, np.int32(N))
    np.testing.assert_array_equal(y, x * x + np.float16(0.5))


def test_vector_types(space: hmm.AddressSpace) -> None:
    x, y = space.asarray(np.arange(4 * N, dtype=np.float32)), space.zeros(4 * N, np.float32)
    source = r"""
    __device__ float4 operator*(float s, float4 v) { return make_float4(s * v.x, s * v.y, s * v.z, s * v.w); }
    extern "C" __global__ void k(const float4* x, float4* y, int n) {
      int i = blockIdx.x * blockDim.x + threadIdx.x;
      if (i < n) y[i] = 2.0f * __ldg(&x[i]);
    }"""
    launch(space, source, x, y, np.int32(N))
    np.testing.assert_array_equal(y, 2 * x)


@pytest.mark.parametrize("scope", ["", "_block", "_system"])
def test_atomics_in_shared_and_global_memory(space: hmm.AddressSpace, scope: str) -> None:
    counts, total, greatest = space.zeros(16, np.uint32), space.zeros(1, np.float64), space.zeros(1, np.int32)
    source = r"""
    extern "C" __global__ void k(unsigned* counts, double* total, int* greatest) {
      __shared__ unsigned mine[16];
      if (threadIdx.x < 16) mine[threadIdx.x] = 0;
      __syncthreads();
      atomicAddSCOPE(&mine[threadIdx.x % 16], 1u);
      atomicAdd(total, 0.5);
      atomicMax(greatest, int(blockIdx.x * blockDim.x + threadIdx.x));
      __syncthreads();
      if (threadIdx.x < 16) atomicAdd(&counts[threadIdx.x], mine[threadIdx.x]);
    }""".replace("SCOPE", scope)
    launch(space, source, counts, total, greatest, grid=64)
    assert (counts == 64 * 16).all() and total[0] == 64 * 128 and greatest[0] == 64 * 256 - 1


@pytest.mark.parametrize("barrier", ["", "__syncthreads();"])
def test_assert_names_block_and_thread(space: hmm.AddressSpace, barrier: str) -> None:
    out = space.zeros(N, np.int32)
    source = (
        "__device__ void check(int i) { assert(i != 300); }\n"
        f'extern "C" __global__ void k(int* y) {{ {barrier}\n'
        "  check(blockIdx.x * blockDim.x + threadIdx.x); }\n"
    )
    with pytest.raises(hmm.KernelAssertion) as caught:
        launch(space, source, out, grid=3, block=128)
    assert "user.cu:1: check: block: [2,0,0], thread: [44,0,0] Assertion `i != 300` failed." in str(
        caught.value
    )
    launch(space, 'extern "C" __global__ void k(int* y) { y[threadIdx.x] = 7; }', out, grid=1)
    assert (out[:256] == 7).all()


@pytest.mark.parametrize("header", ["", "#include <cassert>\n", "#include <cmath>\n"])
def test_ndebug_switches_assert_off(space: hmm.AddressSpace, header: str) -> None:
    out = space.zeros(1, np.int32)
    source = header + 'extern "C" __global__ void k(int* y) { assert(y[0] != 0); y[0] = 7; }'
    hmm.RawKernel(source, "k", options=("-DNDEBUG",))((1,), (1,), (out,))
    assert out[0] == 7
    out[0] = 0
    with pytest.raises(hmm.KernelAssertion):
        hmm.RawKernel(source, "k")((1,), (1,), (out,))


def test_trap(space: hmm.AddressSpace) -> None:
    with pytest.raises(hmm.KernelAssertion, match="__trap"):
        launch(space, 'extern "C" __global__ void k(int n) { if (threadIdx.x == n) __trap(); }', np.int32(5))


def test_printf_of_every_thread_once(space: hmm.AddressSpace, capfd: pytest.CaptureFixture[str]) -> None:
    source = r"""extern "C" __global__ void k() { printf("%d,%u %s %.2f\n", blockIdx.x, threadIdx.x, "text", 0.5 * threadIdx.x); }"""
    launch(space, source, grid=2, block=40)
    lines = sorted(capfd.readouterr().out.splitlines())
    assert lines == sorted(f"{b},{t} text {t / 2:.2f}" for b in range(2) for t in range(40))


def test_clock_grows(space: hmm.AddressSpace) -> None:
    out = space.zeros(2, np.int64)
    source = 'extern "C" __global__ void k(long long* y) { y[0] = clock64(); __nanosleep(50); __threadfence(); y[1] = clock64(); }'
    launch(space, source, out, grid=1, block=1)
    assert 0 < out[1] - out[0] < 10**10
