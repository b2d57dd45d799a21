"""What a page may be in when something happens to it: each state is a function of (space, array) that brings it about.

What it returns is kept while the test lasts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import hmmemu as hmm

State = Callable[[hmm.AddressSpace, np.ndarray], object]


def alone(space: hmm.AddressSpace, x: np.ndarray) -> object:
    """The CPU has it."""
    return None


def copied(space: hmm.AddressSpace, x: np.ndarray) -> object:
    """A device has a copy."""
    return space.prefetch(x, space.devices[0], write=False)


def away(space: hmm.AddressSpace, x: np.ndarray) -> object:
    """A device has it alone."""
    return space.prefetch(x, space.devices[0], write=True)


def logged(space: hmm.AddressSpace, x: np.ndarray) -> object:
    """A dirty log watches it."""
    return space.dirty(x)


def frozen(space: hmm.AddressSpace, x: np.ndarray) -> object:
    """A snapshot holds its content."""
    return space.snapshot_of(x)
