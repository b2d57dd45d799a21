"""What the user is told: their file, their lines, what to do. And options, toolchains."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from loader import FAIL_ASSERT, FAIL_TRAP, KernelFailed, Module, printed

from hmmemu.compiler import compile_module, find_compiler
from hmmemu.compiler.options import parse_options
from hmmemu.errors import CompileError, NoCompilerError


def told(code, **kwargs):
    with pytest.raises(CompileError) as e:
        compile_module(code, **kwargs)
    return str(e.value)


def test_errors_show_the_users_line():
    code = "// one\n__global__ void f(int* x) {\n  int i = threadIdx.x;\n  x[i] = undeclared_name;\n}\n"
    message = told(code, filename="dir/mine.cu")
    assert (
        "dir/mine.cu:4: error:" in message
        and "undeclared_name" in message
        and "    x[i] = undeclared_name;" in message
    )
    assert "hmm_" not in message and "runtime" not in message and "/tmp" not in message


def test_lines_stay_right_after_every_rewrite():
    code = (
        "__constant__ float c[2] = {\n 1,\n 2};\n#define M(a) \\\n  a + \\\n  1\n__device__ int h(\n  int a,\n  int b) {\n"
        "  return a + b + threadIdx.x;\n}\n__global__ void f(\n) {\n  __shared__ int s[4],\n  q;\n  __syncthreads();\n"
        "  int i = h(M(1),\n 2);\n  nonsense(i);\n}\n"
    )
    assert "kernel.cu:19: error:" in told(code) and "nonsense" in told(code)


def test_errors_in_headers_name_the_header(tmp_path):
    (tmp_path / "bad.cuh").write_text("\n__device__ int g() { return missing; }\n")
    message = told(
        '#include "bad.cuh"\n__global__ void f(int* x) { x[0] = g(); }', options=["-I" + str(tmp_path)]
    )
    assert "bad.cuh:2: error:" in message


def test_preprocessor_errors():
    assert "kernel.cu:2: " in told("\n#error no good\n") and "no good" in told("\n#error no good\n")
    assert "nowhere.h" in told('#include "nowhere.h"\n')


def test_a_wrong_call_of_a_rewritten_function_does_not_speak_of_our_parameter():
    message = told(
        "__device__ int g(int a) { return a + threadIdx.x; }\n__global__ void f(int* x) {\n x[0] = g(1, 2);\n}\n"
    )
    assert "kernel.cu:3: error:" in message and "hmm_" not in message


def test_syntax_errors_are_the_compilers():
    assert "kernel.cu:1: error:" in told("__global__ void f(int* x) { x[0] = ; }")
    assert "error" in told("__global__ void f(int* x) { if (x[0] ")


def test_a_suggestion_of_our_own_name_is_left_out():
    message = told("__global__ void f(int* x) {\n x[0] = std::max(1, 2);\n}\n")
    assert "kernel.cu:2: error: " in message and "    x[0] = std::max(1, 2);" in message
    assert "hmm_" not in message and "/tmp" not in message


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("cub/cub.cuh", "a library of the CUDA toolkit"),
        ("cuda_pipeline.h", "a library of the CUDA toolkit"),
        ("cupy/carray.cuh", "of those <cupy/complex.cuh> is here"),
        ("helper_math.h", r"the folders of headers are told by options=('-Ifolder',)"),
    ],
)
def test_headers_that_are_not_there(header, hint):
    message = told(f"#include <{header}>\n")
    assert hint in message and message.count("hint:") == 1


def test_ptx_with_special_registers():
    code = (
        '__global__ void f(unsigned* x) {\n  unsigned lane;\n  asm("mov.u32 %0, %laneid;" : "=r"(lane));\n'
        "  x[lane] = lane;\n}\n"
    )
    message = told(code)
    assert "kernel.cu:3: error:" in message and "PTX is for NVIDIA's GPUs" in message


def test_a_preprocessor_that_does_not_end(monkeypatch):
    def endless(words, **options):
        raise subprocess.TimeoutExpired(words, options["timeout"])

    find_compiler()
    monkeypatch.setattr("hmmemu.compiler.preprocess.subprocess.run", endless)
    assert "mine.cu: the preprocessor did not finish within 300 seconds" in told("int x;", filename="mine.cu")


def test_name_expressions_that_are_wrong():
    code = "template <class T> __global__ void f(T* x) {}"
    assert "'g<int>' names no kernel of this source; its kernels: f" in told(
        code, name_expressions=["g<int>"]
    )
    assert "name expression f<Missing>" in told(code, name_expressions=["f<Missing>"])


@pytest.mark.parametrize("option", ["--frobnicate", "-Wl,-rpath", "foo.cu", "-fplugin=x.so"])
def test_unknown_options_are_named(option):
    assert repr(option) in told("", options=(option,))


def test_options_must_be_a_sequence():
    assert "tuple or list" in told("", options="-DX")


def test_options_are_understood():
    words = (
        "-D",
        "A=1",
        "-DB",
        "--define-macro=C=2",
        "-UB",
        "-I/x",
        "--include-path=/y",
        "-std=c++20",
        "--use_fast_math",
        "-fmad=false",
    )
    ignored = (
        "-arch=sm_80",
        "--gpu-architecture=compute_90",
        "-arch",
        "sm_70",
        "-lineinfo",
        "-G",
        "-w",
        "-rdc=true",
        "--maxrregcount=32",
        "--device-debug",
    )
    options = parse_options(words + ignored)
    assert options.preprocessor == ["-DA=1", "-DB", "-DC=2", "-UB", "-I/x", "-I/y", "-D__USE_FAST_MATH__=1"]
    assert options.standard == "gnu++20" and options.fast_math and not options.fmad
    assert parse_options(["-std=c++11"]).standard == "gnu++17"


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NoCompilerError, match=r"apt-get install g\+\+.*pip install ziglang"):
        compile_module("__global__ void f() {}")


def test_the_environment_variable_chooses(monkeypatch):
    monkeypatch.setenv("CXX", "g++ -DFROM_CXX=5")
    assert find_compiler().command == ("g++", "-DFROM_CXX=5") and "CXX" in find_compiler().why
    x = np.zeros(1, np.int32)
    Module("__global__ void f(int* x) { x[0] = FROM_CXX; }").kernel("f")(1, 1, x)
    assert x[0] == 5
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    assert find_compiler().why.endswith("first on PATH; CXX=/nonexistent/c++ does not run")


def test_assertions_traps_and_printf():
    code = r"""
    #include <assert.h>
    #include <stdio.h>
    __global__ void check(int n) { assert(threadIdx.x + 8 * blockIdx.x != n); }
    __global__ void trap(int n) { if (threadIdx.x == n) __trap(); }
    __global__ void barrier(int n) { __syncthreads(); assert(threadIdx.x != n && "after the barrier"); }
    __global__ void say(int n) { if (threadIdx.x == n) printf("thread %d of %u: %.2f %s\n", n, blockDim.x, 1.5, "ok"); }
    """
    module = Module(code)
    module.kernel("check")(2, 8, 100)
    with pytest.raises(KernelFailed, match=r"threadIdx.x \+ 8 \* blockIdx.x != n") as e:
        module.kernel("check")(2, 8, 13)
    assert e.value.failure == FAIL_ASSERT
    assert "kernel.cu:4" in str(e.value) and "block: [1,0,0], thread: [5,0,0]" in str(e.value)
    with pytest.raises(KernelFailed) as e:
        module.kernel("trap")(1, 8, 3)
    assert e.value.failure == FAIL_TRAP
    with pytest.raises(KernelFailed, match=r"\[6,0,0\]"):
        module.kernel("barrier")(1, 8, 6)
    printed()
    module.kernel("say")(1, 8, 4)
    assert printed() == "thread 4 of 8: 1.50 ok\n"


@pytest.mark.skipif(shutil.which("clang++") is None, reason="clang++ is not installed")
def test_clang_takes_it_too(monkeypatch):
    monkeypatch.setenv("CXX", "clang++")
    assert find_compiler().family == "clang"
    code = r"""
    template <class T> __device__ T twice(T x) { return x + x + blockIdx.x; }
    __constant__ int c[2] = {3, 4};
    __global__ void f(int* o) {
      __shared__ int s[64];
      s[threadIdx.x] = twice((int)threadIdx.x) + c[1];
      __syncthreads();
      o[threadIdx.x] = s[63 - threadIdx.x] + __shfl_sync(0xffffffff, threadIdx.x, 3) + __popc(__activemask());
    }
    __global__ void g(int n, float a, const float* x, float* y) { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) y[i] = a * x[i]; }"""
    module = Module(code)
    out = np.zeros(64, np.int32)
    module.kernel("f")(1, 64, out)
    t = np.arange(64)
    np.testing.assert_array_equal(out, 2 * (63 - t) + 4 + t // 32 * 32 + 3 + 32)
    x, y = np.arange(100, dtype=np.float32), np.zeros(100, np.float32)
    module.kernel("g")(1, 128, 100, 2.0, x, y)
    np.testing.assert_array_equal(y, 2 * x)
    with pytest.raises(CompileError, match=r"kernel\.cu:2: error:"):
        compile_module("\n__global__ void f(int* o) { o[0] = missing; }")
