"""Ctrl-C in the library's own Python code: what was begun is done or undone, never half of it kept."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pytest
from interrupting import interrupted_at

import hmmemu as hmm
from hmmemu import registry
from hmmemu.device_view import DeviceView, OpenViews
from hmmemu.registry import Registry


def check(space: hmm.AddressSpace, x: np.ndarray) -> None:
    """It can be registered, and goes to the device and back."""
    space.register(x)
    space.devices[0].write(x, 5)
    assert (x == 5).all()
    x[:] = 6
    assert (space.devices[0].read(x) == 6).all()
    space.unregister(x)
    assert space.session.fresh(*hmm.ranges.extent(x).pages)  # nobody owns what nobody has registered
    x[:] = 7


def test_registering(space: hmm.AddressSpace) -> None:
    for line in count(1):
        x = np.zeros(50_000, np.int32)
        interrupted = interrupted_at(line, lambda x=x: space.register(x), Registry.add, Registry._own)
        if x in space.memory.registry:
            space.unregister(x)
        check(space, x)
        if not interrupted:
            break
    assert line > 10


def test_registering_when_the_driver_is_done(
    space: hmm.AddressSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted:
        def __init__(self, *args: Any) -> None:
            self._guard = guard(*args)

        def __call__(self, reference: object) -> None:
            self._guard(reference)

        def add(self, **kind: Any) -> None:
            self._guard.add(**kind)
            raise KeyboardInterrupt

    guard, x = registry.RangeGuard, np.zeros(50_000, np.int32)
    monkeypatch.setattr(registry, "RangeGuard", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        space.register(x)
    monkeypatch.undo()
    check(space, x)


def test_opening_and_closing_a_view(space: hmm.AddressSpace) -> None:
    x = space.zeros(5000, np.int32)

    def use() -> None:
        with space.device_view(x) as view:
            view += 1

    for line in count(1):
        interrupted = interrupted_at(line, use, DeviceView.__enter__, OpenViews.add, OpenViews._remove)
        assert not space.views.any, f"after an interrupt at the {line}. line"
        space.devices[0].write(x, 5)
        assert (x == 5).all()
        if not interrupted:
            break
    assert line > 10
