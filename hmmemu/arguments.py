"""Kernel arguments: from Python values to the parameter block, checked against the kernel's own signature.

CuPy's rules, with the mistakes told that CuPy cannot see: an array passes its address; a NumPy scalar its
bytes; a Python int, float, bool, complex is a long long, double, bool, double2; None is a null pointer. A Python int is
also taken for a narrower integer parameter if its value fits, as it is on a little-endian GPU.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

import numpy as np

from hmmemu._native import memory_of
from hmmemu.arena import PAGE
from hmmemu.errors import ArgumentError
from hmmemu.ranges import Array, PageRange, describe, root

# hmm_extent of compiler/include/hmmemu/abi.h
_EXTENT = np.dtype([("begin", "<u8"), ("end", "<u8"), ("parameter", "<u4"), ("", "<u4")])
_MOST_EXTENTS = 32
_BYTE = np.dtype(np.uint8)


@dataclass(frozen=True)
class Intent:
    """An argument whose access is told by the caller and not by the signature; see `In`, `Out`, `InOut`."""

    array: Array

    def __post_init__(self) -> None:
        if not isinstance(self.array, np.ndarray):
            raise ArgumentError(
                f"hmm.{type(self).__name__} wraps a numpy array, not {type(self.array).__name__}"
            )


class In(Intent):
    """The kernel only reads this array."""


class Out(Intent):
    """The kernel writes every element of this array; what was there before is not moved."""


class InOut(Intent):
    """The kernel reads and writes this array."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a compiled kernel.

    `offset` and `size` are bytes in the parameter block; `kind` is "pointer", "integer", "floating", "bool" or
    "other"; `pointee_size` is sizeof(T) of a T*, 0 if unknown.
    """

    name: str
    type: str
    offset: int
    size: int
    kind: str
    is_signed: bool
    pointee_const: bool
    pointee_size: int


class Pointer:
    """An array argument: which parameter it is for, where it lies, and what the kernel does to it. Not to be changed.

    `address` is that of its first element; its elements lie in the bytes [`begin`, `end`), none in (0, 0).
    """

    __slots__ = ("address", "array", "begin", "discards", "end", "parameter", "writes")

    def __init__(self, parameter: int, array: Array, writes: bool, discards: bool) -> None:
        self.parameter = parameter
        self.array = array
        self.address, self.begin, self.end = memory_of(array)
        self.writes = writes
        self.discards = discards

    @property
    def pages(self) -> PageRange:
        """Whole pages, (first, end)."""
        return self.begin & -PAGE, self.end + PAGE - 1 & -PAGE


def names(things: Sequence[Any], owner: Array) -> bool:
    """Whether one of a launch's arguments, or of the `Pointer`s made of them, is a view of `owner`."""
    arrays = (thing.array if isinstance(thing, (Intent, Pointer)) else thing for thing in things)
    return any(isinstance(array, np.ndarray) and root(array) is owner for array in arrays)


class Packed(NamedTuple):
    """A parameter block and the arrays that it points to."""

    block: bytes
    pointers: tuple[Pointer, ...]

    def extents(self) -> bytes:
        """The memory behind the pointers, for a device that says which of it an operation touched (abi.h)."""
        memory = [(p.begin, p.end, p.parameter, 0) for p in self.pointers[:_MOST_EXTENTS]]
        return np.array(memory, _EXTENT).tobytes()


def pack(kernel: str, parameters: Sequence[Parameter], size: int, values: Sequence[Any]) -> Packed:
    """Builds the parameter block.

    Raises:
        ArgumentError: wrong number, type or value of an argument, by name.
    """
    if len(values) != len(parameters):
        names = ", ".join(f"{p.type} {p.name}".strip() for p in parameters)
        number = f"{len(parameters)} argument{'' if len(parameters) == 1 else 's'}"
        raise ArgumentError(f"{kernel} takes {number} ({names}), {len(values)} were given")
    block = bytearray(size)
    pointers: list[Pointer] = []
    for index, (parameter, value) in enumerate(zip(parameters, values, strict=True)):
        place = kernel, index, parameter
        raw = _pointer(place, value, pointers) if parameter.kind == "pointer" else _scalar(place, value)
        block[parameter.offset : parameter.offset + parameter.size] = raw
    return Packed(bytes(block), tuple(pointers))


Place = tuple[str, int, Parameter]  # the kernel's name, the number of an argument and what it is for


def _words(place: Place) -> str:
    """Which argument it is, for messages."""
    kernel, index, parameter = place
    return f"argument {index + 1} of {kernel}, {parameter.type} {parameter.name}".rstrip()


def _pointer(place: Place, value: Any, pointers: list[Pointer]) -> bytes:
    if value is None:
        return bytes(8)
    told = isinstance(value, Intent)
    array = value.array if told else value
    if not isinstance(array, np.ndarray):
        if isinstance(array, (int, np.integer)) and not isinstance(array, bool):
            return _address(place, int(array))
        raise ArgumentError(f"{_words(place)}: an array, an address or None is needed, not {_kind_of(value)}")
    _, index, parameter = place
    if not fits(parameter.type, parameter.pointee_size, array.dtype):
        _refuse_elements(_words(place), array)
    writes = not parameter.pointee_const
    if told:
        writes = isinstance(value, (Out, InOut)) or (writes and not isinstance(value, In))
    if writes and not array.flags.writeable:
        raise ArgumentError(
            f"{_words(place)}: the {describe(array)} is read-only and the kernel may write through this parameter; "
            "declare it const, or pass hmm.In(array) if the kernel only reads it"
        )
    pointer = Pointer(index, array, writes, told and isinstance(value, Out))
    pointers.append(pointer)
    return pointer.address.to_bytes(8, "little")


