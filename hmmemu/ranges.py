"""Where an array's memory lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from hmmemu.arena import page_down, page_up

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
    """The bytes that an array's elements lie in, strides of either sign included. None: (0, 0)."""
    if array.size == 0:
        return Range(0, 0)
    if array.flags.forc:
        begin = array.ctypes.data
        return Range(begin, begin + array.nbytes)
    return Range(*byte_bounds(array))


def root(array: Array) -> Array:
    """The array that owns, or first wrapped, the memory of a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def subtract(ranges: list[PageRange], holes: list[PageRange]) -> list[PageRange]:
    """The pages of `ranges` that are in none of `holes`."""
    for low, high in holes:
        pieces = [
            piece for begin, end in ranges for piece in ((begin, min(end, low)), (max(begin, high), end))
        ]
        ranges = [(begin, end) for begin, end in pieces if begin < end]
    return ranges
