"""Where an array's memory lies, and what kind of memory it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from hmmemu.arena import page_down, page_up
from hmmemu.errors import RangeError, UnsupportedError

Array = np.ndarray[Any, Any]
PageRange = tuple[int, int]  # addresses of the first page and of the end


@dataclass(frozen=True)
class Range:
    """Bytes [begin, end) and the whole pages around them."""

    begin: int
    end: int

    @property
    def pages(self) -> tuple[int, int]:
        """Whole pages, (first, end)."""
        return page_down(self.begin), page_up(self.end)

    @property
    def inner_pages(self) -> tuple[int, int]:
        """Pages of which every byte belongs to the range; empty if there are none."""
        first, end = page_up(self.begin), page_down(self.end)
        return first, max(first, end)


def describe(array: Array) -> str:
    """An array in words, for messages."""
    return f"array of shape {array.shape}, dtype {array.dtype}, at {array.ctypes.data:#x}"


def extent(array: Array) -> Range:
    """The bytes that an array's elements lie in, strides of either sign included."""
    if array.size == 0:
        return Range(array.ctypes.data, array.ctypes.data)
    return Range(*byte_bounds(array))


def root(array: Array) -> Array:
    """The array that owns, or first wrapped, the memory of a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def is_shared_mapping(memory: Range, array: Array) -> bool:
    """Whether the memory is mapped MAP_SHARED. Only anonymous and shared (shmem) memory passes.

    Raises:
        RangeError: the memory is not mapped.
        UnsupportedError: pages of a regular file.
    """
    first, end = memory.pages
    kinds: set[bool] = set()
    with Path("/proc/self/maps").open() as maps:
        for line in maps:
            fields = line.split(maxsplit=5)
            low, high = (int(x, 16) for x in fields[0].split("-"))
            if high <= first or low >= end:
                continue
            if low > first:
                break
            path = fields[5].strip() if len(fields) > 5 else ""
            _refuse_files(path, array)
            kinds.add(fields[1][3] == "s")
            first = high
            if first >= end:
                break
    if first < end:
        raise RangeError(f"the {describe(array)} lies on memory that is not mapped at {first:#x}")
    if len(kinds) > 1:
        raise UnsupportedError(f"the {describe(array)} lies half on private, half on shared memory")
    return kinds.pop()


def _refuse_files(path: str, array: Array) -> None:
    anonymous = not path or path.startswith(("[heap]", "[anon", "/dev/zero", "/memfd:", "/dev/shm/", "/SYSV"))
    if not anonymous:
        raise UnsupportedError(
            f"the {describe(array)} lies on {path}: pages of regular files, stacks and libraries cannot be "
            "watched by userfaultfd; use hmm.asarray(x), which copies it into shared memory"
        )


def subtract(ranges: list[PageRange], holes: list[PageRange]) -> list[PageRange]:
    """The pages of `ranges` that are in none of `holes`."""
    for low, high in holes:
        pieces = [
            piece for begin, end in ranges for piece in ((begin, min(end, low)), (max(begin, high), end))
        ]
        ranges = [(begin, end) for begin, end in pieces if begin < end]
    return ranges
