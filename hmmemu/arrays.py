"""NumPy's ways to make an array, for whoever has memory to give: all of them in terms of one allocation.

No state, so no lock.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from operator import index
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from hmmemu.errors import ArgumentError
from hmmemu.ranges import Array

Shape: TypeAlias = int | Sequence[int]
Order: TypeAlias = Literal["C", "F"]


class ArrayMaker(ABC):
    """Makes shared arrays; `AddressSpace` is one."""

    @abstractmethod
    def _allocate(self, size: int, label: str) -> Array:
        """New bytes, as an array of uint8; `label` says in messages what lies there."""

    @abstractmethod
    def _allocated(self, address: int) -> bool:
        """Whether an address is one that `_allocate` gives out."""

    def empty(self, shape: Shape, dtype: DTypeLike = float, order: Order = "C") -> Array:
        """A new shared array. Untouched pages read as zeros and use no memory.

        Raises:
            ArgumentError: the dtype holds Python objects or has no size, the shape is not one, or the order.
            OutOfMemoryError: the arena is full.
        """
        if order not in ("C", "F"):
            raise ArgumentError(f"order={order!r}: use 'C' or 'F'")
        kind, inner = element_type(dtype)
        dimensions = dimensions_of(shape) + inner
        size = math.prod(dimensions) * kind.itemsize
        label = f"array of shape {dimensions}, dtype {kind}"
        return self._allocate(size, label).view(kind).reshape(dimensions, order=order)

    def zeros(self, shape: Shape, dtype: DTypeLike = float, order: Order = "C") -> Array:
        """A new shared array of zeros; costs nothing, as untouched pages read as zeros."""
        return self.empty(shape, dtype, order)

    def ones(self, shape: Shape, dtype: DTypeLike = float, order: Order = "C") -> Array:
        """A new shared array of ones."""
        return self.full(shape, 1, dtype, order)

    def full(
        self, shape: Shape, fill_value: Any, dtype: DTypeLike | None = None, order: Order = "C"
    ) -> Array:
        """A new shared array filled with a value."""
        array = self.empty(shape, np.asarray(fill_value).dtype if dtype is None else dtype, order)
        array[...] = fill_value
        return array

    def asarray(self, a: Any, dtype: DTypeLike | None = None) -> Array:
        """`a` as a shared array: itself if it lies in the arena, else a copy there."""
        source = np.asarray(a, dtype)
        if source.size and self._allocated(source.ctypes.data):
            return source
        return self._copy_of(source)

    def array(self, a: Any, dtype: DTypeLike | None = None) -> Array:
        """A new shared array with the content of `a`."""
        return self._copy_of(np.asarray(a, dtype))

    def _copy_of(self, source: Array) -> Array:
        array = self.empty(source.shape, source.dtype, _order_of(source))
        array[...] = source
        return array

    def empty_like(self, a: Any, dtype: DTypeLike | None = None) -> Array:
        """A new shared array with the shape, order and (unless given) dtype of `a`."""
        source = np.asarray(a)
        return self.empty(source.shape, dtype or source.dtype, _order_of(source))

    def zeros_like(self, a: Any, dtype: DTypeLike | None = None) -> Array:
        """As `empty_like`; zeros."""
        return self.empty_like(a, dtype)

    def ones_like(self, a: Any, dtype: DTypeLike | None = None) -> Array:
        """As `empty_like`; ones."""
        return self.full_like(a, 1, dtype)

    def full_like(self, a: Any, fill_value: Any, dtype: DTypeLike | None = None) -> Array:
        """As `empty_like`; filled with a value."""
        array = self.empty_like(a, dtype)
        array[...] = fill_value
        return array


def element_type(dtype: DTypeLike) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """What the elements of an array are, and what the dtype adds to its shape ("3i4" is three in one).

    Raises:
        ArgumentError: Python objects, or elements of no size.
    """
    kind = np.dtype(dtype)
    if kind.hasobject:
        raise ArgumentError(f"dtype {kind} holds Python objects, which cannot be shared with a device")
    if not kind.itemsize:
        raise ArgumentError(f"elements of dtype {kind.str} have no size: say how long they are, as in 'U10'")
    return kind.base, kind.shape


def dimensions_of(shape: Shape) -> tuple[int, ...]:
    """A shape as a tuple.

    Raises:
        ArgumentError: it is none.
    """
    try:
        dimensions = tuple(map(index, shape if isinstance(shape, Iterable) else (shape,)))
    except TypeError:
        raise ArgumentError(f"a shape is an integer, or some of them, not {shape!r}") from None
    if any(n < 0 for n in dimensions):
        raise ArgumentError(f"negative dimensions are not allowed: {shape!r}")
    return dimensions


def _order_of(array: Array) -> Order:
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
