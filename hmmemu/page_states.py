"""Who holds a page: the CPU, and the driver's words for the states of pages, decoded. No state here, so no lock.

A word has two bits a processor, the CPU's lowest (native/protocol/state.h).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hmmemu._native import Session
from hmmemu.ranges import Array, PageRange

NOTHING, SHARED, EXCLUSIVE, REMOTE = range(4)
_LETTERS = np.array(["-", "S", "X", "R"])


class Cpu:
    """The CPU as a place for pages, beside devices; see `AddressSpace.prefetch`."""

    processor = 0

    def __repr__(self) -> str:
        return "hmm.cpu"


cpu = Cpu()


def held_by(session: Session, pages: PageRange, processors: int) -> NDArray[np.uint64]:
    """What each processor holds of each page: NOTHING, SHARED, EXCLUSIVE or REMOTE. Of shape (processors, pages)."""
    words = np.frombuffer(session.snapshot(*pages), np.uint64)
    return words >> 2 * np.arange(processors, dtype=np.uint64)[:, np.newaxis] & np.uint64(3)


def in_letters(held: NDArray[np.uint64]) -> Array:
    """One string a page, one letter a processor; see `AddressSpace.residency`."""
    columns: list[Array] = [_LETTERS[codes] for codes in held]
    result, *others = columns
    for column in others:
        result = np.char.add(result, column)
    return result
