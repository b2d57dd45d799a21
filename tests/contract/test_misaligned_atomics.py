"""An atomic operation at an address that is not a multiple of its size ends the kernel, in every scope and form."""

from __future__ import annotations

import numpy as np
import pytest

import hmmemu as hmm

# What thread 17 of block 1 does, at x + offset: (statement, bytes, what the error calls it).
CASES = {
    "device": ("atomicAdd((int*)p, 1);", 4, "add of 32 bits"),
    "system": ("atomicMax_system((unsigned long long*)p, 1ull);", 8, "max of 64 bits"),
    "cas": ("atomicCAS_system((int*)p, 0, 1);", 4, "compare-and-swap of 32 bits"),
    "cas16": ("atomicCAS((unsigned short*)p, 0, 1);", 2, "compare-and-swap of 16 bits"),
    "floating": ("atomicAdd_block((float*)p, 1.0f);", 4, r"add \(float\) of 32 bits"),
    "vector": (
        "atomicAdd((float4*)p, make_float4(1, 1, 1, 1));",
        16,
        r"add \(vector\) of 128 bits",
    ),
    "halves": ("atomicAdd((__half2*)p, __half2(1, 1));", 4, r"add \(vector\) of 32 bits"),
    "fetch": ("cuda::atomic_ref<int>(*(int*)p).fetch_add(1);", 4, "add of 32 bits"),
    "load": ("cuda::atomic_ref<int>(*(int*)p).load();", 4, "load of 32 bits"),
    "store": ("cuda::atomic_ref<short>(*(short*)p).store(1);", 2, "store of 16 bits"),
}
LOOP = 'extern "C" __global__ void %s(char* x, int offset) { %s }\n'
ONE = "if (blockIdx.x == 1 && threadIdx.x == 17) { char* p = x + offset; %s }"
BARRIER = """
extern "C" __global__ void barrier(char* x, int offset) {
  __shared__ __align__(16) char s[64];
  s[threadIdx.x] = 0;
  __syncthreads();
  if (blockIdx.x == 1 && threadIdx.x == 17) atomicAdd((int*)(s + offset), 1);
  __syncthreads();
  if (blockIdx.x == 1) x[threadIdx.x] = s[threadIdx.x];
}"""
SOURCE = (
    "#include <cuda/atomic>\n#include <cuda_fp16.h>\n"
    + "".join(LOOP % (name, ONE % statement) for name, (statement, _, _) in CASES.items())
    + BARRIER
)


@pytest.fixture(scope="module")
def module() -> hmm.RawModule:
    return hmm.RawModule(SOURCE, filename="misaligned.cu")


@pytest.mark.parametrize("name", CASES)
def test_the_error_names_everything(page_by_page: hmm.AddressSpace, module: hmm.RawModule, name: str) -> None:
    _, size, words = CASES[name]
    x, kept = page_by_page.zeros(8192, np.uint8), page_by_page.full(1024, 7, np.int32)
    page_by_page.prefetch(kept, page_by_page.devices[0], write=True)
    kernel = module.get_function(name)
    across = 4096 - size // 2  # not aligned, and on two pages
    where = rf"kernel {name}, block \[1,0,0\], thread \[17,0,0\]: misaligned address: atomic {words}"
    with pytest.raises(
        hmm.KernelError, match=rf"{where} at {x.ctypes.data + across:#x}.*multiple of {size} bytes"
    ):
        kernel(3, 64, (x, np.int32(across)))
    assert not x.any() and (kept == 7).all()
    kernel(3, 64, (x, np.int32(4096)))  # the space goes on, and aligned ones work
    page_by_page.synchronize()


def test_half_a_vector_is_not_enough(page_by_page: hmm.AddressSpace, module: hmm.RawModule) -> None:
    x = page_by_page.zeros(64, np.uint8)
    with pytest.raises(hmm.KernelError, match="multiple of 16 bytes"):
        module.get_function("vector")(2, 64, (x, np.int32(8)))
    assert not x.any()


def test_shared_memory_and_barriers(page_by_page: hmm.AddressSpace, module: hmm.RawModule) -> None:
    x = page_by_page.zeros(64, np.uint8)
    with pytest.raises(hmm.KernelError, match=r"kernel barrier, block \[1,0,0\], thread \[17,0,0\]: misal"):
        module.get_function("barrier")(3, 64, (x, np.int32(6)))
    module.get_function("barrier")(3, 64, (x, np.int32(8)))
    assert x[8] == 1 and x.sum() == 1
