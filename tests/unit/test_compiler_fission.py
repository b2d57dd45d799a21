"""Kernels cut at their barriers: which ones are, and that they compute what the same kernel computes as fibers."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from loader import PRECISE, Module

HEAD = "__global__ void f(const int* in, int* out, int n) { int t = threadIdx.x, i = blockIdx.x * blockDim.x + t; __shared__ int s[256]; "

CUT = {
    "straight": "s[t] = in[i]; __syncthreads(); out[i] = s[255 - t];",
    "carried": "int a = in[i], b; b = a * 2; s[t] = a; __syncthreads(); a += s[255 - t]; __syncthreads(); out[i] = a + b;",
    "private array": "int a[4] = {1, 2, 3}; a[3] = in[i]; s[t] = a[3]; __syncthreads(); a[t & 3] += s[255 - t]; __syncthreads(); for (int k = 0; k < 4; ++k) out[i] += a[k];",
    "loop": "s[t] = in[i]; for (int k = 0; k < n; ++k) { __syncthreads(); int v = s[(t + k) % 256]; __syncthreads(); s[t] = v + 1; } out[i] = s[t];",
    "loop by halves": "s[t] = in[i]; __syncthreads(); for (unsigned k = blockDim.x / 2; k > 0; k >>= 1) { if (t < k) s[t] += s[t + k]; __syncthreads(); } out[i] = s[0];",
    "while": "int k = n; s[t] = in[i]; while (k > 0) { __syncthreads(); int v = s[t ^ k]; __syncthreads(); s[t] = v - k; k /= 2; } out[i] = s[t] + k;",
    "do": "int k = 1; s[t] = in[i]; do { __syncthreads(); int v = s[(t + k) & 255]; __syncthreads(); s[t] += v; k *= 3; } while (k < 20); out[i] = s[t];",
    "nested": "s[t] = in[i]; for (int a = 0; a < 3; ++a) { for (int b = a; b < n; ++b) { __syncthreads(); int v = s[(t + a * b) & 255]; __syncthreads(); s[t] = v + b; } s[t] += a; } out[i] = s[t];",
    "if": "s[t] = in[i]; if (n > 3) { __syncthreads(); out[i] = s[255 - t]; } else { out[i] = -1; }",
    "else if": "s[t] = in[i]; if (n > 30) { __syncthreads(); out[i] = s[255 - t]; } else if (n > 2) { __syncthreads(); out[i] = s[t ^ 1]; } else out[i] = -1;",
    "early return": "if (t >= 100) { out[i] = -5; return; } s[t] = in[i]; __syncthreads(); out[i] = s[99 - t];",
    "return in the middle": "s[t] = in[i]; __syncthreads(); if (in[i] & 1) { out[i] = 7; return; } out[i] = s[255 - t]; __syncthreads(); s[t] = out[i] * 2; __syncthreads(); out[i] += s[t];",
    "return in a loop": "s[t] = in[i]; for (int k = 0; k < 5; ++k) { __syncthreads(); if ((in[i] + k) % 7 == 0) return; out[i] += s[t] + k; } out[i] += 1000;",
    "return from an inner loop": "s[t] = in[i]; __syncthreads(); for (int k = 0; k < 9; ++k) for (int j = 0; j < 9; ++j) if (s[t] == k * j) { out[i] = k; return; } out[i] = -1;",
    "uniform variables": "int half = blockDim.x / 2; const int step = half + n; int count = 0; s[t] = in[i]; __syncthreads(); count += step; out[i] = s[(t + half) & 255] + count; __syncthreads(); count *= 2; out[i] += count;",
    "pointer": "const int* p = in + blockIdx.x * blockDim.x; int* q = out + i; s[t] = p[t]; __syncthreads(); *q = s[255 - t]; ++q; __syncthreads(); q[-1] += p[0];",
    "atomics": "s[t] = 0; __syncthreads(); atomicAdd(&s[in[i] & 15], 1); __syncthreads(); out[i] = s[t];",
    "types inside": "struct P { int a, b; }; typedef int I; using J = I; enum { TWO = 2 }; P p = {in[i], TWO}; s[t] = p.a; __syncthreads(); J v = s[255 - t]; out[i] = v * p.b + p.a;",
    "blocks in blocks": "{ int a = in[i]; { s[t] = a; __syncthreads(); out[i] = s[255 - t] + a; } int b = a; __syncthreads(); out[i] += b; }",
    "same names in turn": "for (int k = 0; k < 2; ++k) { int v = in[i] + k; s[t] = v; __syncthreads(); out[i] += s[255 - t] * v; __syncthreads(); } for (int k = 0; k < 3; ++k) { int v = k; s[t] = v + t; __syncthreads(); out[i] += s[255 - t] + v; __syncthreads(); }",
    "wide values": "double d = in[i] * 0.5; float4 v = make_float4(1, 2, 3, in[i]); long long l = (long long)in[i] << 33; s[t] = in[i]; __syncthreads(); out[i] = s[255 - t] + (int)(d * 2) + (int)v.w + (int)(l >> 33);",
    "macro": "\n#define SYNC __syncthreads()\n s[t] = in[i]; SYNC; out[i] = s[255 - t];",
    "unrolled": "s[t] = in[i];\n#pragma unroll\n for (int k = 1; k < 16; k <<= 1) { __syncthreads(); int v = t >= k ? s[t - k] : 0; __syncthreads(); s[t] += v; } out[i] = s[t];",
    "break of an inner loop": "s[t] = in[i]; __syncthreads(); int k = 0; for (; k < 9; ++k) if (s[(t + k) & 255] % 5 == 0) break; __syncthreads(); out[i] = k;",
    "vote of the parity": "s[t] = in[i] & 1; __syncthreads(); int c = 0; for (int k = 0; k < 256; ++k) c += s[k]; out[i] = c;",
    "nothing after": "s[t] = in[i]; out[i] = s[t]; __syncthreads();",
}

FIBERS = {
    "condition of the thread": "s[t] = in[i]; if (t >= 0) __syncthreads(); out[i] = s[255 - t];",
    "limit of the thread": "for (int k = 0; k < in[0] * 0 + 3; ++k) { s[t] = in[i]; __syncthreads(); } out[i] = s[255 - t];",
    "vote": "out[i] = __syncthreads_count(in[i] & 1);",
    "break": "for (int k = 0; ; ++k) { __syncthreads(); if (k > n) break; } out[i] = in[i];",
    "goto": "int k = 0; again: s[t] = in[i]; __syncthreads(); if (++k < 3) goto again; out[i] = s[255 - t];",
    "lambda": "auto g = [&](int x) { s[t] = x; __syncthreads(); return s[255 - t]; }; out[i] = g(in[i]);",
    "reference": "int v = in[i]; int& r = v; s[t] = r; __syncthreads(); r += s[255 - t]; out[i] = v;",
    "switch": "s[t] = in[i]; switch (n) { case 5: __syncthreads(); out[i] = s[255 - t]; break; default: out[i] = 1; }",
    "warp": "s[t] = in[i]; __syncthreads(); out[i] = __shfl_sync(0xffffffff, s[255 - t], 0);",
    "limit that is changed by one thread": "int k = 3; if (t == 0) k = 3; for (int j = 0; j < k; ++j) { __syncthreads(); s[t] = j; } out[i] = s[t];",
}


LOCK_STEP = {
    "stride": "for (int k = i; k < 700; k += blockDim.x * gridDim.x / 2) out[k] = in[k] + k;",
    "stride in unsigned": "for (unsigned k = t; k < 1700u; k += blockDim.x) out[i] += in[k % 768];",
    "stride in size_t": "for (size_t k = blockIdx.x * (size_t)blockDim.x + threadIdx.x; k < 700; k += 256) out[i] += in[k]; for (size_t k = i; k < 700; k += (size_t)blockDim.x * gridDim.x) out[k] += 5;",
    "stride from the thread": "for (int k = threadIdx.x; k < 700; k += blockDim.x) s[k % 256] = in[k]; out[i] = s[t];",
    "stride backwards is none": "for (int k = 700 - t; k > 0; k -= blockDim.x) out[i] += in[k - 1] * k; for (int k = 2 * t; k < 700; k += n) out[i] += in[k];",
    "stride with state": "int sum = 0, last = -1; for (int k = i; k < 768; k += blockDim.x * gridDim.x / 3) { sum += in[k]; last = k; } out[i] = sum * 1000 + last;",
    "stride with an inner loop": "for (int k = t; k < 768; k += blockDim.x) { int v = 0; for (int j = 0; j < n; ++j) v += in[(k + j) % 768] * j; out[k] = v; }",
    "stride with a divergent body": "for (int k = t; k < 768; k += blockDim.x) { if (in[k] & 1) continue; out[i] += 1; } for (int k = t; k < 768; k += blockDim.x) { if (in[k] & 1) out[i] += 2; else { int j = in[k]; while (j > 3) j /= 2; out[i] += j; } }",
    "uniform loop": "int v = 0; for (int k = 0; k < n; ++k) v += in[(i + k) % 768]; out[i] = v;",
    "uniform loop in a condition": "if (i > 10 && t < 200) { int v = 1; for (int k = 0; k < n; ++k) v += in[(i + k) % 768]; out[i] = v; }",
    "uniform loops in conditions": "if (i > 10) { int v = 1; if (t < 200) { for (int k = 0; k < n; ++k) { for (int j = k; j < 4; ++j) v += in[(i + k * j) % 768]; } v *= 2; } out[i] = v; }",
    "nobody takes part": "if (i > 5000) { int v = 0; for (int k = 0; k < n; ++k) v += in[i + k * 100000]; out[i] = v; } if (n > 0) for (int k = 0; k < 3; ++k) out[i] += k + t;",
    "parameters that threads change": "in += i; out += i; n += t; int v = 0; for (int k = 0; k < 3; ++k) v += n + in[0]; *out = v; n = v; for (int k = 0; k < 2; ++k) out[0] += n;",
    "parameters that all change alike": "n *= 2; n += blockDim.x; int v = 0; for (int k = 0; k < n; ++k) v += in[i] ^ k; out[i] = v + n;",
    "uniform value under a condition": "int m = 1; if (t == 3) m = 5; int v = 0; for (int k = 0; k < m; ++k) v += in[(i + k) % 768] + 1; out[i] = v;",
    "division by zero where nobody is": "if (n == 0 && t < 5) { int v = 0; for (int k = 0; k < 100 / n; ++k) v += in[i]; out[i] = v; } for (int k = 0; k < 3; ++k) out[i] += in[i] + 1;",
    "early return and loop": "if (in[i] % 3 == 0) return; int v = 0; for (int k = 0; k < n; ++k) v += in[(i + k) % 768]; out[i] = v + 1;",
    "float sums keep their order": "float f = 0; for (int k = 0; k < 50; ++k) f += in[(i + k) % 768] * 0.1f; out[i] = __float_as_int(f);",
    "barriers and strides": "for (int k = t; k < 256; k += blockDim.x) s[k] = in[k]; __syncthreads(); int v = 0; for (int k = 0; k < 256; ++k) v += s[k]; for (int k = i; k < 768; k += gridDim.x * blockDim.x) out[k] = v + k;",
}


@functools.cache
def module(kind):
    """All kernels of one kind in one module: one compilation."""
    cases, head = {
        "cut": (CUT, ""),
        "lock": (LOCK_STEP, ""),
        "fibers": (FIBERS, ""),
        "traps": (TRAPS, TRAP_HEAD),
    }[kind]
    kernels = [
        HEAD.replace(" f(", f" f{number}(") + body + "}\n" for number, body in enumerate(cases.values())
    ]
    return list(cases), Module(head + "".join(kernels), options=("-fmad=false",))


def both(kind, name, n=5, blocks=3):
    """The kernel's mode, its result, and its result as fibers."""
    names, made = module(kind)
    kernel = made.kernel(f"f{names.index(name)}")
    x = np.random.default_rng(4).integers(0, 40, 256 * blocks).astype(np.int32)
    found = []
    for flags in (0, PRECISE):
        out = np.zeros(256 * blocks, np.int32)
        kernel(blocks, 256, x, out, n, flags=flags)
        found.append(out)
    return kernel.mode, found