def _address(place: Place, value: int) -> bytes:
    if not 0 <= value < 2**64:
        raise ArgumentError(f"{_words(place)}: {value} is no address, which has 64 bits and no sign")
    return value.to_bytes(8, "little")


_WORDS_WITHOUT_MEANING = re.compile(r"\b(const|volatile|__restrict__|__restrict|restrict|std)\b|::")
_INTEGERS = {"char", "short", "int", "long", "signed", "unsigned", "size_t", "ptrdiff_t"}


@lru_cache(maxsize=1024)
def _element_kinds(pointer: str) -> str | None:
    """The dtype kinds that the elements of a pointer type may have; None if the type's name does not tell."""
    plain = _WORDS_WITHOUT_MEANING.sub(" ", pointer)
    if plain.count("*") > 1:
        return "iu"  # addresses
    words = set(plain.replace("*", " ").split())
    if words in ({"float"}, {"double"}):
        return "f"
    if words and (words <= _INTEGERS or re.fullmatch(r"u?int\d+_t", " ".join(words))):
        return "iu"
    return None


@lru_cache(maxsize=1024)
def fits(pointer: str, pointee_size: int, dtype: np.dtype[Any]) -> bool:
    """Whether elements of that type may be meant by a pointer's; raw bytes, structures and unsigned for signed pass."""
    if dtype.hasobject or not dtype.isnative:
        return False
    kinds = _element_kinds(pointer)
    if kinds is None or dtype.kind not in "iufb" or dtype == _BYTE:
        return True
    kind = "u" if dtype.kind == "b" else dtype.kind
    return kind in kinds and dtype.itemsize == (pointee_size or dtype.itemsize)


def _refuse_elements(what: str, array: Array) -> NoReturn:
    """Says why they do not fit."""
    dtype = array.dtype
    if dtype.hasobject:
        raise ArgumentError(f"{what}: the {describe(array)} holds Python objects, which no kernel can use")
    if not dtype.isnative:
        raise ArgumentError(
            f"{what}: the {describe(array)} has its bytes in the other order; convert it with "
            "array.astype(array.dtype.newbyteorder('='))"
        )
    raise ArgumentError(
        f"{what}: the elements of the {describe(array)} are not of that type; convert it with astype, or "
        "pass array.view(numpy.uint8) if the bytes are meant"
    )


def _kind_of(value: Any) -> str:
    if isinstance(value, np.generic):
        return f"numpy.{value.dtype.name}({value})"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _scalar(place: Place, value: Any) -> bytes:
    parameter = place[2]
    if isinstance(value, (np.ndarray, Intent)):
        raise ArgumentError(f"{_words(place)}: a scalar is needed, not an array (for one element: array[i])")
    if value is None:
        raise ArgumentError(f"{_words(place)}: None stands for a null pointer only")
    if parameter.kind == "integer" and isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return _integer(place, value)
    raw = _natural_bytes(place, value)
    expected = {"floating": "f", "bool": "b"}.get(parameter.kind)
    wrong_kind = expected is not None and np.asarray(value).dtype.kind != expected
    wrong_kind |= parameter.kind == "integer" and np.asarray(value).dtype.kind in "fc"
    if len(raw) != parameter.size or wrong_kind:
        raise ArgumentError(f"{_words(place)}: {_kind_of(value)} does not fit{_advice(parameter)}")
    return raw


def _integer(place: Place, value: Any) -> bytes:
    parameter = place[2]
    if isinstance(value, np.integer) and value.dtype.itemsize != parameter.size:
        raise ArgumentError(f"{_words(place)}: {_kind_of(value)} does not fit{_advice(parameter)}")
    try:
        return int(value).to_bytes(parameter.size, "little", signed=parameter.is_signed or value < 0)
    except OverflowError:
        raise ArgumentError(f"{_words(place)}: {value} is out of that type's range") from None


def _natural_bytes(place: Place, value: Any) -> bytes:
    if isinstance(value, (bool, float, complex, int)):
        return np.asarray(value).tobytes()
    if isinstance(value, np.generic):
        _check_structure(place, value.dtype)
        return value.tobytes()
    try:
        return bytes(memoryview(value))
    except TypeError:
        raise ArgumentError(f"{_words(place)}: {_kind_of(value)} cannot be passed to a kernel") from None


def _check_structure(place: Place, dtype: np.dtype[Any]) -> None:
    """A scalar's own fields may be what no kernel can use; plain scalars are native."""
    if dtype.hasobject:
        raise ArgumentError(f"{_words(place)}: the structure {dtype} holds Python objects")
    if not dtype.isnative:
        raise ArgumentError(
            f"{_words(place)}: the structure {dtype} has its bytes in the other order; convert it with "
            "value.astype(value.dtype.newbyteorder('='))"
        )


def _advice(parameter: Parameter) -> str:
    if parameter.kind == "floating":
        name = {2: "float16", 4: "float32", 8: "float64"}[parameter.size]
    elif parameter.kind == "bool":
        name = "bool_"
    elif parameter.kind == "integer":
        name = f"{'int' if parameter.is_signed else 'uint'}{8 * parameter.size}"
    else:
        return f": {parameter.size} bytes are needed"
    return f"; pass numpy.{name}(value)"
