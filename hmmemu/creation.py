"""NumPy's ways to make an array, on the current space: shared arrays in one word."""

from __future__ import annotations

from typing import Any

from numpy.typing import DTypeLike

from hmmemu.arrays import Order, Shape
from hmmemu.device import Device
from hmmemu.device_view import DeviceView
from hmmemu.ranges import Array
from hmmemu.space import current_space
from hmmemu.trace import Stats


def empty(shape: Shape, dtype: DTypeLike = float, order: Order = "C") -> Array:
    """A new shared array; untouched pages read as zeros. See `AddressSpace.empty`."""
    return current_space().empty(shape, dtype, order)


def zeros(shape: Shape, dtype: DTypeLike = float, order: Order = "C") -> Array:
    """A new shared array of zeros."""
    return current_space().zeros(shape, dtype, order)


def ones(shape: Shape, dtype: DTypeLike = float, order: Order = "C") -> Array:
    """A new shared array of ones."""
    return current_space().ones(shape, dtype, order)


def full(shape: Shape, fill_value: Any, dtype: DTypeLike | None = None, order: Order = "C") -> Array:
    """A new shared array filled with a value."""
    return current_space().full(shape, fill_value, dtype, order)


def array(a: Any, dtype: DTypeLike | None = None) -> Array:
    """A new shared array with the content of `a`."""
    return current_space().array(a, dtype)


def asarray(a: Any, dtype: DTypeLike | None = None) -> Array:
    """`a` itself if it lies in the arena of the current space, else a shared copy."""
    return current_space().asarray(a, dtype)


def empty_like(a: Any, dtype: DTypeLike | None = None) -> Array:
    """A new shared array with the shape and dtype of `a`."""
    return current_space().empty_like(a, dtype)


def zeros_like(a: Any, dtype: DTypeLike | None = None) -> Array:
    """As `empty_like`; zeros."""
    return current_space().zeros_like(a, dtype)


def ones_like(a: Any, dtype: DTypeLike | None = None) -> Array:
    """As `empty_like`; ones."""
    return current_space().ones_like(a, dtype)


def full_like(a: Any, fill_value: Any, dtype: DTypeLike | None = None) -> Array:
    """As `empty_like`; filled with a value."""
    return current_space().full_like(a, fill_value, dtype)


def register(array: Array) -> Array:
    """Makes an existing array part of the current space; see `AddressSpace.register`."""
    return current_space().register(array)


def unregister(array: Array) -> None:
    """Takes it out again; see `AddressSpace.unregister`."""
    current_space().unregister(array)


def device_view(array: Any, device: Device | None = None) -> DeviceView:
    """An array's memory on a device, as a CuPy array; see `AddressSpace.device_view`."""
    return current_space().device_view(array, device)


def synchronize(timeout: float | None = None) -> None:
    """Waits for everything launched in the current space; see `AddressSpace.synchronize`."""
    current_space().synchronize(timeout)


def stats() -> Stats:
    """What happened to the pages of the current space."""
    return current_space().stats()
