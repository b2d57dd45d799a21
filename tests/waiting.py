"""Waiting for what a kernel or another thread does: as a program polls, and never without end."""

from __future__ import annotations

import time
from collections.abc import Callable

LIMIT = 60.0  # s


def wait_until(condition: Callable[[], object], what: str = "it did not come in time") -> None:
    """Looks again and again, without a pause; after LIMIT the test fails and says `what`."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, what
