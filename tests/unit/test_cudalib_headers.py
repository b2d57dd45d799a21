"""The prelude as a whole: layouts, overloads, standard headers after it, and what it costs to compile."""

from __future__ import annotations

import ctypes
import platform
import re
import subprocess

import numpy as np
import pytest
from cudalib import FLAGS, INCLUDE, PRELUDE, array_function, assembly, build, call

from hmmemu.compiler.toolchain import find_compiler

# Names, element types, and CUDA's alignments of the 2- and 4-vectors (CUDA C++ Programming Guide, "Built-in Vector Types").
VECTORS = [
    ("char", "signed char", 2, 4), ("uchar", "unsigned char", 2, 4), ("short", "short", 4, 8), ("ushort", "unsigned short", 4, 8),
    ("int", "int", 8, 16), ("uint", "unsigned", 8, 16), ("long", "long", 16, 16), ("ulong", "unsigned long", 16, 16),
    ("longlong", "long long", 16, 16), ("ulonglong", "unsigned long long", 16, 16), ("float", "float", 8, 16), ("double", "double", 16, 16),
]  # fmt: skip


def layout_checks() -> str:
    lines = []
    for name, element, two, four in VECTORS:
        aligned = {1: f"alignof({element})", 2: str(two), 3: f"alignof({element})", 4: str(four)}
        for n, align in aligned.items():
            fields = "xyzw"[:n]
            values = ", ".join(str(i + 1) for i in range(n))
            lines.append(
                f'static_assert(sizeof({name}{n}) == {n} * sizeof({element}) && alignof({name}{n}) == {align}, "{name}{n}");'
            )
            lines.append(
                f"__device__ {element} sum_{name}{n}() {{ {name}{n} v = make_{name}{n}({values}); return {' + '.join('v.' + f for f in fields)}; }}"
            )
    return "\n".join(lines)


# The types that NVRTC gives these expressions (checked there by test_nvrtc.py).
OVERLOADS = """
template <class A, class B> struct same { static const bool value = false; };
template <class A> struct same<A, A> { static const bool value = true; };
#define SAME(type, expression) static_assert(same<type, decltype(expression)>::value, #expression);
SAME(float, sin(1.0f)) SAME(double, sin(1.0)) SAME(float, sqrt(1.0f)) SAME(float, fabs(1.0f)) SAME(float, rsqrt(1.0f))
SAME(float, pow(1.0f, 2)) SAME(float, pow(1.0f, 2.0f)) SAME(double, pow(1.0, 2)) SAME(float, fma(1.0f, 1.0f, 1.0f))
SAME(float, abs(-1.0f)) SAME(int, abs(-1)) SAME(long long, abs(-1ll)) SAME(double, abs(-1.0))
SAME(int, max(1, 2)) SAME(unsigned, max(1, 2u)) SAME(unsigned long long, min(1ull, 2ll)) SAME(int, max((short)1, (short)2))
SAME(float, max(1.0f, 2.0f)) SAME(double, max(1.0f, 2.0)) SAME(double, min(1.0, 2.0)) SAME(unsigned long, min(1l, 2ul))
SAME(float, ldexp(1.0f, 3)) SAME(double, norm3d(1.0f, 2.0f, 3.0f)) SAME(long, lround(1.0f)) SAME(int, isnan(1.0f)) SAME(float, cospi(1.0f))
SAME(float, exp10(1.0f)) SAME(float, fmin(1.0f, 2.0f)) SAME(float, fmod(1.0f, 2.0f)) SAME(float, nextafter(1.0f, 2.0f)) SAME(float, cyl_bessel_i0(1.0f))
"""

HEADERS = [
    "cmath",
    "cstdint",
    "type_traits",
    "algorithm",
    "limits",
    "cstdio",
    "cassert",
    "math.h",
    "stdlib.h",
    "cstdlib",
    "cstring",
    "ctime",
    "string.h",
    "utility",
    "tuple",
    "array",
    "functional",
    "cfloat",
    "climits",
    "new",
    "memory",
    "complex",
    "stdint.h",
    "time.h",
]
CUDA_HEADERS = [
    "cuda_runtime.h",
    "cuda.h",
    "cuda_runtime_api.h",
    "device_launch_parameters.h",
    "vector_types.h",
    "vector_functions.h",
    "math_constants.h",
    "math_functions.h",
    "device_functions.h",
    "device_atomic_functions.h",
    "builtin_types.h",
    "host_defines.h",
]

