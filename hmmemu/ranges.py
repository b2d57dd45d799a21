"""Where an array's memory lies."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hmmemu._native import memory_of
from hmmemu.arena import page_down, page_up

Array = np.ndarray[Any, Any]
PageRange = tuple[int, int]  # addresses of the first page and of the end


class Range(NamedTuple):
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
    _, begin, end = memory_of(array)
    return Range(begin, end)


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
