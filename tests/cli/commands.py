"""Runs the real command in a process of its own, as a user would."""

from __future__ import annotations

import os
import subprocess
import sys

LIMIT = 250  # s: on a loaded machine, with a cache that is empty, every workload is compiled
COMMAND = (sys.executable, "-m", "hmmemu.cli")


def environment(**changes):
    """The environment less what changes the commands' behaviour, with `changes` (None takes one away)."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HMMEMU_") and k != "CXX"}
    kept["HMMEMU_DEVICE"] = "emulated"
    kept.update({k: v for k, v in changes.items() if v is not None})
    return {k: v for k, v in kept.items() if changes.get(k, "") is not None}


def hmmemu(*args, **changes):
    """The finished process, with stdout, stderr and returncode. `changes` are environment variables."""
    env = environment(**changes)
    command = [*COMMAND, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=LIMIT, check=False)
