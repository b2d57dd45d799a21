"""Runs an action in a fork child, so that a test can ask what the child saw."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable


def in_child(action: Callable[[], object]) -> int:
    """Exit status of a child that ran `action`: 0 if it returned something true, 1 if not, 2 if it raised."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            status = 0 if action() else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