@pytest.mark.parametrize("name", CUT)
def test_cut_kernels_agree_with_fibers(name):
    mode, (cut, fibers) = both("cut", name)
    assert mode == "fission"
    np.testing.assert_array_equal(cut, fibers)
    assert fibers.any()


@pytest.mark.parametrize("name", LOCK_STEP)
def test_lock_step_agrees_with_fibers(name):
    _, (first, second) = both("lock", name)
    np.testing.assert_array_equal(first, second)
    assert first.any()


def test_long_strides_of_unsigned_indices_do_not_wrap():
    code = r"""__global__ void f(const int* in, int* out, int n) {
      for (unsigned k = blockIdx.x * blockDim.x + threadIdx.x + 4294960000u; k >= 4294960000u; k += blockDim.x * gridDim.x) out[k - 4294960000u] += 1; }"""
    module = Module(code)
    for flags in (0, PRECISE):
        out = np.zeros(8000, np.int32)
        module.kernel("f")(2, 256, out, out, 0, flags=flags)
        assert (out[:7296] == 1).all() and not out[7296:].any()


@pytest.mark.parametrize("name", FIBERS)
def test_the_others_run_as_fibers(name):
    mode, (first, second) = both("fibers", name)
    assert mode == "fiber"
    np.testing.assert_array_equal(first, second)
    assert first.any()


