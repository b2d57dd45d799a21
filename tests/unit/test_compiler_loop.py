"""Kernels without barriers: indices, index forms, parameters, early ends, launches out of range."""

from __future__ import annotations

import numpy as np
import pytest
from loader import BOOL, FLOATING, INTEGER, OTHER, POINTER, PRECISE, Module, position

INDICES = r"""
__global__ void where(int* out) {
  unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  int* o = out + 12 * (block * (blockDim.x * blockDim.y * blockDim.z) + thread);
  o[0] = threadIdx.x; o[1] = threadIdx.y; o[2] = threadIdx.z;
  o[3] = blockIdx.x; o[4] = blockIdx.y; o[5] = blockIdx.z;
  o[6] = blockDim.x; o[7] = blockDim.y; o[8] = blockDim.z;
  o[9] = gridDim.x; o[10] = gridDim.y; o[11] = gridDim.z;
}
"""


def expected_indices(grid, block):
    rows = []
    for bz in range(grid[2]):
        for by in range(grid[1]):
            for bx in range(grid[0]):
                for tz in range(block[2]):
                    for ty in range(block[1]):
                        rows += [(tx, ty, tz, bx, by, bz, *block, *grid) for tx in range(block[0])]
    return np.array(rows, np.int32)


@pytest.mark.parametrize("flags", [0, PRECISE])
@pytest.mark.parametrize(
    ("grid", "block"),
    [((1, 1, 1), (1, 1, 1)), ((3, 2, 5), (7, 3, 2)), ((4, 1, 1), (1, 1, 64)), ((2, 3, 1), (33, 4, 1))],
)
def test_indices_in_three_dimensions(grid, block, flags):
    out = np.full((int(np.prod(grid) * np.prod(block)), 12), -1, np.int32)
    kernel = Module(INDICES).kernel("where")
    assert kernel.mode == "loop"
    kernel(grid, block, out, flags=flags)
    np.testing.assert_array_equal(out, expected_indices(grid, block))


@pytest.mark.parametrize(
    "index",
    [
        "int i = blockIdx.x * blockDim.x + threadIdx.x;",
        "unsigned i = blockIdx.x * blockDim.x + threadIdx.x;",
        "unsigned int i = threadIdx.x + blockDim.x * blockIdx.x;",
        "size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;",
        "size_t i = blockIdx.x * blockDim.x + threadIdx.x;",
        "long long i = threadIdx.x + (long long)blockDim.x * blockIdx.x;",
        "const auto i = __umul24(blockIdx.x, blockDim.x) + threadIdx.x;",
    ],
)
def test_index_forms(index):
    code = f"__global__ void f(int n, const int* x, int* y) {{ {index} if (i >= n) return; y[i] = 3 * x[i] + 1; }}"
    x = np.arange(10_000, dtype=np.int32)
    y = np.full(10_100, -7, np.int32)
    Module(code).kernel("f")(40, 256, x.size, x, y)
    np.testing.assert_array_equal(y, np.r_[3 * x + 1, np.full(100, -7, np.int32)])


def test_parameters_of_every_kind():
    code = r"""
    struct Inner { char tag; double weight; };
    struct alignas(16) Wide { float v[4]; };
    enum Colour : short { RED = -3, BLUE = 9 };
    struct Opaque;
    __global__ void all(bool flag, char c, unsigned char uc, short s, unsigned short us, int i, unsigned u, long long l,
                        unsigned long long ul, float f, double d, Inner inner, Wide wide, Colour colour, Opaque* opaque,
                        const void* raw, int, double* __restrict__ out) {
      out[0] = flag; out[1] = c; out[2] = uc; out[3] = s; out[4] = us; out[5] = i; out[6] = u; out[7] = l; out[8] = ul;
      out[9] = f; out[10] = d; out[11] = inner.tag; out[12] = inner.weight; out[13] = wide.v[3]; out[14] = colour;
      out[15] = opaque == nullptr; out[16] = ((const unsigned char*)raw)[1];
    }"""
    kernel = Module(code).kernel("all")
    inner = np.zeros(1, np.dtype([("tag", "i1"), ("weight", "f8")], align=True))
    inner["tag"], inner["weight"] = -5, 2.5
    out, raw = np.zeros(17), np.array([1, 200], np.uint8)
    args = (1, -7, 250, -300, 65000, -70000, 4_000_000_000, -(2**40), 2**63 + 3, 0.5, -0.25)
    wide = np.arange(4, dtype=np.float32)
    kernel(1, 1, *args, inner.tobytes(), wide.tobytes(), 9, 0, raw, 0, out)
    np.testing.assert_array_equal(out, [*map(float, args), -5, 2.5, 3, 9, 1, 200])
    kinds = [p.kind for p in kernel.params]
    assert kinds == [BOOL] + [INTEGER] * 8 + [FLOATING] * 2 + [OTHER] * 2 + [INTEGER] + [POINTER] * 2 + [
        INTEGER,
        POINTER,
    ]
    assert [p.is_signed for p in kernel.params][:9] == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert [(p.pointee_const, p.pointee_size) for p in kernel.params if p.kind == POINTER] == [
        (0, 0),
        (1, 0),
        (0, 8),
    ]
    assert [p.name for p in kernel.params][-3:] == [b"raw", b"", b"out"]
    assert kernel.params[12].offset % 16 == 0 and kernel.params[13].is_signed == 1


