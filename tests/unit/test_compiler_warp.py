"""Warp operations: shuffles, votes, matches, reductions; partial warps, partial masks, divergence, ended lanes."""

from __future__ import annotations

import numpy as np
import pytest
from loader import Module


def lanes(n):
    return np.arange(n) % 32


@pytest.mark.parametrize("width", [2, 8, 32])
@pytest.mark.parametrize(
    ("ctype", "dtype"),
    [
        ("int", "i4"),
        ("unsigned", "u4"),
        ("long long", "i8"),
        ("unsigned long long", "u8"),
        ("float", "f4"),
        ("double", "f8"),
    ],
)
def test_shuffles_of_every_type_and_width(ctype, dtype, width):
    code = f"""__global__ void f(const {ctype}* x, {ctype}* y, int w) {{
      int t = threadIdx.x, n = blockDim.x; {ctype} v = x[t];
      y[t] = __shfl_sync(0xffffffffu, v, 5, w);
      y[n + t] = __shfl_up_sync(0xffffffffu, v, 3u, w);
      y[2 * n + t] = __shfl_down_sync(0xffffffffu, v, 2, w);
      y[3 * n + t] = __shfl_xor_sync(0xffffffffu, v, 1, w);
    }}"""
    n = 96
    x = (np.random.default_rng(1).random(n) * 1e6).astype(dtype)
    y = np.zeros((4, n), dtype)
    Module(code).kernel("f")(1, n, x, y, width)
    t = np.arange(n)
    base, inside = t // width * width, t % width
    np.testing.assert_array_equal(y[0], x[base + 5 % width])
    np.testing.assert_array_equal(y[1], np.where(inside >= 3, x[t - 3], x))
    np.testing.assert_array_equal(y[2], np.where(inside + 2 < width, x[np.minimum(t + 2, n - 1)], x))
    np.testing.assert_array_equal(y[3], x[t ^ 1])


def test_votes_and_matches():
    code = r"""__global__ void f(const int* x, unsigned* y) {
      int t = threadIdx.x, n = blockDim.x, p;
      y[t] = __ballot_sync(0xffffffff, x[t] > 4);
      y[n + t] = __any_sync(0xffffffff, x[t] > 8);
      y[2 * n + t] = __all_sync(0xffffffff, x[t] > 0);
      y[3 * n + t] = __match_any_sync(0xffffffff, x[t]);
      y[4 * n + t] = __match_all_sync(0xffffffff, x[t] / 100, &p); y[5 * n + t] = p;
      y[6 * n + t] = __match_all_sync(0xffffffff, x[t], &p); y[7 * n + t] = p;
    }"""
    x = np.random.default_rng(7).integers(0, 10, 64).astype(np.int32)
    x[:32] = np.maximum(x[:32], 1)
    y = np.zeros((8, 64), np.uint32)
    Module(code).kernel("f")(1, 64, x, y)
    for w in (0, 32):
        v, got = x[w : w + 32], y[:, w : w + 32]
        bits = lambda p: sum(1 << i for i in range(32) if p[i])  # noqa: E731
        assert (
            (got[0] == bits(v > 4)).all()
            and (got[1] == (v > 8).any()).all()
            and (got[2] == (v > 0).all()).all()
        )
        np.testing.assert_array_equal(got[3], [bits(v == k) for k in v])
        assert (got[4] == 0xFFFFFFFF).all() and (got[5] == 1).all()
        same = bool((v == v[0]).all())
        assert (got[7] == same).all() and (got[6] == (0xFFFFFFFF if same else 0)).all()


def test_reductions_of_a_warp():
    names = ["add", "min", "max"]
    code = "__global__ void f(const int* x, int* y, const unsigned* u, unsigned* z) { int t = threadIdx.x, n = blockDim.x;"
    for k, name in enumerate(names):
        code += f"y[{k} * n + t] = __reduce_{name}_sync(0xffffffff, x[t]); z[{k} * n + t] = __reduce_{name}_sync(0xffffffff, u[t]);"
    for k, name in enumerate(["and", "or", "xor"]):
        code += f"z[{k + 3} * n + t] = __reduce_{name}_sync(0xffffffff, u[t]);"
    x = np.random.default_rng(2).integers(-(2**31), 2**31, 64).astype(np.int32)
    u = x.view(np.uint32)
    y, z = np.zeros((3, 64), np.int32), np.zeros((6, 64), np.uint32)
    Module(code + "}").kernel("f")(1, 64, x, y, u, z)
    for w in (0, 32):
        v, b = x[w : w + 32], u[w : w + 32]
        want = [np.add.reduce(v, dtype=np.int32), v.min(), v.max()]
        assert [int(y[k, w]) for k in range(3)] == [int(k) for k in want]
        want = [
            np.add.reduce(b, dtype=np.uint32),
            b.min(),
            b.max(),
            np.bitwise_and.reduce(b),
            np.bitwise_or.reduce(b),
            np.bitwise_xor.reduce(b),
        ]
        assert [int(z[k, w + 31]) for k in range(6)] == [int(k) for k in want]


