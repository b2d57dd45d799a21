"""Which arrays outside the arena are part of an address space.

A registration belongs to the array that owns the memory (the root of a chain of views) and ends with it, at the latest,
by a weak reference whose callback is native (`RangeGuard`: it must end before another thread can be given the
same memory).

LOCK: `Registry._lock` orders registrations. Their ends may come anywhere in the interpreter, within the lock too: the
table is changed by single dict operations only, so that neither they nor readers need it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from hmmemu._native import DeviceProcess, RangeGuard, Session
from hmmemu.errors import RangeError
from hmmemu.ranges import Array, PageRange, Range, describe, extent, is_shared_mapping, root


class Mapper(Protocol):
    """A device, as far as the registry is concerned."""

    process: DeviceProcess

    def map(self, ranges: list[PageRange]) -> None:
        """Makes the ranges part of the device's address space, all or none."""


@dataclass
class _Registration:
    memory: Range
    owner: weakref.ref[Array]
    end: RangeGuard


class Registry:
    """The registered arrays of one address space.

    Args:
        session: the driver, which watches the pages.
        devices: those that map them; read at each call.
    """

    def __init__(self, session: Session, devices: Iterable[Mapper]) -> None:
        self._session = session
        self._devices = devices
        self._lock = threading.RLock()
        self._table: dict[int, _Registration] = {}

    def __contains__(self, array: Array) -> bool:
        return id(root(array)) in self._table

    def add(self, array: Array) -> None:
        """Registers the memory that `array` is a view of; see `AddressSpace.register`."""
        owner = root(array)
        key, memory = id(owner), extent(owner)
        with self._lock:
            if key in self._table:
                return
            fresh = self._session.add_range(*memory.pages, is_shared_mapping(memory, array))
            processes = [device.process for device in self._devices]
            end = RangeGuard(self._session, processes, self._table, key, *memory.pages)
            self._table[key] = _Registration(memory, weakref.ref(owner, end), end)
            try:
                self._map(fresh)
            except BaseException:
                end(None)
                raise

    def remove(self, array: Array) -> None:
        """Ends the registration; RangeError if there is none."""
        registration = self._table.get(id(root(array)))
        if registration is None:
            raise RangeError(f"the {describe(array)} is not registered")
        registration.end(None)

    def forget_all(self) -> None:
        """The space is closed: the pages are home already."""
        self._table.clear()

    def ranges(self) -> list[PageRange]:
        """All registered pages, sorted and merged."""
        merged: list[PageRange] = []
        for begin, end in sorted(r.memory.pages for r in list(self._table.values())):
            if merged and begin <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((begin, end))
        return merged

    def allocations(self) -> list[tuple[int, int, str]]:
        """(begin, end, label) of every registered array, in bytes."""
        result = []
        for registration in list(self._table.values()):
            owner = registration.owner()
            if owner is not None:
                label = f"registered array of shape {owner.shape}, dtype {owner.dtype}"
                result.append((registration.memory.begin, registration.memory.end, label))
        return result

    def _map(self, fresh: list[PageRange]) -> None:
        for device in self._devices:
            device.map(fresh)