def test_stencil_reads_neighbours_before_nobody_writes_them():
    code = r"""__global__ void stencil(int n, const float* x, float* y) {
      int i = blockIdx.x * blockDim.x + threadIdx.x;
      if (i > 0 && i < n - 1) y[i] = x[i - 1] + x[i] + x[i + 1];
    }"""
    x = (np.arange(5000) % 17).astype(np.float32)
    y = np.zeros_like(x)
    Module(code).kernel("stencil")(20, 256, x.size, x, y)
    np.testing.assert_array_equal(y[1:-1], x[:-2] + x[1:-1] + x[2:])
    assert y[0] == y[-1] == 0


def test_arrays_private_to_a_thread_are_private():
    code = r"""__global__ void f(const int* pick, int* y, int n) {
      int i = blockIdx.x * blockDim.x + threadIdx.x;
      int mine[4] = {i, i * 2, i * 3, i * 5};
      mine[pick[i] & 3] += 1000;
      if (i < n) y[i] = mine[(pick[i] + 1) & 3] + mine[pick[i] & 3];
    }"""
    pick = np.random.default_rng(1).integers(0, 4, 1024).astype(np.int32)
    y = np.zeros(1024, np.int32)
    Module(code).kernel("f")(4, 256, pick, y, 1024)
    factor = np.array([1, 2, 3, 5])
    i = np.arange(1024)
    np.testing.assert_array_equal(y, i * factor[(pick + 1) & 3] + i * factor[pick & 3] + 1000)


def test_more_threads_than_32_bits_count_are_exact():
    """gridDim.x * blockDim.x beyond 2**31: no assumption about the index may be made."""
    code = r"""__global__ void f(unsigned long long* out) {
      unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
      if (i == 4294967295ull || i == 4294967297ull) out[i & 3] = i;
    }"""
    kernel = Module(code).kernel("f")
    out = np.zeros(4, np.uint64)
    kernel(2**22 + 1, 1024, out)
    np.testing.assert_array_equal(out, [0, 4294967297, 0, 4294967295])


def test_precise_launch_keeps_the_thread():
    code = """__global__ void f(volatile int* out) { out[threadIdx.x] = 1; }"""
    kernel = Module(code).kernel("f")
    out = np.zeros(64, np.int32)
    kernel(1, (64, 1, 1), out, flags=PRECISE)
    assert (63, 0, 0) in [position(0)[3:6], position(1)[3:6]]


def test_recursion_and_device_functions():
    code = r"""
    __device__ int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
    __device__ int here() { return blockIdx.x * blockDim.x + threadIdx.x; }
    __device__ int twice();
    __device__ __noinline__ int thrice() { return here() * 3; }
    __global__ void f(int* y) { y[here()] = fib(here()) + twice() + thrice(); }
    __device__ int twice() { return 2 * here(); }
    """
    y = np.zeros(20, np.int32)
    Module(code).kernel("f")(2, 10, y)
    fib = [0, 1]
    while len(fib) < 20:
        fib.append(fib[-1] + fib[-2])
    np.testing.assert_array_equal(y, np.array(fib) + 5 * np.arange(20))