# One call of everything that a standard header could clash with.
USES = """
extern "C" __global__ void uses(float* p, double* d, int n, unsigned u) {
  p[0] = sin(p[0]) + sqrt(p[1]) + pow(p[0], 2.0f) + fmaxf(p[0], p[1]) + max(p[0], p[1]) + min(n, 2) + max(u, 3u) + abs(p[0]) + abs(n) + fabs(p[1]) + floor(p[2]);
  p[1] = rsqrtf(p[0]) + rsqrt(p[0]) + rsqrt(d[0]) + sinpi(p[0]) + exp10f(1.f) + exp10(p[1]) + normcdff(p[0]) + erfinv(p[0]) + __sinf(p[0]) + __expf(p[1]) + __powf(p[0], 2.f) + __tanf(p[1]) + __log2f(p[2]);
  p[3] = isnan(p[0]) + isinf(d[0]) + isfinite(p[0]) + signbit(p[1]) + copysignf(p[0], p[1]) + ldexp(p[0], 3) + frexp(p[0], &n) + lround(p[0]) + round(d[1]) + j0(p[1]) + lgamma(p[0]) + tgammaf(p[1]) + logb(p[0]) + ilogb(p[1]) + remainder(p[0], p[1]) + fma(p[0], p[1], p[2]) + hypot(p[0], p[1]);
  float s, c; sincosf(p[0], &s, &c); sincos(p[0], &s, &c); modf(p[1], &s); p[4] = s + c + atan2(s, c) + log(s) + exp(c) + cos(c) + tan(s) + asin(c) + log1p(s) + cbrt(s) + erf(c) + trunc(s) + ceil(c) + fmod(s, c) + fmin(s, c) + fmax(s, c) + fdim(s, c);
  atomicAdd(p, 1.0f); memcpy(p, d, 4); memset(p, 0, 4); printf("%d\\n", n); assert(n > 3); p[5] = clock64() + clock() + INFINITY + NAN; void* m = malloc(4); free(m);
  struct pair { float a, b; }; new (p) pair{1, 2}; new ((void*)d) double(3); new (p + 2) float[2];
  int64_t wide = llabs(-3) + labs(-2); p[6] = wide + __float_as_int(p[1]);
}
"""


def test_layouts() -> None:
    build(layout_checks())


@pytest.mark.parametrize("standard", ["gnu++17", "gnu++20", "c++17"])
def test_overloads_have_nvrtcs_types(standard: str) -> None:
    build(OVERLOADS, standard=standard)


@pytest.mark.parametrize("using", ["", "using namespace std;"])
@pytest.mark.parametrize("where", ["before", "after"])
def test_standard_headers_do_not_clash(where: str, using: str) -> None:
    includes = "".join(f"#include <{name}>\n" for name in (*HEADERS, *CUDA_HEADERS))
    if where == "after":
        build(includes + using + USES)
    else:
        build(using + USES, prelude=includes + PRELUDE)


@pytest.mark.parametrize("header", HEADERS[:9])
def test_one_header(header: str) -> None:
    """Each alone as well: what one leaves out, another could hide."""
    build(f"#include <{header}>\n" + ("using namespace std;\n" if header != "cassert" else "") + USES)


def test_users_own_functions_win() -> None:
    """A user's `rsqrt(double)` or `lerp` is not an ambiguity, and overloads for the user's types join ours."""
    lib = build(
        "__device__ double rsqrt(double x) { return -x; }\n__device__ float sinpif(float) { return 42; }\n"
        "struct complexf { float re, im; };\n__device__ float abs(complexf z) { return hypotf(z.re, z.im); }\n"
        "__device__ float2 operator+(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }\n"
        "__device__ float max(float2 v) { return max(v.x, v.y); }\n__device__ float atomicMax(float* p, float v) { float old = *p; *p = max(old, v); return old; }\n"
        'extern "C" double mine() { float m = 1; atomicMax(&m, 2.f); return rsqrt(4.0) + sinpif(0.5f) + abs(complexf{3, 4}) + max(float2{1, 2} + float2{1, 1}) + m; }'
    )
    lib.mine.restype = ctypes.c_double
    assert lib.mine() == -4 + 42 + 5 + 3 + 2


def test_dim3() -> None:
    lib = build(
        'extern "C" unsigned dims() { dim3 a, b = 7, c(2, 3), d(uint3{4, 5, 6}); uint3 e = c; '
        "return a.x + a.y + a.z + 10 * (b.x == 7 && b.y == 1) + 100 * (e.y == 3 && e.z == 1) + 1000 * (d.z == 6); }"
    )
    assert lib.dims() == 1113


