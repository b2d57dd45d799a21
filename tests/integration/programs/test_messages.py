"""What the programmer is told about typical mistakes: the own file and line, and what to do."""

from __future__ import annotations

import re

import numpy as np
import pytest

import hmmemu as hmm

HEAD = 'extern "C" __global__ void k(int* out) {\n'


def told(code: str, error: type[Exception] = hmm.CompileError, **options: object) -> str:
    """What the first launch of kernel k says."""
    module = hmm.RawModule(code, filename="mine.cu", **options)  # type: ignore[arg-type]
    with pytest.raises(error) as caught:
        module.get_function("k")(1, 1, (np.zeros(64, np.int32),))
    return str(caught.value)


REFUSED = {
    "a missing semicolon": (
        "  int i = 0\n  out[i] = 1;\n}",
        "mine.cu:[23]: error: expected .*;",
    ),
    "an unknown function": (
        "  out[0] = frobnicate(3);\n}",
        "mine.cu:2: error: .*frobnicate.*\n      out.0. = frobnicate.3.;",
    ),
    "a misspelled index": ("  out[threadIdx.w] = 1;\n}", "mine.cu:2: error: .*no member named 'w'"),
    "an old shuffle": (
        "  out[0] = __shfl_down(1, 1);\n}",
        "mine.cu:2: error.*(.*\n)*hint: .*_sync .*0xffffffff",
    ),
    "PTX": (
        '  int a;\n  asm("mov.u32 %0, %%laneid;" : "=r"(a));\n  out[0] = a;\n}',
        "mine.cu:3(.*\n)*hint: PTX",
    ),
    "a launch in a kernel": ("  k<<<1, 1>>>(out);\n}", "mine.cu:2: error(.*\n)*hint: .*launch from Python"),
    "a host function of CUDA": (
        "  cudaMalloc(out, 4);\n}",
        "mine.cu:2: error: .*cudaMalloc(.*\n)*hint: .*__CUDACC_RTC__",
    ),
    "a texture": ("  out[0] = tex2D(out, 0, 0);\n}", "mine.cu:2: error: .*tex2D(.*\n)*hint: textures"),
    "an exception": ("  try { out[0] = 1; } catch (...) {}\n}", "mine.cu:2: error(.*\n)*hint: .*assert"),
    "a size that is not constant": (
        "  __shared__ int s[out[0]];\n  s[0] = 1;\n}",
        "mine.cu:2: error(.*\n)*hint: .*extern __shared__",
    ),
    "an initial value in shared memory": (
        "  __shared__ int s[2] = {1, 2};\n  out[0] = s[1];\n}",
        "mine.cu:2: error: __shared__ s has an initial value.*__syncthreads",
    ),
    "a brace that stays open": (
        "  if (out[0]) {\n    out[0] = 1;\n}",
        "mine.cu:1: error: the '{' that begins here|expected '}'",
    ),
    "a brace too many": ("}}", "mine.cu:2: error: .*'?}'?"),
    "a failed static_assert": (
        '  static_assert(sizeof(int) == 8, "a wide int");\n}',
        "mine.cu:2: error: .*a wide int",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_mistakes_in_a_kernel(space: hmm.AddressSpace, mistake: str) -> None:
    body, pattern = REFUSED[mistake]
    message = told(HEAD + body)
    assert re.search(pattern, message), message
    assert "hmm_" not in message and "/hmmemu/" not in message and "<tables>" not in message, message


def test_mistakes_around_a_kernel(space: hmm.AddressSpace) -> None:
    good = HEAD + "  out[0] = 1;\n}\n"
    assert "mine.cu:2: error: kernel k returns int" in told("\n__global__ int k(int* out) { return 1; }")
    assert "int& x: a reference" in told("__global__ void k(int& x) { x = 1; }")
    assert "mine.cu:1: fatal error" in told('#include "mine.cuh"\n' + good)
    assert "options=('-Ifolder',)" in told('#include "mine.cuh"\n' + good)
    for library in ("cub/cub.cuh", "curand_kernel.h", "mma.h"):
        message = told(f"#include <{library}>\n" + good)
        assert f"hint: <{library}> is a library of the CUDA toolkit" in message and "-Ifolder" not in message
    assert "unknown compiler option '--fast-maths'" in told(good, options=("--fast-maths",))
    message = told("__constant__ int c;\n" + HEAD + "  c = 1;\n}")
    assert re.search("mine.cu:3: error: .*(read-only|const-qualified)", message)


def test_wrong_names(space: hmm.AddressSpace) -> None:
    template = "template <class T, int N> __global__ void k(T* out) { out[0] = N; }"
    message = told(template, name_expressions=["k<int>"])
    assert "the name expression k<int> fits no kernel" in message and "hmm_" not in message
    assert "'q<int>' names no kernel of this source; its kernels: k" in told(
        template, name_expressions=["q<int>"]
    )
    assert "name expression k<Missing, 1>" in told(template, name_expressions=["k<Missing, 1>"])
    message = told(HEAD.replace("k(", "kk(") + "}", hmm.ArgumentError)
    assert "no kernel 'k'" in message and message.endswith("it has: kk")
    assert "k is a template, say which: RawModule(..., name_expressions=['k<float>'])" in told(
        template, hmm.ArgumentError
    )
    assert "k is overloaded" in told(
        "__global__ void k(int*) {}\n__global__ void k(float*) {}", hmm.ArgumentError
    )


def test_too_much_shared_memory(space: hmm.AddressSpace) -> None:
    message = told(
        HEAD + "  __shared__ float s[100000];\n  s[threadIdx.x] = 1;\n  out[0] = s[5];\n}", hmm.ArgumentError
    )
    assert message == "k has 400000 bytes of __shared__ variables; a block can have 262144"


def test_a_stack_that_is_full(space: hmm.AddressSpace) -> None:
    deep = "__device__ int f(int n) { int a[64]; a[n & 63] = n; return n == 0 ? 0 : f(n - 1) + a[(n + 1) & 63]; }\n"
    for barrier in ("", "__syncwarp();"):
        message = told(deep + HEAD + barrier + "  out[0] = f(out[1] + 10000000);\n}", hmm.KernelFault)
        assert "a thread's stack is full" in message
    x = space.full(3, 4, np.int32)
    assert (x == 4).all()
