"""Kernels and device functions in every position that C++ allows; what the context reaches and how."""

from __future__ import annotations

import numpy as np
import pytest
from loader import Module

from hmmemu.compiler import signatures


def run(code, n=64, block=32, name="f", mode=None, extra=(), **kwargs):
    module = Module(code, **kwargs)
    out = np.full(n, -1, np.int32)
    if mode:
        assert module.kernel(name).mode == mode
    module.kernel(name)(n // block, block, out, *extra)
    return out


I = np.arange(64)  # noqa: E741


def test_kernels_by_every_declaration():
    code = r"""
    extern "C" __global__ void c_linkage(int* o) { o[threadIdx.x] = 1; }
    extern "C" { __global__ void in_block(int* o) { o[threadIdx.x] = 2; } }
    static __global__ void is_static(int* o) { o[threadIdx.x] = 3; }
    void __global__ reversed(int* o) { o[threadIdx.x] = 4; }
    __global__ void __launch_bounds__(128, 2) bounded(int* o) { o[threadIdx.x] = 5; }
    __global__ __launch_bounds__(64 * 2) void bounded2(int* o) { o[threadIdx.x] = 6; }
    __global__ void prototype(int*);
    __global__ void prototype(int* o) { o[threadIdx.x] = 7; }
    namespace a { namespace b { __global__ void nested(int* o) { o[threadIdx.x] = 8; } } }
    namespace { __global__ void anonymous(int* o) { o[threadIdx.x] = 9; } }
    namespace c::d { constexpr int N = 256; __global__ __launch_bounds__(N) void cpp17(int* o) { o[threadIdx.x] = 10; } }
    #define KERNEL(name, value) __global__ void name(int* o) { \
        o[threadIdx.x] = value; }
    KERNEL(from_macro, 11)
    __global__ void no_arguments() {}
    __global__ void explicit_void(void) {}
    [[maybe_unused]] __global__ void attributed(int* o) { o[threadIdx.x] = 12; }
    """
    module = Module(code)
    names = [
        "c_linkage",
        "in_block",
        "is_static",
        "reversed",
        "bounded",
        "bounded2",
        "prototype",
        "a::b::nested",
        "anonymous",
        "c::d::cpp17",
        "from_macro",
    ]
    for value, name in enumerate(names, 1):
        out = np.zeros(16, np.int32)
        module.kernel(name)(1, 16, out)
        assert (out == value).all(), name
    module.kernel("nested")(1, 16, out)
    assert (out == 8).all()
    module.kernel("attributed")(1, 16, out)
    assert (out == 12).all()
    module.kernel("no_arguments")(2, 3)
    module.kernel("explicit_void")(2, 3)
    assert [
        module.kernel(n).table.max_threads for n in ("bounded", "bounded2", "c::d::cpp17", "reversed")
    ] == [128, 128, 256, 1024]


def test_name_expressions():
    code = r"""
    namespace ns { struct Tag { static constexpr int value = 7; }; template <class T, int N = 3> __global__ void g(T* o) { o[threadIdx.x] = N; } }
    template <typename T> __global__ void f(T* o, T v) { o[threadIdx.x] = v + sizeof(T); }
    template <typename Tag> __global__ void h(int* o) { o[threadIdx.x] = Tag::value; }
    template __global__ void f<short>(short*, short);
    __global__ void plain(int* o) { o[threadIdx.x] = 1; }
    """
    names = ["f<float>", "f<long long>", "ns::g<int>", "ns::g<int, 9>", "h<ns::Tag>", "&f<int>", "plain"]
    module = Module(code, name_expressions=names)
    out = np.zeros(8, np.float32)
    module.kernel("f<float>")(1, 8, out, 0.5)
    assert (out == 4.5).all()
    for name, want in (("ns::g<int>", 3), ("ns::g<int, 9>", 9), ("h<ns::Tag>", 7), ("plain", 1)):
        out = np.zeros(8, np.int32)
        module.kernel(name)(1, 8, out)
        assert (out == want).all()
    assert [p.size for p in module.kernel("f<long long>").params] == [8, 8]
    assert "f" not in module.kernels


def test_device_functions_in_every_position():
    code = r"""
    #define WHERE (blockIdx.x * blockDim.x + threadIdx.x)
    __device__ int overloaded(int a) { return a + WHERE; }
    __device__ int overloaded(float a) { return 100 + WHERE; }
    template <class T> __device__ T generic(T a) { return a + (T)WHERE; }
    template <> __device__ short generic<short>(short a) { return a + 1000; }
    template <class... A> __device__ int variadic(A... a) { return (0 + ... + a) + WHERE; }
    __host__ __device__ constexpr int square(int x) { return x * x; }
    namespace util { __device__ inline int deep(int x) { return overloaded(x); } namespace { __device__ int hidden() { return util::deep(0); } } }
    __device__ int even(int n); __device__ int odd(int n) { return n == 0 ? WHERE : even(n - 1); }
    __device__ int even(int n) { return n == 0 ? -1 : odd(n - 1); }
    struct Body { int k; __device__ int run(int x) const { return k + x + WHERE; } __device__ int operator()(int x) { return run(x); }
                  template <class T> __device__ T make() { return generic<T>(k); } __device__ Body(int k) : k(k) {} __device__ static int fixed() { return WHERE; } };
    template <class F> __device__ int apply(F f, int x) { return f(x); }
    __device__ int callback(int x) { return x + WHERE; }
    using Function = int (*)(int);
    __global__ void f(int* o, int which) {
      int i = WHERE, r = 0;
      Body body(5);
      struct Local { __device__ int at() { return threadIdx.x; } } local;
      auto lambda = [=](int x) { return x + (int)threadIdx.x + generic<int>(0); };
      Function pointer = callback;
      switch (which) {
        case 0: r = overloaded(1); break;
        case 1: r = overloaded(1.f); break;
        case 2: r = generic(2) + generic<long>(2); break;
        case 3: r = generic<short>(1); break;
        case 4: r = variadic(1, 2, 3); break;
        case 5: r = util::deep(3) + util::hidden(); break;
        case 6: r = odd(4) + odd(3) * 0 + square(3); break;
        case 7: r = body.run(1) + body(2) + body.make<int>() + Body::fixed(); break;
        case 8: r = apply(body, 1) + apply(lambda, 2) + apply([&](int x) { return x + i + (int)blockIdx.x; }, 0); break;
        case 9: r = pointer(1) + apply(callback, 2) + apply([] (int x) -> int { return x + WHERE; }, 0); break;
        case 10: r = local.at() + lambda(0) - (int)threadIdx.x; break;
      }
      o[i] = r;
    }"""
    module = Module(code)
    t, b = I % 32, I // 32
    want = [
        I + 1,
        I + 100,
        2 * I + 4,
        I * 0 + 1001,
        I + 6,
        2 * I + 3,
        I + 9,
        4 * I + 6 + 7 + 5,
        3 * I + 6 + 2 + t + b,
        3 * I + 3,
        t + I,
    ]
    want[6] = I + 9 + 0 * I  # odd(4): even number of steps ends in odd(0)
    want[8] = (I + 6) + (2 + t + I) + (I + b)
    want[7] = (I + 6) + (I + 7) + (I + 5) + I
    for which, expected in enumerate(want):
        out = np.zeros(64, np.int32)
        module.kernel("f")(2, 32, out, which)
        np.testing.assert_array_equal(out, expected, err_msg=f"case {which}")


def test_barriers_and_warps_in_device_functions_and_members():
    code = r"""
    struct Scan {
      int* s;
      __device__ int inclusive(int v) const {
        int t = threadIdx.x;
        s[t] = v; __syncthreads();
        for (int o = 1; o < blockDim.x; o *= 2) { int add = t >= o ? s[t - o] : 0; __syncthreads(); s[t] += add; __syncthreads(); }
        return s[t];
      }
    };
    template <int N> struct Block { __device__ static int sum(int v) { __shared__ int cells[N]; Scan scan{cells}; scan.inclusive(v); return cells[blockDim.x - 1]; } };
    __device__ int recursive(int n, int v) { if (n == 0) return v; __syncthreads(); return recursive(n - 1, v + __shfl_xor_sync(0xffffffff, v, 1)); }
    __global__ void f(int* o) {
      __shared__ int s[32];
      Scan scan{s};
      int i = blockIdx.x * blockDim.x + threadIdx.x;
      o[i] = scan.inclusive(threadIdx.x) + 1000 * Block<64>::sum(1) + 100000 * recursive(3, 1);
    }"""
    t = I % 32
    np.testing.assert_array_equal(run(code, mode="fiber"), t * (t + 1) // 2 + 32000 + 800000)


def test_shadowing_the_builtin_names():
    code = r"""__global__ void f(int* o) { int blockDim = 3; { int gridDim = threadIdx.x; o[blockIdx.x * 32 + threadIdx.x] = blockDim + gridDim; } }"""
    np.testing.assert_array_equal(run(code), 3 + I % 32)


def test_default_arguments_and_member_initialisers_see_the_thread():
    code = r"""
    __device__ int with_default(int x = threadIdx.x) { return x; }
    struct Where { int t = threadIdx.x, b; __device__ Where() : b(blockIdx.x) {} };
    __global__ void f(int* o) { Where w; o[blockIdx.x * blockDim.x + threadIdx.x] = with_default() + 100 * w.t + 10000 * w.b; }"""
    np.testing.assert_array_equal(run(code), I % 32 * 101 + 10000 * (I // 32))


def test_conditionals_inside_bodies_and_headers(tmp_path):
    (tmp_path / "helper.cuh").write_text(
        "#pragma once\n__device__ int from_header(int x) { return x + threadIdx.x; }\n"
    )
    code = r"""
    #include "helper.cuh"
    #include "helper.cuh"
    #include <cuda_runtime.h>
    __global__ void f(int* o) {
      int i = blockIdx.x * blockDim.x + threadIdx.x;
    #if SCALE > 2
      #pragma unroll 4
      for (int k = 0; k < SCALE; ++k) o[i] += from_header(k);
    #else
      this is not compiled
    #endif
    #ifdef __CUDA_ARCH__
      o[i] += 1;
    #endif
    }"""
    out = run(code, options=("-DSCALE=3", "-I", str(tmp_path), "--std=c++14", "-arch=sm_80", "-lineinfo"))
    np.testing.assert_array_equal(out, 3 * (I % 32) + 3)


def test_headers_that_are_system_headers_or_in_another_encoding(tmp_path):
    folder = tmp_path / "include"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/outer.h").write_text('#pragma GCC system_header\n#include "deep/inner.h"\n')
    (folder / "deep/inner.h").write_text(
        "#define INNER 40\nstatic __device__ int inner() { return INNER; }\n"
    )
    (folder / "old.h").write_bytes(b"static __device__ int old() { return 2; }  // gr\xfc\xdfe\n")
    code = r"""
    #include <deep/outer.h>
    #include "old.h"
    __global__ void f(int* o) { o[blockIdx.x * blockDim.x + threadIdx.x] = inner() + old(); }"""
    np.testing.assert_array_equal(run(code, options=(f"-I{folder}",)), 0 * I + 42)


def test_signatures():
    code = """
    namespace n { template <class T> __global__ void t(const T* __restrict__ x, T y[], int (*fn)(int)); }
    __global__ void f(unsigned long long n = 3, volatile int* p, float&&, void (*)(int)) {}
    """
    found = signatures(code)
    assert [(k.qualified_name, k.is_template) for k in found] == [("n::t", True), ("f", False)]
    assert [(p.name, p.type) for p in found[0].parameters] == [
        ("x", "const T*"),
        ("y", "T[]"),
        ("fn", "int (*)(int)"),
    ]
    assert [p.name for p in found[1].parameters] == ["n", "p", "", ""]


def test_waiting_for_another_thread():
    code = r"""
    __device__ volatile int flag;
    __global__ void wait(int* o, volatile int* ready) {
      if (threadIdx.x == 0) { while (ready[0] == 0) ; o[0] = 1; }
      else if (threadIdx.x == 63) { ready[0] = 1; o[63] = 1; }
      while (atomicAdd(&o[99], 0) < 0) ;
    }
    __global__ void locked(int* lock, int* sum) {
      bool done = false;
      while (!done) if (atomicCAS(lock, 0, 1) == 0) { sum[0] += 1; __threadfence(); atomicExch(lock, 0); done = true; }
      while (atomicCAS(lock, 0, 1) != 0) ;
      sum[1] += 1; __threadfence(); atomicExch(lock, 0);
    }"""
    module = Module(code)
    out, ready = np.zeros(100, np.int32), np.zeros(1, np.int32)
    assert module.kernel("wait").mode == "fiber"
    module.kernel("wait")(1, 64, out, ready)
    assert out[0] == out[63] == 1
    lock, total = np.zeros(1, np.int32), np.zeros(2, np.int32)
    module.kernel("locked")(20, 64, lock, total)
    assert total.tolist() == [1280, 1280]


@pytest.mark.parametrize("fmad", [True, False])
def test_fma_contraction(fmad):
    code = "__global__ void f(float* x) { x[3] = x[0] * x[1] + x[2]; }"
    a, b = np.float32(1 + 2**-12), np.float32(1 - 2**-12)
    x = np.array([a, b, -1, 0], np.float32)
    Module(code, options=() if fmad else ("--fmad=false",)).kernel("f")(1, 1, x)
    assert x[3] == (np.float32(-(2**-24)) if fmad else a * b - np.float32(1))