def test_memory_functions() -> None:
    lib = build(
        array_function(
            "loads",
            "__ldg(pa + i) + __ldca(pa + i) + __ldcg(pa + i) + __ldcs(pa + i) + __ldlu(pa + i) + __ldcv(pa + i) + 0 * a",
            ["float"],
            "float",
        )
        + 'extern "C" void stores(float* p) { __stwb(p, 1.f); __stcg(p + 1, 2.f); __stcs(p + 2, 3.f); __stwt(p + 3, 4.f); __threadfence(); __threadfence_block(); __threadfence_system(); }\n'
        + 'extern "C" int vector(const float4* p) { return (int)__ldg(p).w; }\n'
        + 'extern "C" long long ticks() { long long a = clock64(); for (volatile int i = 0; i < 1000; i = i + 1) {} return clock64() - a; }\n'
        + 'static void nap() { __nanosleep(100); }\nextern "C" int sleep_() { return mock_run(nap); }\n'
    )
    x = np.array([1, 2, 3], np.float32)
    np.testing.assert_array_equal(call(lib, "loads", [x], np.float32), 6 * x)
    out = np.zeros(4, np.float32)
    lib.stores(ctypes.c_void_p(out.ctypes.data))
    assert out.tolist() == [1, 2, 3, 4]
    aligned = np.zeros(8, np.float64).view(np.float32)
    aligned[:] = range(16)
    start = (-aligned.ctypes.data % 16) // 4
    assert lib.vector(ctypes.c_void_p(aligned.ctypes.data + 4 * start)) == start + 3
    lib.ticks.restype = ctypes.c_longlong
    assert 100 < lib.ticks() < 10**9
    assert lib.sleep_() == 0


VECTORISED = {
    "expf(x[i])": ["expf"],
    "sin(x[i])": ["sinf"],
    "__logf(x[i])": ["logf"],
    "x[i] > 0 ? powf(x[i], 2.5f) : 0": ["powf"],
    "sinf(x[i]) + cosf(x[i])": ["sinf", "cosf"],
    "sinpif(x[i]) + cospi(x[i])": ["sin"],
    "erff(tanhf(x[i]))": ["erff", "tanhf"],
    "rsqrt(exp10(x[i]))": ["exp10f"],
}


@pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc", reason="libmvec is x86-64 glibc's"
)
@pytest.mark.parametrize("condition", ["", "if (x[i] > 1)"])
@pytest.mark.parametrize("expression", VECTORISED)
def test_loops_that_call_libm_vectorise(expression: str, condition: str) -> None:
    if find_compiler().family == "clang":
        pytest.skip("clang has no `simd` attribute; it vectorises with -fveclib=libmvec")
    body = f"for (int i = 0; i < n; ++i) {condition} y[i] = {expression};"
    source = f'extern "C" void f(float* __restrict y, const float* __restrict x, int n) {{ {body} }}\n'
    text = assembly(source)
    for name in VECTORISED[expression]:
        assert re.search(rf"_ZGV\w+_{name}\b", text), name
    assert "_ZGV" not in assembly(source, "-DHMMEMU_STRICT_MATH")


@pytest.mark.parametrize(
    "expression",
    [
        "fmaxf(x[i], 0.f)",
        "min(x[i], 1.f)",
        "floorf(x[i])",
        "fabs(x[i])",
        "rsqrtf(x[i])",
        "__saturatef(x[i])",
        "abs(x[i])",
        "__fmul_rn(x[i], x[i])",
        "__float2int_rz(x[i])",
    ],
)
def test_loops_without_calls(expression: str) -> None:
    """What a CPU has an instruction for is never a call."""
    source = f'extern "C" void f(float* __restrict y, const float* __restrict x, int n) {{ for (int i = 0; i < n; ++i) y[i] = {expression}; }}\n'
    text = assembly(source)
    body = text[text.index("\nf:") : text.index(".size\tf,")]
    assert "call" not in body


@pytest.mark.parametrize("kind", [("float", np.float32), ("double", np.float64)])
@pytest.mark.parametrize(
    "expression", ["__{p}mul_rn(a, b) + c", "__{p}add_rn(a * b, c)", "__{p}sub_rn(a * b, -c)"]
)
def test_nothing_is_fused_where_cuda_does_not(expression: str, kind: tuple[str, type]) -> None:
    lib = build(
        array_function("apart", expression.format(p=kind[0][0]), [kind[0]] * 3, kind[0]),
        ["-ffp-contract=fast"],
    )
    a, b = np.random.default_rng(1).random((2, 1000)).astype(kind[1])
    np.testing.assert_array_equal(call(lib, "apart", [a, b, -(a * b)], kind[1]), 0)


def test_every_header_says_what_it_is_and_cites_no_standard_header() -> None:
    for path in sorted((INCLUDE / "hmmemu" / "cuda").glob("*.h")):
        text = path.read_text()
        assert text.startswith("// "), path
        assert not [line for line in text.splitlines() if line.startswith("#include <")], path


def test_the_compiler_reads_less_than_one_standard_header() -> None:
    """Most of the time that a small kernel takes to compile is for reading; seconds would count other programs, too."""
    command = [
        *find_compiler().command,
        "-std=gnu++17",
        *FLAGS,
        "-I",
        str(INCLUDE),
        "-isystem",
        str(INCLUDE / "stub"),
    ]

    def size(text: str) -> int:
        read = [*command, "-E", "-P", "-x", "c++", "-"]
        return len(
            subprocess.run(read, input=text.encode(), check=True, capture_output=True, timeout=60).stdout
        )

    prelude = size(PRELUDE)
    assert 10_000 < prelude < 0.8 * size("#include <algorithm>\n"), prelude
