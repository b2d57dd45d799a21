"""The options of an address space that stand for themselves: limits, and checks of what was given. No state, no lock.

Which device and which tracker a space gets is said in `hmmemu.choices`.
"""

from __future__ import annotations

import operator
from typing import Any, SupportsFloat, SupportsIndex

from hmmemu.errors import ArgumentError
from hmmemu.policy import Policy

ARENA_BYTES = 256 << 30  # address space, not memory
LEAST_ARENA_BYTES = 2 << 20  # a block
LEAST_DEVICE_MEMORY = 4 << 20  # two of the largest pieces that move at once


def check_options(policy: Any, device_memory: Any, workers: Any, timeout: Any, arena_bytes: Any) -> None:
    """Raises ArgumentError for an option of a wrong type or size."""
    if policy is not None and not isinstance(policy, Policy):
        raise ArgumentError(f"policy={policy!r}: an hmm.Policy is needed, for example hmm.Policy(grow=False)")
    if device_memory is not None and not _is_whole(device_memory, LEAST_DEVICE_MEMORY):
        raise ArgumentError(
            f"device_memory={device_memory!r}: bytes; a device has at least {LEAST_DEVICE_MEMORY >> 20} MiB"
        )
    if workers is not None and not _is_whole(workers, 1, 256):
        raise ArgumentError(f"workers={workers!r}: a device has 1 to 256 worker threads")
    if timeout is not None and not (isinstance(timeout, SupportsFloat) and float(timeout) > 0):
        raise ArgumentError(f"timeout={timeout!r}: seconds, more than 0, or None for no limit")
    if not _is_whole(arena_bytes, LEAST_ARENA_BYTES):
        raise ArgumentError(
            f"arena_bytes={arena_bytes!r}: bytes of address space, {LEAST_ARENA_BYTES >> 20} MiB or more"
        )


def _is_whole(value: Any, least: int, most: int = 1 << 62) -> bool:
    return isinstance(value, SupportsIndex) and least <= operator.index(value) <= most
