"""Barriers: in loops, after early ends, in branches, with votes, many blocks, changing block sizes."""

from __future__ import annotations

import numpy as np
import pytest
from loader import FAIL_BARRIER, FAIL_LIMIT, PRECISE, KernelFailed, Module

REDUCE = r"""
__global__ void reduce(const int* in, int* out, int n) {
  __shared__ int s[1024];
  unsigned t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
  s[t] = i < n ? in[i] : 0;
  __syncthreads();
  for (unsigned k = blockDim.x / 2; k > 0; k >>= 1) {
    if (t < k) s[t] += s[t + k];
    __syncthreads();
  }
  if (t == 0) out[blockIdx.x] = s[0];
}
"""


@pytest.mark.parametrize("flags", [0, PRECISE])
@pytest.mark.parametrize("block", [1, 2, 32, 64, 256, 1024])
def test_block_reduction(block, flags):
    x = np.random.default_rng(block).integers(-100, 100, 5000).astype(np.int32)
    blocks = -(-x.size // block)
    out = np.zeros(blocks, np.int32)
    Module(REDUCE).kernel("reduce")(blocks, block, x, out, x.size, flags=flags)
    np.testing.assert_array_equal(out, np.add.reduceat(x, np.arange(0, x.size, block)))


def test_tiled_matrix_product():
    code = r"""
    #define TILE 16
    __global__ void tiled(int n, const float* A, const float* B, float* C) {
      __shared__ float As[TILE][TILE], Bs[TILE][TILE];
      int tx = threadIdx.x, ty = threadIdx.y;
      int row = blockIdx.y * TILE + ty, col = blockIdx.x * TILE + tx;
      float acc = 0.f;
      for (int t = 0; t < (n + TILE - 1) / TILE; ++t) {
        As[ty][tx] = (row < n && t * TILE + tx < n) ? A[row * n + t * TILE + tx] : 0.f;
        Bs[ty][tx] = (col < n && t * TILE + ty < n) ? B[(t * TILE + ty) * n + col] : 0.f;
        __syncthreads();
        for (int k = 0; k < TILE; ++k) acc += As[ty][k] * Bs[k][tx];
        __syncthreads();
      }
      if (row < n && col < n) C[row * n + col] = acc;
    }"""
    n = 75
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-4, 5, (n, n)).astype(np.float32) for _ in range(2))
    c = np.zeros_like(a)
    Module(code).kernel("tiled")((5, 5), (16, 16), n, a, b, c)
    np.testing.assert_array_equal(c, a @ b)


def test_early_return_counts_as_arrived():
    code = r"""__global__ void early(const int* in, int* out) {
      __shared__ int s[256];
      int t = threadIdx.x;
      if (t >= 100) { out[t] += 1; return; }
      s[t] = in[t];
      __syncthreads();
      out[t] += s[99 - t];
      if (t & 1) return;
      __syncthreads();
      s[t] = t;
      __syncthreads();
      out[t] += s[98 - t];
    }"""
    x, out = np.arange(256, dtype=np.int32) * 3, np.zeros(256, np.int32)
    Module(code).kernel("early")(1, 256, x, out)
    t = np.arange(256)
    want = np.where(t >= 100, 1, (99 - t) * 3 + np.where(t % 2 == 0, 98 - t, 0))
    np.testing.assert_array_equal(out, want)


def test_barrier_in_branches_of_a_uniform_condition():
    code = r"""__global__ void f(int* x, int mode) {
      __shared__ int s[64];
      int t = threadIdx.x;
      if (mode == 0) { s[t] = x[t]; __syncthreads(); x[t] = s[63 - t]; }
      else {
        for (int i = 0; i < mode; ++i) { s[t] = x[t]; __syncthreads(); int v = s[(t + 1) % 64]; __syncthreads(); x[t] = v; }
      }
    }"""
    kernel = Module(code).kernel("f")
    x = np.arange(64, dtype=np.int32)
    kernel(1, 64, x, 0)
    np.testing.assert_array_equal(x, np.arange(64)[::-1])
    kernel(1, 64, x, 5)
    np.testing.assert_array_equal(x, np.roll(np.arange(64)[::-1], -5))


