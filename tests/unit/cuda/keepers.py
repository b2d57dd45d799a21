"""The keeper of a space's GPU memory (native/device/cuda/keeper.h)."""

from __future__ import annotations

from pathlib import Path

from waiting import state_of, wait_until


def keeper_of(space):
    """The process id of the helper's one child, which waits for what it is told."""
    pid, found = space.devices[0].process.pid, []

    def waits():
        found[:] = (c for f in Path(f"/proc/{pid}/task").glob("*/children") for c in f.read_text().split())
        return found and state_of(int(found[0])) == "S"

    wait_until(waits, "the helper has no keeper")
    return int(found[0])