def test_known_answer():
    _, (cut, _) = both("cut", "loop by halves", blocks=2)
    x = np.random.default_rng(4).integers(0, 40, 512).astype(np.int32)
    np.testing.assert_array_equal(cut, np.repeat(x.reshape(2, 256).sum(1), 256))


def test_templates_and_namespaces_and_launch_bounds():
    code = r"""
    namespace a { template <class T, int N = 4>
      __global__ void __launch_bounds__(256) k(const T* in, T* out, int n) {
        __shared__ T s[256]; int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
        T v = in[i]; s[t] = v; __syncthreads(); out[i] = s[255 - t] * N + v; } }"""
    names = ["a::k<float>", "a::k<int, 7>"]
    module = Module(code, name_expressions=names)
    for name, dtype, factor in zip(names, (np.float32, np.int32), (4, 7), strict=True):
        assert module.kernel(name).mode == "fission"
        x, out = np.arange(512).astype(dtype), np.zeros(512, dtype)
        module.kernel(name)(2, 256, x, out, 0)
        np.testing.assert_array_equal(
            out.reshape(2, -1), x.reshape(2, -1)[:, ::-1] * factor + x.reshape(2, -1)
        )


def test_two_dimensional_blocks():
    code = r"""__global__ void f(const float* a, float* b, int n) {
      __shared__ float tile[16][17];
      int x = blockIdx.x * 16 + threadIdx.x, y = blockIdx.y * 16 + threadIdx.y;
      if (x < n && y < n) tile[threadIdx.y][threadIdx.x] = a[y * n + x];
      __syncthreads();
      x = blockIdx.y * 16 + threadIdx.x; y = blockIdx.x * 16 + threadIdx.y;
      if (x < n && y < n) b[y * n + x] = tile[threadIdx.x][threadIdx.y];
    }"""
    a = np.random.default_rng(0).random((50, 50), np.float32)
    b = np.zeros_like(a)
    kernel = Module(code).kernel("f")
    assert kernel.mode == "fission"
    kernel((4, 4), (16, 16), a, b, 50)
    np.testing.assert_array_equal(b, a.T)


