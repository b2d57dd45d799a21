"""__shared__, __constant__ and __device__ variables in every form that CUDA programs use."""

from __future__ import annotations

import numpy as np
import pytest
from loader import Module


def test_static_shared_of_many_shapes():
    code = r"""
    struct Pair { int a; double b; };
    __global__ void f(double* out) {
      __shared__ int one; __shared__ float line[40], grid[4][10]; __shared__ Pair pairs[40], single;
      __shared__ struct { short lo, hi; } anonymous[40];
      __shared__ volatile int seen;
      static __shared__ unsigned char bytes[3];
      __shared__ __align__(128) double wide[40];
      int *where = &one;
      int t = threadIdx.x;
      if (t == 0) { *where = 7; single.b = 2.5; seen = 9; bytes[2] = 200; }
      line[t] = t; grid[t / 10][t % 10] = 2 * t; pairs[t].a = 3 * t; pairs[t].b = 4 * t; anonymous[t].hi = 5 * t; wide[t] = 6 * t;
      __syncthreads();
      int o = 39 - t;
      out[t] = one + line[o] + grid[o / 10][o % 10] + pairs[o].a + pairs[o].b + anonymous[o].hi + wide[o] + single.b + seen + bytes[2];
      if (t == 0) out[40] = (unsigned long long)wide % 128 + (sizeof(line) != 160) + (sizeof line / sizeof *line != 40);
    }"""
    out = np.full(41, -1.0)
    kernel = Module(code).kernel("f")
    kernel(1, 40, out)
    np.testing.assert_array_equal(out[:40], 21 * (39 - np.arange(40)) + 7 + 2.5 + 9 + 200)
    assert out[40] == 0
    assert 1600 < kernel.table.static_shared < 2000


def test_dynamic_shared():
    code = r"""
    extern __shared__ int everyone[];
    __device__ int peek(int i) { return everyone[i]; }
    __global__ void f(int* out, int n) {
      extern __shared__ __align__(16) unsigned char raw[];
      __shared__ int other[64];
      int* a = (int*)raw; float* b = (float*)&a[n];
      int t = threadIdx.x;
      other[t] = -1; a[t] = t; b[t] = t * 2.f;
      __syncthreads();
      out[t] = peek(n - 1 - t) + (int)b[n - 1 - t] + (everyone == a ? 0 : 1000) + other[t];
    }"""
    out = np.zeros(64, np.int32)
    Module(code).kernel("f")(1, 64, out, 64, shared=64 * 8)
    np.testing.assert_array_equal(out, 3 * (63 - np.arange(64)) - 1)


def test_dynamic_shared_in_templates():
    code = r"""
    template <class T> struct SharedMemory { __device__ operator T*() { extern __shared__ int bytes_[]; return (T*)bytes_; } };
    template <class T> __global__ void f(T* out) {
      T* s = SharedMemory<T>();
      s[threadIdx.x] = threadIdx.x; __syncthreads(); out[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
    }"""
    module = Module(code, name_expressions=["f<float>", "f<double>"])
    for name, dtype in (("f<float>", np.float32), ("f<double>", np.float64)):
        out = np.zeros(50, dtype)
        module.kernel(name)(1, 50, out, shared=400)
        np.testing.assert_array_equal(out, np.arange(50)[::-1])


def test_shared_in_device_functions_is_one_per_function():
    code = r"""
    __device__ int* cell() { __shared__ int value; return &value; }
    template <int N> __device__ int* slot() { __shared__ int value[N]; return value; }
    struct Box { __device__ static int* of() { __shared__ int inside; return &inside; } };
    __global__ void f(int* out) {
      int t = threadIdx.x;
      if (t == 0) { *cell() = 5; slot<4>()[3] = 6; slot<8>()[7] = 7; *Box::of() = 8; }
      __syncthreads();
      out[t] = *cell() + 10 * slot<4>()[3] + 100 * slot<8>()[7] + 1000 * *Box::of();
      if (t == 0) out[0] -= 100000 * (cell() == slot<4>());
    }"""
    out = np.zeros(33, np.int32)
    Module(code).kernel("f")(2, 33, out)
    assert (out == 5 + 60 + 700 + 8000).all()


def test_shared_in_nested_scopes_does_not_overlap():
    code = r"""__global__ void f(int* out) {
      int t = threadIdx.x;
      for (int i = 0; i < 3; ++i) {
        { __shared__ int a[32]; if (i == 0) a[t] = t; __syncthreads(); out[t] += a[31 - t]; }
        { __shared__ int b[32]; b[t] = 1000; __syncthreads(); out[t] += b[31 - t]; }
      }
    }"""
    out = np.zeros(32, np.int32)
    Module(code).kernel("f")(1, 32, out)
    np.testing.assert_array_equal(out, 3 * (31 - np.arange(32)) + 3000)