@pytest.mark.parametrize("block", [5, 64, 1000])
def test_barriers_that_vote(block):
    code = r"""__global__ void vote(const int* in, int* out) {
      int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
      int count = __syncthreads_count(in[i] > 2);
      int all = __syncthreads_and(in[i] > 0), any = __syncthreads_or(in[i] > 8);
      __syncthreads();
      out[3 * i] = count; out[3 * i + 1] = all; out[3 * i + 2] = any;
    }"""
    x = np.random.default_rng(3).integers(0, 10, (6, block)).astype(np.int32)
    x[1] = 5
    x[2] = 1
    out = np.zeros((6, block, 3), np.int32)
    Module(code).kernel("vote")(6, block, x, out)
    for row, got in zip(x, out, strict=True):
        np.testing.assert_array_equal(got, [[(row > 2).sum(), (row > 0).all(), (row > 8).any()]] * block)


def test_block_sizes_change_from_launch_to_launch():
    module = Module(REDUCE)
    x = np.arange(4096, dtype=np.int32)
    for block in (64, 1024, 32, 512, 8, 1024):
        out = np.zeros(4096 // block, np.int32)
        module.kernel("reduce")(out.size, block, x, out, x.size)
        np.testing.assert_array_equal(out, x.reshape(-1, block).sum(1))


def test_modules_take_turns_on_the_same_workers():
    modules = [Module(REDUCE + f"// {i}") for i in range(3)]
    x = np.arange(2048, dtype=np.int32)
    for round_ in range(6):
        out = np.zeros(8, np.int32)
        modules[round_ % 3].kernel("reduce")(8, 256, x, out, x.size)
        np.testing.assert_array_equal(out, x.reshape(-1, 256).sum(1))


DEADLOCK = r"""
__global__ void stuck(int* out, int wait) {
  int t = threadIdx.x;
  if (wait && t == 3) out[0] = __shfl_sync(0xffffffff, t, 0);
  __syncthreads();
  out[t] = t;
}"""


def test_deadlock_is_told_and_the_worker_lives_on():
    module = Module(DEADLOCK)
    out = np.full(64, -1, np.int32)
    with pytest.raises(
        KernelFailed,
        match=r"deadlock in block \(0, 0, 0\): 63 threads wait in __syncthreads .*thread \(3, 0, 0\)",
    ) as e:
        module.kernel("stuck")(1, 64, out, 1)
    assert e.value.failure == FAIL_BARRIER
    module.kernel("stuck")(1, 64, out, 0)
    np.testing.assert_array_equal(out, np.arange(64))


def test_mask_that_names_lanes_elsewhere_is_told():
    code = r"""__global__ void f(int* out) {
      if (threadIdx.x < 16) out[threadIdx.x] = __ballot_sync(0xffffffff, 1); else out[threadIdx.x] = __shfl_sync(0xffffffff, 1, 0);
    }"""
    with pytest.raises(KernelFailed, match=r"deadlock.*warp operation"):
        Module(code).kernel("f")(1, 32, np.zeros(32, np.int32))


def test_too_much_is_refused():
    module = Module(
        "__global__ void f(int* x) { extern __shared__ int s[]; s[threadIdx.x] = 1; __syncthreads(); x[0] = s[0]; }"
    )
    x = np.zeros(1, np.int32)
    module.kernel("f")(1, 8, x, shared=1024)
    for kwargs, block, word in (({"shared": 1 << 20}, 8, "shared memory"), ({}, 2048, "threads a block")):
        with pytest.raises(KernelFailed, match=word) as e:
            module.kernel("f")(1, block, x, **kwargs)
        assert e.value.failure == FAIL_LIMIT


def test_registers_survive_barriers():
    code = r"""__global__ void f(double* out, const double* in, int n) {
      double a[8]; float f = threadIdx.x * 0.5f; long long l = (long long)threadIdx.x << 33;
      for (int i = 0; i < 8; ++i) a[i] = in[(threadIdx.x + i) % n];
      for (int k = 0; k < 10; ++k) { __syncthreads(); for (int i = 0; i < 8; ++i) a[i] += k; f += 1; l += k; }
      double s = 0; for (int i = 0; i < 8; ++i) s += a[i];
      out[threadIdx.x] = s + f + (double)(l >> 33);
    }"""
    x, out = np.arange(100, dtype=np.float64), np.zeros(200)
    Module(code).kernel("f")(1, 200, out, x, 100)
    t = np.arange(200)
    want = sum(x[(t + i) % 100] for i in range(8)) + 8 * 45 + t * 0.5 + 10 + t
    np.testing.assert_array_equal(out, want)
