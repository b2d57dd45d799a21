"""Ctrl-C at every line of some functions, one after another."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def interrupted_at(line: int, action: Callable[[], object], *functions: Callable[..., Any]) -> bool:
    """Runs `action`, with KeyboardInterrupt raised before the `line`-th line, from 1, that it executes of `functions`.

    `with` lines are left out: there Python can be interrupted between a call of `__exit__` and its first line, too, and
    nothing written in Python can help that.

    Returns:
        False if it executes fewer lines, and ended without an interrupt.
    """
    codes = {function.__code__ for function in functions}
    left = line

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code not in codes:
            return None
        if event == "line" and not _is_with(frame):
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except KeyboardInterrupt:
        if left > 0:
            raise
    finally:
        sys.settrace(before)
    return left <= 0


def _is_with(frame: FrameType) -> bool:
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with ")
