"""Which arrays outside the arena are part of an address space.

A registration belongs to the array that owns the memory (the root of a chain of views) and ends with it, at the latest:
numpy tells weak references of an array before it frees the array's data.

LOCK: `Registry._lock` orders registrations and their ends. It is reentrant, because a finalizer may run anywhere in the
interpreter, within the lock too; the table is changed by single dict operations only, so that readers need no lock.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from hmmemu._native import Session
from hmmemu.errors import RangeError
from hmmemu.ranges import Array, PageRange, Range, describe, extent, is_shared_mapping, root


class Mapper(Protocol):
    """A device, as far as the registry is concerned."""

    def map(self, ranges: list[PageRange]) -> None:
        """Makes the ranges part of the device's address space, all or none."""

    def unmap(self, ranges: list[PageRange]) -> None:
        """Takes them out again."""


@dataclass
class _Registration:
    memory: Range
    owner: weakref.ref[Array]
    finalizer: weakref.finalize[Any, Any] | None = None


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
        self._pid = os.getpid()

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
            registration = self._table[key] = _Registration(memory, weakref.ref(owner))
            try:
                self._map(fresh)
            except BaseException:
                del self._table[key]
                self._session.drop_range(*memory.pages)
                raise
            registration.finalizer = weakref.finalize(owner, self._end, key)
            registration.finalizer.atexit = False

    def remove(self, array: Array) -> None:
        """Ends the registration; RangeError if there is none."""
        key = id(root(array))
        with self._lock:
            registration = self._table.get(key)
            if registration is None:
                raise RangeError(f"the {describe(array)} is not registered")
            if registration.finalizer:
                registration.finalizer.detach()
            self._end(key)

    def forget_all(self) -> None:
        """The space is closed: the pages are home already."""
        while self._table:
            _, registration = self._table.popitem()
            if registration.finalizer:
                registration.finalizer.detach()

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

    def _end(self, key: int) -> None:
        registration = self._table.pop(key, None)
        if registration is None or self._pid != os.getpid():
            return
        last = self._session.drop_range(*registration.memory.pages)
        for device in self._devices:
            device.unmap(last)

    def _map(self, fresh: list[PageRange]) -> None:
        done: list[Mapper] = []
        try:
            for device in self._devices:
                device.map(fresh)
                done.append(device)
        except BaseException:
            for device in done:
                device.unmap(fresh)
            raise
