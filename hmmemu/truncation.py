"""Accesses of the program behind the end of a file that was truncated, told as `TruncatedError`.

The kernel answers such a load or store with SIGBUS. The signal handler lets the instruction go on, on a private page
of zeros, and the error follows: at once in the main thread, at its next bytecode in another one.

No state, so no lock: the native part keeps the notes.
"""

from __future__ import annotations

import ctypes
import threading

from hmmemu import _native
from hmmemu.errors import TruncatedError
from hmmemu.registry import find_file


def tell() -> None:
    """Raises, in the threads concerned, what was noted. In the main thread; called by the native part.

    Raises:
        TruncatedError: this thread was one of them.
    """
    mine: str | None = None
    for address, thread in _native.take_truncations():
        words = describe(address)
        if thread == threading.get_ident():
            mine = words
        else:
            _raise_in(thread, words)
    if mine is not None:
        raise TruncatedError(mine)


def describe(address: int) -> str:
    """In words, what lies at an address behind the end of a file."""
    part = find_file(address)
    if part is None:
        return f"address {address:#x} lies behind the end of a file that was truncated"
    offset, size = part.offset + address - part.begin, part.size
    there = "its size is not known" if size is None else f"it has {size:,} bytes now"
    return (
        f"offset {offset:,} of {part.path} lies behind the end of the file: {there}. It was truncated; "
        "what was read there are zeros, what was written there is lost until the file grows again"
    )


def _raise_in(thread: int, words: str) -> None:
    """Raises TruncatedError in another thread, which takes a class only and not an object."""
    kind = type("TruncatedError", (TruncatedError,), {"__str__": lambda self: words})
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))
