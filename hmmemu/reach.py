"""Memory that a launch may touch: its array arguments, what `reaches=` names, or all that a space has.

A GPU's page faults cannot be caught, so it has this memory before the kernel begins. An emulated device brings pages
when they are touched; with `AddressSpace(check_reach=True)` it ends a kernel that touches anything else. No state.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from hmmemu.arguments import In, Intent, Out, Pointer
from hmmemu.errors import ArgumentError
from hmmemu.ranges import Array, describe

# Whole pages [begin, end), and what the kernel does there: ReachUse of native/device/protocol.h. SHARES: it reads and
# writes, and so does the CPU while it runs.
Reach = tuple[int, int, int]
READS, WRITES, SHARES = range(3)
_BY_USE = itemgetter(2, 0)


def named(kernel: str, reaches: Sequence[Any]) -> tuple[Pointer, ...]:
    """The arrays of `reaches=`. A plain array counts as read and written, unless it is read-only; `hmm.In` as read.

    Raises:
        ArgumentError: not a list or tuple of arrays; an array that holds Python objects; `hmm.Out` or `hmm.InOut` of
            a read-only one.
    """
    if not isinstance(reaches, (tuple, list)):
        raise ArgumentError(
            f"reaches= of {kernel} is a list of arrays, not {type(reaches).__name__}: reaches=[array]"
        )
    return tuple(_name(f"reaches[{number}] of {kernel}", value) for number, value in enumerate(reaches))


def _name(what: str, value: Any) -> Pointer:
    array = value.array if isinstance(value, Intent) else value
    if not isinstance(array, np.ndarray):
        raise ArgumentError(f"{what}: a numpy array is needed, not {type(array).__name__}")
    if array.dtype.hasobject:
        raise ArgumentError(f"{what}: the {describe(array)} holds Python objects, which no kernel can use")
    writes = not isinstance(value, In) and (isinstance(value, Intent) or array.flags.writeable)
    if writes and not array.flags.writeable:
        raise ArgumentError(f"{what}: the {describe(array)} is read-only; name it hmm.In(array)")
    return Pointer(-1, array, writes, isinstance(value, Out))


def whole(arrays: Iterable[Array]) -> tuple[Pointer, ...]:
    """Arrays as a kernel reaches them that may touch all memory of a space."""
    return tuple(Pointer(-1, array, array.flags.writeable, False) for array in arrays)


def pages(pointers: Iterable[Pointer]) -> list[Reach]:
    """The pages of arrays."""
    return [(*p.pages, p.writes) for p in pointers if p.end]


def merge(ranges: Iterable[Reach]) -> list[Reach]:
    """Sorts ranges and puts runs with the same access together."""
    merged: list[Reach] = []
    for begin, end, writes in sorted(ranges, key=_BY_USE):
        if merged and merged[-1][2] == writes and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1]), writes
        else:
            merged.append((begin, end, writes))
    return merged


def is_checked(option: bool | None) -> bool:
    """Whether kernels are confined to what their launch names: the option, or HMMEMU_CHECK_REACH.

    Raises:
        ArgumentError: the option is no bool, or the variable is neither 0 nor 1.
    """
    if isinstance(option, bool):
        return option
    if option is not None:
        raise ArgumentError(f"check_reach={option!r}: True, False, or None for what HMMEMU_CHECK_REACH says")
    given = os.environ.get("HMMEMU_CHECK_REACH") or "0"
    if given not in ("0", "1"):
        raise ArgumentError(f"HMMEMU_CHECK_REACH={given!r}: use 1 or 0")
    return given == "1"