def test_error_lines_are_told_once():
    from hmmemu.compiler import compile_module
    from hmmemu.errors import CompileError

    with pytest.raises(CompileError) as e:
        compile_module(
            "__global__ void f(int* x) {\n  __syncthreads();\n  x[0] = missing;\n  __syncthreads();\n}\n"
        )
    assert str(e.value).count("'missing'") == 1 and "kernel.cu:3:" in str(e.value)


# Each was wrong once, or might have been: values that are per thread although they look alike, and the other way round.
TRAPS = {
    "parameter changed per thread": "n += t; in += blockIdx.x; __syncthreads(); out[i] = n + *in;",
    "computed from a value that changes later": "int stride = n, offset = t & (stride - 1); __syncthreads(); stride >>= 1; __syncthreads(); out[i] = offset + stride + 1;",
    "pointer to const": "const int* p = in + in[t]; const int* const q = p; __syncthreads(); out[i] = *p + *q;",
    "method": "struct Acc { int v; __device__ void add(int x) { v += x; } }; Acc init = {n}; Acc mine = init; mine.add(t); __syncthreads(); out[i] = mine.v;",
    "functor": "struct Fun { int v; __device__ int operator()(int x) { return v += x; } }; Fun f = {n}; f(t); __syncthreads(); out[i] = f(1);",
    "member by reference": "P p = {n, 1}; set(p.a, t); __syncthreads(); out[i] = p.a;",
    "template by reference": "int v = n; setT(v, t); __syncthreads(); out[i] = v;",
    "reference in parentheses": "int v = n; { int& r(v); r += t; } __syncthreads(); out[i] = v;",
    "no default constructor": "Q q = Q(t, in[i]); Q w(t, 1), u{t, 2}; __syncthreads(); out[i] = q.a + q.b + w.b + u.a + u.b;",
    "default constructor": "D d; __syncthreads(); out[i] = d.v + t; D e[2]; __syncthreads(); e[0].v += t; __syncthreads(); out[i] += e[0].v + e[1].v;",
    "large local": "int a[2048]; a[t] = in[i]; a[2047 - t] = 5; __syncthreads(); int b[500]; b[t] = a[t]; __syncthreads(); out[i] = b[t] + a[2047 - t];",
    "large local in a loop": "for (int k = 0; k < 40; ++k) { int a[1000]; a[t] = in[i]; s[t] = k; __syncthreads(); out[i] += a[t] + s[255 - t]; __syncthreads(); }",
    "pointer into a local": "int a[4] = {t, t + 1, t + 2, t + 3}; int* p = a + 2; int v = t; int* q = &v; __syncthreads(); out[i] = *p + *q; __syncthreads(); *p = 1; *q += 2; out[i] += *p + *q;",
    "all have returned": "while (true) { s[t] = 1; __syncthreads(); if (out[i] += in[i] + 1) return; }",
    "division only where it is allowed": "if (n == 5 && t > 3) { out[i] = 3; return; } int z = n - 5 + (in[i] - in[i]); int q = 100 / (n - z); __syncthreads(); out[i] = q;",
    "division by nothing": "int zero = n - 5; if (zero == 0) { out[i] = 4; return; } int q = 100 / zero; __syncthreads(); out[i] = q;",
    "swapped": "int a = n, b = blockDim.x; hmm_swap(a, b); if (t & 1) hmm_swap(a, b); __syncthreads(); out[i] = a;",
    "array of const": "const int table[3] = {n, t, 7}; __syncthreads(); out[i] = table[t % 3];",
    "stride changes inside": "int step = blockDim.x; for (int k = t; k < 5000; k += step) { out[i] += in[k % 768]; step = step + 1; }",
    "limit changes inside": "int end = 700; for (int k = t; k < end; k += blockDim.x) { out[i] += in[k]; end -= 10; }",
    "condition changes inside": "int on = n; if (t < on) { for (int k = 0; k < 3; ++k) { out[i] += k + on; } on = 0; out[i] += 7; }",
    "struct of arrays": "struct M { float m[9]; }; M m; for (int k = 0; k < 9; ++k) m.m[k] = in[i] + k; __syncthreads(); float v = 0; for (int k = 0; k < 9; ++k) v += m.m[(k + t) % 9]; out[i] = (int)v;",
    "pointer that steps in the header": "const int* p = in + t; in += i; int v = 0; for (int k = 0; k < n; ++k, in += 1, ++p) { v += *p; __syncthreads(); } out[i] = v + (in != p);",
    "comma and several": "int a = t, b = a + 1, *p = out + i; a += b, b += a; __syncthreads(); *p = a + b;",
}