@pytest.mark.parametrize("block", [1, 7, 31, 33, 50, 95])
def test_partial_warps(block):
    code = r"""__global__ void f(unsigned* y) {
      int t = threadIdx.x, n = blockDim.x, lane = t % 32, last = min(31, n - 1 - t / 32 * 32);
      y[t] = __ballot_sync(0xffffffff, 1);
      y[n + t] = __shfl_sync(0xffffffff, t, last);
      __syncwarp();
      __syncthreads();
      y[2 * n + t] = __activemask();
    }"""
    y = np.zeros((3, block), np.uint32)
    Module(code).kernel("f")(1, block, y)
    full = [(1 << min(32, block - t // 32 * 32)) - 1 for t in range(block)]
    np.testing.assert_array_equal(y[0], full)
    np.testing.assert_array_equal(y[1], [min(block - 1, t // 32 * 32 + 31) for t in range(block)])
    np.testing.assert_array_equal(y[2], full)


def test_masks_of_part_of_the_warp_run_independently():
    code = r"""__global__ void f(int* y) {
      int t = threadIdx.x, lane = t & 31;
      if (lane < 16) { int v = t; for (int o = 8; o; o >>= 1) v += __shfl_xor_sync(0x0000ffff, v, o); y[t] = v; }
      else { y[t] = __ballot_sync(0xffff0000, lane & 1); for (int i = 0; i < 3; ++i) y[t] += __shfl_down_sync(0xffff0000, 1, 1); }
      __syncwarp();
      y[t] += __reduce_add_sync(0xffffffff, 1);
    }"""
    y = np.zeros(64, np.int32)
    Module(code).kernel("f")(1, 64, y)
    odd = np.array([0xAAAA0000], np.uint32).view(np.int32)[0]
    for w in (0, 32):
        assert (y[w : w + 16] == sum(range(w, w + 16)) + 32).all()
        assert (y[w + 16 : w + 32] == odd + 3 + 32).all()


def test_lanes_that_end_leave_the_group():
    code = r"""__global__ void f(unsigned* y, int stop) {
      int t = threadIdx.x;
      if (t % 32 >= stop) { y[t] = 77; return; }
      y[t] = __ballot_sync(0xffffffff, 1);
      if (t % 32 == 0) return;
      y[t] += __ballot_sync(0xffffffff, 1);
    }"""
    for stop in (1, 5, 32):
        y = np.zeros(64, np.uint32)
        Module(code).kernel("f")(1, 64, y, stop)
        bits = (1 << stop) - 1
        want = np.where(
            lanes(64) >= stop, 77, np.where(lanes(64) == 0, bits, (bits + (bits & ~1)) & 0xFFFFFFFF)
        )
        np.testing.assert_array_equal(y, want)


def test_last_arrival_may_be_an_exit():
    code = r"""__global__ void f(unsigned* y) {
      int t = threadIdx.x;
      if (t == 31) { for (int i = 0; i < 4; ++i) __syncwarp(1u << 31); return; }
      y[t] = __ballot_sync(0xffffffff, t != 2);
    }"""
    y = np.zeros(32, np.uint32)
    Module(code).kernel("f")(1, 32, y)
    assert (y[:31] == 0x7FFFFFFB).all()


def test_warp_aggregated_atomics_with_activemask():
    code = r"""__device__ int bump(int* counter) {
      unsigned mask = __activemask();
      int lane = threadIdx.x & 31, leader = __ffs(mask) - 1, base;
      if (lane == leader) base = atomicAdd(counter, __popc(mask));
      base = __shfl_sync(mask, base, leader);
      return base + __popc(mask & ((1u << lane) - 1));
    }
    __global__ void keep(const int* x, int n, int* out, int* count) {
      int i = blockIdx.x * blockDim.x + threadIdx.x;
      if (i < n && x[i] > 0) out[bump(count)] = x[i];
    }"""
    x = np.random.default_rng(5).integers(-50, 50, 3000).astype(np.int32)
    out, count = np.zeros(3000, np.int32), np.zeros(1, np.int32)
    Module(code).kernel("keep")(12, 256, x, x.size, out, count)
    assert count[0] == (x > 0).sum()
    np.testing.assert_array_equal(np.sort(out[: count[0]]), np.sort(x[x > 0]))


def test_warp_sums_then_block_sum():
    code = r"""
    template <typename T> __inline__ __device__ T warpSum(T v) {
      for (int o = warpSize / 2; o > 0; o /= 2) v += __shfl_down_sync(0xffffffff, v, o);
      return v;
    }
    template <typename T> __inline__ __device__ T blockSum(T v) {
      static __shared__ T shared[32];
      int lane = threadIdx.x % warpSize, wid = threadIdx.x / warpSize;
      v = warpSum(v);
      if (lane == 0) shared[wid] = v;
      __syncthreads();
      v = threadIdx.x < (blockDim.x + warpSize - 1) / warpSize ? shared[lane] : T(0);
      if (wid == 0) v = warpSum<T>(v);
      return v;
    }
    __global__ void sum(const int* x, long long* out, int n) {
      long long s = 0;
      for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += blockDim.x * gridDim.x) s += x[i];
      s = blockSum(s);
      if (threadIdx.x == 0) atomicAdd((unsigned long long*)out, (unsigned long long)s);
    }"""
    x = np.random.default_rng(6).integers(-1000, 1000, 10_007).astype(np.int32)
    for block in (32, 96, 512):
        out = np.zeros(1, np.int64)
        Module(code).kernel("sum")(7, block, x, out, x.size)
        assert out[0] == x.sum()
