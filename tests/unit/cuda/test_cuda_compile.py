"""Kernels for a GPU, compiled by the real NVRTC through the real CuPy; neither needs a GPU."""

from __future__ import annotations

import types

import pytest

import hmmemu as hmm

pytest.importorskip("cupy", reason="CuPy is not installed: pip install 'hmmemu[cuda12]'")

from hmmemu.cuda_compile import _folders, compile_module

SOURCE = r"""
namespace ns {
struct Pair { double d; char c; };
template <class T> __global__ void scale(T* x, const float* y, int n) { if (n) x[0] = y[0]; }
__global__ void inner(unsigned char a, volatile float* p, long b) { p[0] = a + b; }
}
extern "C" __global__ void plain(const int* a, unsigned long long n, ns::Pair s, const float f, bool b, const void* v) {}
__global__ void none() {}
"""
POINTER, INTEGER, FLOATING, BOOL, OTHER = 1, 2, 3, 4, 5


@pytest.fixture(scope="module", autouse=True)
def nvrtc():
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except Exception as error:
        pytest.skip(f"CuPy finds no NVRTC: {error}")


def read(compiled):
    """The kernels of an image: name -> (symbol, bytes, [(name, type, offset, size, kind, signed, const, pointee)])."""
    text, _, image = compiled.path.read_bytes().partition(b"\n\n")
    lines = [line.split("\t") for line in text.decode().split("\n")]
    assert lines[0] == ["hmmemu-cuda 3"] and image.startswith(b"\x7fELF")
    kernels = {}
    for word, *fields in lines[1:]:
        if word == "kernel":
            last = kernels[fields[0]] = (fields[1], int(fields[2]), [])
        else:
            last[2].append((*fields[:2], *map(int, fields[2:])))
    return kernels


@pytest.fixture(scope="module")
def kernels():
    return read(compile_module(SOURCE, (9, 0), name_expressions=["ns::scale<double>"]))


def test_every_kernel_by_its_names(kernels):
    assert set(kernels) == {"plain", "none", "inner", "ns::inner", "ns::scale<double>"}
    assert kernels["plain"][0] == "plain" and kernels["none"] == ("_Z4nonev", 0, [])
    assert kernels["inner"] == kernels["ns::inner"]
    assert "scale" in kernels["ns::scale<double>"][0]


def test_parameters_as_the_gpu_has_them(kernels):
    assert kernels["plain"][1:] == (
        48,
        [
            ("a", "const int*", 0, 8, POINTER, 0, 1, 4),
            ("n", "unsigned long long", 8, 8, INTEGER, 0, 0, 0),
            ("s", "ns::Pair", 16, 16, OTHER, 0, 0, 0),
            ("f", "const float", 32, 4, FLOATING, 1, 0, 0),
            ("b", "bool", 36, 1, BOOL, 0, 0, 0),
            ("v", "const void*", 40, 8, POINTER, 0, 1, 0),
        ],
    )
    assert [p[2:] for p in kernels["inner"][2]] == [
        (0, 1, INTEGER, 0, 0, 0),
        (8, 8, POINTER, 0, 0, 4),
        (16, 8, INTEGER, 1, 0, 0),
    ]
    assert [p[3:] for p in kernels["ns::scale<double>"][2]] == [
        (8, POINTER, 0, 0, 8),
        (8, POINTER, 0, 1, 4),
        (4, INTEGER, 1, 0, 0),
    ]


def test_errors_have_the_users_lines():
    with pytest.raises(hmm.CompileError, match=r'mine\.cu\(2\): error: identifier "y" is undefined'):
        compile_module("\n__global__ void k(int* x) { *x = y; }", (9, 0), filename="mine.cu")
    with pytest.raises(
        hmm.CompileError, match=r"'nothing<int>' names no kernel of this source; its kernels: k"
    ):
        compile_module("__global__ void k() {}", (9, 0), name_expressions=["nothing<int>"])


@pytest.mark.parametrize("name", ["vector_add", "jacobi", "histogram", "tree_walk", "matmul", "pages"])
def test_the_workloads_compile(name):
    from pathlib import Path

    import hmmemu.kernels

    source = (Path(hmmemu.kernels.__file__).parent / f"{name}.cu").read_text()
    assert read(compile_module(source, (8, 0), filename=f"{name}.cu"))


VARIABLES = r"""
__constant__ float table[4] = {1, 2};
static __device__ int hidden = 5;
namespace ns { struct S { int a, b; }; __constant__ S pair = {1, 2}; __device__ double a, b[3]; }
namespace { __device__ int anonymous; }
template <class T> __device__ T of_type;
__device__ const int width = 3;
__global__ void use(int* x) { __shared__ int mine[width]; mine[0] = anonymous; x[0] = hidden + mine[0] + (int)table[x[1]]; assert(x[0]); }
"""


def test_variables_by_their_names():
    text = compile_module(VARIABLES, (9, 0)).path.read_bytes().partition(b"\n\n")[0].decode()
    lines = [line.split("\t") for line in text.split("\n")]
    found = {
        name: (symbol, constant) for word, name, symbol, constant in (x for x in lines if x[0] == "variable")
    }
    assert found["table"] == ("table", "1") and found["hidden"] == ("hidden", "0")
    assert found["ns::pair"] == ("_ZN2ns4pairE", "1")
    assert (
        {"ns::a", "ns::b", "anonymous"}
        <= set(found)
        <= {"table", "hidden", "ns::pair", "ns::a", "ns::b", "anonymous"}
    )


def test_a_gpu_that_is_newer_than_nvrtc():
    """It gets PTX, for the driver to compile."""
    text = compile_module("__global__ void k(int* x) { x[0] = 1; }", (9, 9)).path.read_text()
    table, _, image = text.partition("\n\n")
    assert "param\tx\tint*" in table and ".target sm_90\n" in image and ".entry _Z1kPi" in image


@pytest.mark.parametrize(
    ("major", "folder"), [(12, "nvidia/cuda_runtime/include"), (13, "nvidia/cu13/include")]
)
def test_headers_of_python_packages(monkeypatch, tmp_path, major, folder):
    (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr("cupy.cuda.get_cuda_path", lambda: None)
    packages = types.SimpleNamespace(submodule_search_locations=[str(tmp_path / "nvidia")])
    monkeypatch.setattr("hmmemu.cuda_compile.find_spec", lambda name: packages)
    nvrtc = types.SimpleNamespace(getVersion=lambda: (major, 0))
    assert f"-I{tmp_path / folder}" in _folders(nvrtc)


def test_cupys_own_headers():
    code = (
        "#include <cupy/complex.cuh>\n__global__ void k(complex<float>* x, complex<float> a) { x[0] *= a; }"
    )
    assert read(compile_module(code, (8, 0)))["k"][2][1][3] == 8  # bytes


@pytest.mark.parametrize(
    ("header", "hint"),
    [("cstdint", r"<cuda/std/cstdint> is libcu"), ("cuda_runtime.h", "pip install nvidia-cuda-runtime-cu12")],
)
def test_headers_that_nvrtc_does_not_find(monkeypatch, header, hint):
    monkeypatch.setattr("hmmemu.cuda_compile._folders", lambda nvrtc: [])
    with pytest.raises(hmm.CompileError, match=hint):
        compile_module(f"#include <{header}>\n__global__ void k() {{}}", (8, 0))
