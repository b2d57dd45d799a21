"""Keeps the measuring thread on one CPU, so that it and the yardstick run under the same conditions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import hmmemu as hmm


def cpus_for(device: hmm.Device) -> tuple[int, int]:
    """A CPU for this thread, away from the device's first worker if there is more than one, and that worker's CPU."""
    worker = int(device.process.workers[0][1])
    others = sorted(os.sched_getaffinity(0) - {worker})
    return (others[0] if others else worker), worker


@contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """This thread runs on `cpu` only, within the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
