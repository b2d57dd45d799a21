"""Ways for a program to have a kernel run over an array that the CPU changes: hmmemu's, and three with CuPy alone.

Each has an array of words that the CPU writes, and `launch`, which returns a sum for each page where the CPU can read
it. Not yet run on a GPU.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.errors import Error

SOURCE = Path(__file__).parent / "gpu.cu"
WORDS = 512  # int64 a page
_GRID, _BLOCK = 4096, 128

Words = NDArray[np.int64]


class Way(Protocol):
    """One way. `words`: int64, 512 a page, for the CPU to write."""

    name: str
    words: Words

    def launch(self) -> Words:
        """Runs the kernel over all words, with what the CPU wrote; the sum of each page, for the CPU to read."""


class Ours:
    """An array of a space, and a launch."""

    name = "hmmemu"

    def __init__(self, space: hmm.AddressSpace, size: int) -> None:
        self.words: Words = space.zeros(size // 8, np.int64)
        self._sums: Words = space.zeros(size // mmap.PAGESIZE, np.int64)
        self._kernel = hmm.RawModule(path=str(SOURCE)).get_function("sum_pages")

    def launch(self) -> Words:
        """See `Way`."""
        pages = np.int32(self._sums.size)
        self._kernel((_GRID,), (_BLOCK,), (self.words, self._sums, pages))
        return self._sums


class FullCopy:
    """Pinned memory, copied as a whole before each launch."""

    name = "CuPy, all copied each time"

    def __init__(self, cupy: Any, size: int) -> None:
        self._cupy, pages = cupy, size // mmap.PAGESIZE
        self.words, self._sums = pinned(cupy, size // 8), pinned(cupy, pages)
        self._there, self._sums_there = cupy.empty(size // 8, np.int64), cupy.empty(pages, np.int64)
        self._kernel = _kernel(cupy)

    def launch(self) -> Words:
        """See `Way`."""
        self._there.set(self.words)
        self._kernel((_GRID,), (_BLOCK,), (self._there, self._sums_there, np.int32(self._sums.size)))
        self._sums_there.get(out=self._sums)
        return self._sums


class OneMemory:
    """Memory that the CPU and the GPU both reach: managed, or pinned and read over the link."""

    def __init__(self, cupy: Any, name: str, words: Words, sums: Words) -> None:
        self._cupy, self.name, self.words, self._sums = cupy, name, words, sums
        self._arguments = tuple(_over(cupy, array) for array in (words, sums))
        self._kernel = _kernel(cupy)

    def launch(self) -> Words:
        """See `Way`."""
        self._kernel((_GRID,), (_BLOCK,), (*self._arguments, np.int32(self._sums.size)))
        self._cupy.cuda.get_current_stream().synchronize()
        return self._sums


@contextmanager
def all_ways(cupy: Any, space: hmm.AddressSpace, size: int) -> Iterator[list[Way]]:
    """Ours first. `size`: bytes of the words of each; all of them have their memory at the same time."""
    pages = size // mmap.PAGESIZE
    yield [
        Ours(space, size),
        FullCopy(cupy, size),
        managed_way(cupy, size),
        OneMemory(cupy, "pinned memory, over the link", pinned(cupy, size // 8), pinned(cupy, pages)),
    ]
    cupy.cuda.get_current_stream().synchronize()  # before the memory goes


def managed_way(cupy: Any, size: int) -> OneMemory:
    """Memory that NVIDIA's driver moves by page faults."""
    pages = size // mmap.PAGESIZE
    return OneMemory(cupy, "cudaMallocManaged", managed(cupy, size // 8), managed(cupy, pages))


def pinned(cupy: Any, count: int, dtype: Any = np.int64) -> NDArray[Any]:
    """A numpy array of zeros in pinned memory."""
    return _array(cupy.cuda.alloc_pinned_memory(count * np.dtype(dtype).itemsize), count, dtype)


def managed(cupy: Any, count: int) -> Words:
    """A numpy array of zeros in managed memory."""
    return _array(cupy.cuda.malloc_managed(count * 8), count, np.int64)


def _array(memory: Any, count: int, dtype: Any) -> NDArray[Any]:
    raw = (ctypes.c_char * (count * np.dtype(dtype).itemsize)).from_address(memory.ptr)
    raw.memory = memory  # alive as long as the array
    array = np.frombuffer(raw, dtype)
    array[:] = 0
    return array


def _over(cupy: Any, array: Words) -> Any:
    """The same memory for a kernel: its addresses are the CPU's."""
    memory = cupy.cuda.UnownedMemory(array.ctypes.data, array.nbytes, array, cupy.cuda.runtime.getDevice())
    return cupy.ndarray(array.shape, array.dtype, cupy.cuda.MemoryPointer(memory, 0))


def _kernel(cupy: Any) -> Any:
    return cupy.RawModule(code=SOURCE.read_text()).get_function("sum_pages")


def counts(pages: int) -> list[int]:
    """How many pages the CPU changes: one, and parts of them all."""
    return sorted({1, *(pages // part for part in (256, 64, 16, 8, 4, 2, 1) if pages >= part)})


def chosen_pages(pages: int, count: int) -> NDArray[np.int64]:
    """Which ones: at random, and the same each time."""
    return np.random.default_rng(count).choice(pages, count, replace=False)


class Measured:
    """A way, and what its words must be."""

    def __init__(self, way: Way) -> None:
        self._way, self._value = way, 0
        self._expected = np.zeros(way.words.size // WORDS, np.int64)

    def warm_up(self) -> None:
        """One step over all pages: from now on everything has been written and moved before."""
        self.step(np.arange(self._expected.size))

    def step(self, chosen: NDArray[np.int64]) -> float:
        """Seconds from the first store to the last sum read. Raises Error if a sum is wrong."""
        self._value += 1
        self._expected[chosen] = self._value  # all other words are zeros, and stay so
        begin = time.perf_counter()
        self._way.words[chosen * WORDS] = self._value
        sums = self._way.launch().copy()
        seconds = time.perf_counter() - begin
        if not np.array_equal(sums, self._expected):
            raise Error(f"{self._way.name}: the kernel did not see what the CPU wrote")
        return seconds
