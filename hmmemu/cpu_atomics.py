"""Atomic operations of the CPU on one element of an array, beside kernels that work on the same words.

Every operation is sequentially consistent, returns the element's old value as a NumPy scalar, and is atomic against
CPU threads of any language and against a device's operations of system scope, whatever the state of the element's
page (`native/bind/cpu_atomics.cpp` performs them). Integers wrap around. Any array will do: to a plain one the
operations are those that C++ has.

Arguments of all functions: `index` is an int (in row-major order, as for `ndarray.item`) or a tuple of as many ints
as the array has axes; negative ones count from the end. The dtype is an integer of 8 to 64 bits, or float16, float32,
float64, in native byte order. Each raises ArgumentError, and has written nothing then, if the array has another
dtype, is read-only or not aligned, if there is no such element, or if a value does not fit the dtype (numbers are
rounded to a floating dtype).

Tracker `async` catches no stores, so each operation that writes is a call of the library that notices them, as a launch
is: what its thread stored before is seen by whoever sees the operation. No lock is held and no state kept here.
"""

from __future__ import annotations

import contextlib
import math
import operator
import sys
from typing import Any, SupportsIndex, TypeAlias

import numpy as np

from hmmemu._native import cpu_atomic
from hmmemu.arena import PAGE, page_down
from hmmemu.errors import ArgumentError, SpaceClosedError
from hmmemu.ranges import Array, describe
from hmmemu.space import AddressSpace, open_spaces

Index: TypeAlias = SupportsIndex | tuple[SupportsIndex, ...]
Scalar: TypeAlias = np.number[Any]

_TypeNames: TypeAlias = dict[np.dtype[Any], str]