def test_shared_in_lambdas():
    code = r"""__global__ void f(int* out) {
      __shared__ int s[32];
      int t = threadIdx.x, shift = 1;
      auto put = [=](int v) { s[t] = v; };
      auto get = [&](int i) { __syncthreads(); return s[(i + shift) % blockDim.x]; };
      auto self = [] { return (int)threadIdx.x; };
      auto pick = [shift](int i) { return i + shift + (int)threadIdx.x; };
      put(t * 10);
      out[t] = get(self()) + pick(1000);
    }"""
    out = np.zeros(32, np.int32)
    Module(code).kernel("f")(1, 32, out)
    t = np.arange(32)
    np.testing.assert_array_equal(out, (t + 1) % 32 * 10 + 1001 + t)


def test_constants_and_device_variables():
    code = r"""
    struct Config { int n; float scale; };
    __constant__ float weights[4] = {1, 2, 3, 4};
    __constant__ Config config;
    __constant__ float alpha = 2.5f, beta;
    __device__ int counter = 10;
    static __device__ unsigned long long wide[3] = {1, 2};
    __device__ int matrix[2][3] = {{1, 2, 3}, {4, 5, 6}}, plain;
    __device__ int inferred[] = {7, 8, 9, 10};
    __device__ const int BOUND = 3;
    __constant__ constexpr int SIZE = 2;
    namespace deep { __device__ volatile int flag = 4; namespace { __device__ double hidden = 1.5; } }
    extern __device__ int later;
    __device__ int read_later() { return later; }
    __device__ int later = 99;
    __global__ void f(float* out) {
      int local[BOUND + SIZE] = {};
      out[0] = weights[0] + weights[3]; out[1] = config.n * config.scale; out[2] = alpha + beta; out[3] = wide[1] + wide[2];
      out[4] = matrix[1][2] + plain; out[5] = inferred[3] + sizeof(inferred) / sizeof(int); out[6] = sizeof(local) / 4;
      out[7] = deep::flag + deep::hidden; out[8] = read_later();
      atomicAdd(&counter, 1);
    }"""
    module = Module(code)
    assert set(module.globals) == {
        "weights",
        "config",
        "alpha",
        "beta",
        "counter",
        "wide",
        "matrix",
        "plain",
        "inferred",
        "deep::flag",
        "deep::hidden",
        "later",
    }
    assert [module.globals[n].constant for n in ("weights", "counter")] == [1, 0]
    assert module.globals["matrix"].bytes == 24 and module.globals["matrix"].type == b"int[2][3]"
    config = module.variable("config", np.dtype([("n", "i4"), ("scale", "f4")]))
    assert config["n"] == 0
    config["n"], config["scale"] = 6, 0.5
    module.variable("beta", np.float32)[:] = 0.25
    out = np.zeros(9, np.float32)
    module.kernel("f")(3, 1, out)
    np.testing.assert_array_equal(out, [5, 3, 2.75, 2, 6, 14, 5, 5.5, 99])
    assert module.variable("counter", np.int32)[0] == 13


def test_shared_atomics_and_histogram():
    code = r"""__global__ void hist(const unsigned char* data, int n, unsigned* out) {
      __shared__ unsigned h[256];
      h[threadIdx.x] = 0;
      __syncthreads();
      int stride = blockDim.x * gridDim.x;
      for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) atomicAdd(&h[data[i]], 1u);
      __syncthreads();
      atomicAdd(&out[threadIdx.x], h[threadIdx.x]);
    }"""
    data = np.random.default_rng(0).integers(0, 256, 100_003).astype(np.uint8)
    out = np.zeros(256, np.uint32)
    Module(code).kernel("hist")(10, 256, data, data.size, out)
    np.testing.assert_array_equal(out, np.bincount(data, minlength=256))


@pytest.mark.parametrize("counted", [False, True])
def test_namespace_scope_shared_arrays(counted):
    warp = "v += __shfl_sync(0xffffffff, 0, 0);" if counted else ""
    code = r"""
    namespace tile { __shared__ int data[64]; }
    __shared__ int total;
    __device__ void fill(int v) { tile::data[threadIdx.x] = v; }
    __global__ void f(int* out) {
      int v = threadIdx.x; WARP
      if (v == 0) total = 3;
      fill(v * 2); __syncthreads(); out[v] = tile::data[63 - v] + total;
    }""".replace("WARP", warp)
    out = np.zeros(64, np.int32)
    Module(code).kernel("f")(1, 64, out)
    np.testing.assert_array_equal(out, 2 * (63 - np.arange(64)) + 3)