TRAP_HEAD = """
struct P { int a, b; };
struct Q { int a, b; __device__ Q(int x, int y) : a(x), b(y) {} };
struct D { int v; __device__ D() : v(42) {} };
__device__ void set(int& x, int v) { x += v; }
template <class T> __device__ void setT(T& x, T v) { x += v; }
template <class T> __device__ void hmm_swap(T& a, T& b) { T c = a; a = b; b = c; }
"""


@pytest.mark.parametrize("name", TRAPS)
def test_traps_agree_with_fibers(name):
    _, (first, second) = both("traps", name)
    np.testing.assert_array_equal(first, second)
    assert first.any()


def test_destructors_run_once_a_thread():
    code = r"""
    struct Guard { int* count; __device__ ~Guard() { atomicAdd(count, 1); } };
    __global__ void f(int* out) { Guard g{out}; __syncthreads(); atomicAdd(out + 1, 1); }"""
    out = np.zeros(2, np.int32)
    Module(code).kernel("f")(3, 100, out)
    assert out.tolist() == [300, 300]


def test_a_block_function_that_does_not_compile_is_left_out(monkeypatch, tmp_path):
    from hmmemu.compiler import build

    real = build.fission
    monkeypatch.setattr(
        build, "fission", lambda *a: (real(*a) or "").replace("HMM_PIECE_END", "nonsense") or None
    )
    monkeypatch.setenv("HMMEMU_CACHE_DIR", str(tmp_path))
    made = Module(HEAD + CUT["straight"] + "}")
    assert made.kernel("f").mode == "fiber"
    x, out = np.arange(256, dtype=np.int32), np.zeros(256, np.int32)
    made.kernel("f")(1, 256, x, out, 0)
    np.testing.assert_array_equal(out, x[::-1])


def test_arrays_of_the_standard_library_are_each_threads_own():
    code = r"""
    #include <array>
    __global__ void f(const int* pick, int* y) {
      int i = blockIdx.x * blockDim.x + threadIdx.x;
      std::array<int, 4> mine = {i, 2 * i, 3 * i, 5 * i};
      mine[pick[i] & 3] += 1000;
      y[i] = mine[(pick[i] + 1) & 3] + mine[pick[i] & 3];
    }"""
    pick, y = np.random.default_rng(1).integers(0, 4, 1024).astype(np.int32), np.zeros(1024, np.int32)
    Module(code).kernel("f")(4, 256, pick, y)
    factor, i = np.array([1, 2, 3, 5]), np.arange(1024)
    np.testing.assert_array_equal(y, i * factor[(pick + 1) & 3] + i * factor[pick & 3] + 1000)
