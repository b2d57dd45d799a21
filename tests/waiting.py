"""Waiting for what a kernel or another thread does: as a program polls, and never without end."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

LIMIT = 50.0  # s; less than a test may take (120) by more than a space waits for its kernels at the end (60)


def wait_until(condition: Callable[[], object], what: str = "it did not come in time") -> None:
    """Looks again and again, without a pause; after LIMIT the test fails and says `what`."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, what


def state_of(pid: int) -> str:
    """Of a process: its letter in proc(5), such as S (sleeping) or Z (ended, and not yet reaped); "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_gone(pid: int) -> bool:
    """No such process, or one that has ended and waits to be reaped."""
    return state_of(pid) in ("", "Z")
