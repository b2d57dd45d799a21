"""Fixtures for every test: an address space that is closed whatever happens, and small kernels."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import hmmemu as hmm

os.environ.setdefault("HMMEMU_DEVICE", "emulated")
os.environ["PYTHONSAFEPATH"] = "1"  # programs that tests start see the installed package, not the tree

FILL = r"""
extern "C" __global__ void fill(int* x, long long n, int value) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x)
    x[i] = value;
}
extern "C" __global__ void add(int* x, long long n, int value) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x)
    x[i] += value;
}
extern "C" __global__ void copy(const int* x, int* y, long long n) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x)
    y[i] = x[i];
}
extern "C" __global__ void total(const int* x, long long n, unsigned long long* sum) {
  unsigned long long mine = 0;
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x)
    mine += x[i];
  atomicAdd(sum, mine);
}
extern "C" __global__ void poke(int* x, long long i, int value) { x[i] = value; }
extern "C" __global__ void peek(const int* x, long long i, int* out) { *out = x[i]; }
extern "C" __global__ void spin(volatile int* flag) { while (*flag == 0) { } }
"""


@pytest.fixture
def space() -> Iterator[hmm.AddressSpace]:
    with hmm.AddressSpace(timeout=60) as made:
        yield made


@pytest.fixture
def page_by_page() -> Iterator[hmm.AddressSpace]:
    """A space in which a fault brings one page, for tests that count."""
    with hmm.AddressSpace(timeout=60, policy=hmm.Policy(grow=False)) as made:
        yield made


@pytest.fixture
def two_devices() -> Iterator[hmm.AddressSpace]:
    with hmm.AddressSpace(devices=2, timeout=60, policy=hmm.Policy(grow=False)) as made:
        yield made


@pytest.fixture(scope="session")
def kernels() -> hmm.RawModule:
    return hmm.RawModule(FILL, filename="tests/conftest.cu")