_INTEGERS: _TypeNames = {np.dtype(t): t for t in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")}
_UNSIGNED: _TypeNames = {dtype: name for dtype, name in _INTEGERS.items() if dtype.kind == "u"}
_NUMBERS: _TypeNames = {**_INTEGERS, **{np.dtype(t): t for t in ("f2", "f4", "f8")}}


def atomic_load(array: Array, index: Index) -> Scalar:
    """The element."""
    return _run("load", array, index)


def atomic_store(array: Array, index: Index, value: Any) -> None:
    """Writes the element."""
    _run("store", array, index, value)


def atomic_exch(array: Array, index: Index, value: Any) -> Scalar:
    """Writes the element and returns what it was."""
    return _run("exch", array, index, value)


def atomic_cas(array: Array, index: Index, compare: Any, value: Any) -> Scalar:
    """Writes `value` if the element is `compare`, bit for bit (0.0 is not -0.0). It was written if that is returned."""
    return _run("cas", array, index, value, compare)


def atomic_add(array: Array, index: Index, value: Any) -> Scalar:
    """Adds `value`."""
    return _run("add", array, index, value)


def atomic_sub(array: Array, index: Index, value: Any) -> Scalar:
    """Subtracts `value`."""
    return _run("sub", array, index, value)


def atomic_min(array: Array, index: Index, value: Any) -> Scalar:
    """The smaller of element and `value`; the element if one of them is not a number."""
    return _run("min", array, index, value)


def atomic_max(array: Array, index: Index, value: Any) -> Scalar:
    """The larger of element and `value`; the element if one of them is not a number."""
    return _run("max", array, index, value)


def atomic_inc(array: Array, index: Index, limit: Any) -> Scalar:
    """One more, and 0 after `limit` or more. Unsigned integers only, as in CUDA."""
    return _run("inc", array, index, limit)


def atomic_dec(array: Array, index: Index, limit: Any) -> Scalar:
    """One less, and `limit` after 0 or more than `limit`. Unsigned integers only, as in CUDA."""
    return _run("dec", array, index, limit)


def atomic_and(array: Array, index: Index, value: Any) -> Scalar:
    """The bits of both. Integers only."""
    return _run("and", array, index, value)


def atomic_or(array: Array, index: Index, value: Any) -> Scalar:
    """The bits of either. Integers only."""
    return _run("or", array, index, value)


def atomic_xor(array: Array, index: Index, value: Any) -> Scalar:
    """The bits of one and not the other. Integers only."""
    return _run("xor", array, index, value)


# What an operation takes, and the names that cpu_atomic has for it.
_TAKES = {
    **dict.fromkeys(("load", "store", "exch", "cas", "add", "sub", "min", "max"), _NUMBERS),
    **dict.fromkeys(("and", "or", "xor"), _INTEGERS),
    **dict.fromkeys(("inc", "dec"), _UNSIGNED),
}


def _run(operation: str, array: Array, index: Index, value: Any = 0, compare: Any = 0) -> Scalar:
    writes = operation != "load"
    name = _check_array(operation, array, writes)
    element = _element(operation, array, index)
    new, seen = _bytes_of(operation, array, value), _bytes_of(operation, array, compare)
    watching = [space for space in open_spaces() if space.tracker == "async"] if writes else []
    for space in watching:
        _notice_stores(space)
    old = cpu_atomic(operation, name, element, new, seen)
    for space in watching:
        _notice_stores(space, page_down(element.ctypes.data))
    found: Scalar = np.frombuffer(old, array.dtype)[0]
    return found


def _notice_stores(space: AddressSpace, page: int | None = None) -> None:
    """Tells devices of the stores that nothing caught (tracker `async`): those to a page, or all."""
    with contextlib.suppress(SpaceClosedError):  # of a parent process, or closed just now
        if page is None:
            space.session.notice_all_writes(True)
        else:
            space.session.notice_writes(page, page + PAGE, True)


def _check_array(operation: str, array: Array, writes: bool) -> str:
    """The element's type, as cpu_atomic has it."""
    if not isinstance(array, np.ndarray):
        raise ArgumentError(f"atomic_{operation} takes a numpy array, not {type(array).__name__}")
    takes = _TAKES[operation]
    name: str | None = takes.get(array.dtype)
    if name is None and array.dtype.newbyteorder("=") in takes:
        raise ArgumentError(
            f"atomic_{operation}: the {describe(array)} is not in native byte order; "
            f"array.astype({array.dtype.newbyteorder('=').name!r}) is a copy that is"
        )
    if name is None:
        names = ", ".join(dtype.name for dtype in takes)
        raise ArgumentError(
            f"atomic_{operation}: the {describe(array)} has another dtype than one of {names}"
        )
    if writes and not array.flags.writeable:
        raise ArgumentError(f"atomic_{operation}: the {describe(array)} is read-only")
    return name


def _element(operation: str, array: Array, index: Index) -> Array:
    """A view of one element."""
    place: tuple[Any, ...]
    try:
        places = index if isinstance(index, tuple) else _places(array, operator.index(index))
        place = tuple(operator.index(i) for i in places)
    except TypeError:
        what = f"an index is an int or a tuple of ints, not {index!r}"
        raise ArgumentError(f"atomic_{operation}: {what}") from None
    try:
        element: Array = array[*place, ...]
    except IndexError:
        element = array
    if len(place) != array.ndim or element.size != 1 or element is array:
        raise ArgumentError(f"atomic_{operation}: there is no element {index!r} in the {describe(array)}")
    if not element.flags.aligned:
        raise ArgumentError(
            f"atomic_{operation}: element {index!r} of the {describe(array)} lies at {element.ctypes.data:#x}, "
            f"which is no multiple of {array.itemsize}: what may lie across two pages is not accessed atomically; "
            "copy the array"
        )
    return element


def _places(array: Array, flat: int) -> tuple[int, ...]:
    """Indices of the element at a place in row-major order."""
    if array.ndim == 1:
        return (flat,)
    if not -array.size <= flat < array.size:
        return (flat, *array.shape)  # one index too many
    return tuple(map(int, np.unravel_index(flat % array.size, array.shape)))


def _bytes_of(operation: str, array: Array, value: Any) -> bytes:
    """An operand as an element's bytes."""
    if type(value) is bool or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ArgumentError(
            f"atomic_{operation}: a value of type {type(value).__name__} is no element of the {describe(array)}"
        )
    if array.dtype.kind == "f":
        return _float_bytes(operation, array, value)
    try:
        if isinstance(value, (int, np.integer)):
            return int(value).to_bytes(array.itemsize, sys.byteorder, signed=array.dtype.kind == "i")
    except OverflowError:
        pass
    raise _misfit(operation, array, value)


def _float_bytes(operation: str, array: Array, value: Any) -> bytes:
    try:
        with np.errstate(over="ignore"):
            made = array.dtype.type(value)
        fits = bool(np.isfinite(made)) or not math.isfinite(value)
    except OverflowError:  # an int beyond every float
        fits = False
    if not fits:
        raise _misfit(operation, array, value)
    return bytes(made.tobytes())


def _misfit(operation: str, array: Array, value: Any) -> ArgumentError:
    return ArgumentError(f"atomic_{operation}: {value!r} does not fit {array.dtype} of the {describe(array)}")
