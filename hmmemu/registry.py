"""Which arrays outside the arena are part of an address space.

A registration belongs to the array that owns the memory (the root of a chain of views) and ends with it, at the latest,
by a weak reference whose callback is native (`RangeGuard`: it must end before another thread can be given the
same memory).

LOCK: `Registry._lock` orders registrations. Their ends may come anywhere in the interpreter, within the lock too: the
table is changed by single dict operations only, so that neither they nor readers need it. So is `_registries`.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from hmmemu._native import DeviceProcess, RangeGuard, Session
from hmmemu.errors import RangeError, SpaceClosedError, UnsupportedError
from hmmemu.file_parts import FilePart, notice_writers, object_of, parts_of, refuse_collisions
from hmmemu.mappings import HUGE_PAGE, Kind, Mapping, kind_of, mappings_of
from hmmemu.ranges import Array, PageRange, Range, describe, extent, root


class Mapper(Protocol):
    """A device's process, as far as the registry is concerned."""

    process: DeviceProcess

    def map(self, ranges: list[PageRange]) -> None:
        """Makes the ranges part of the device's address space, all or none."""

    def tell_frames(self, fd: int, begin: int, end: int, offset: int) -> bool:
        """Tells it that the CPU's frames lie in an object; False if it cannot open it."""

    def forget_frames(self, begin: int, end: int) -> None:
        """It forgets what lies there."""

    @property
    def idle(self) -> bool:
        """Whether everything that was launched on it has ended."""

    def wait_for_users(self, owner: Array, timeout: float | None) -> None:
        """Waits until no launch under way was given views of `owner`."""


@dataclass
class _Registration:
    """One array's memory; `end` ends it, by itself when the array goes."""

    memory: Range
    owner: weakref.ref[Array]
    end: RangeGuard
    files: list[FilePart]


class Registry:
    """The registered arrays of one address space.

    Args:
        session: the driver, which watches the pages.
        devices: those that map them; read at each call.

    Attributes:
        table: by `id` of the array that owns the memory. To be changed here only.
        watches_files: whether there ever was a file that others may write, for which `notice_writers` looks.
    """

    def __init__(self, session: Session, devices: Iterable[Mapper]) -> None:
        self._session = session
        self._devices = devices
        self._lock = threading.RLock()
        self.table: dict[int, _Registration] = {}
        self.watches_files = False
        _registries[id(self)] = self

    def __contains__(self, array: Array) -> bool:
        return id(root(array)) in self.table

    def add(self, array: Array) -> None:
        """Registers the memory that `array` is a view of; see `AddressSpace.register`."""
        owner = root(array)
        key, memory = id(owner), extent(owner)
        with self._lock:
            if key in self.table:
                return
            processes = [device.process for device in self._devices]
            end = RangeGuard(self._session, processes, self.table, key, *memory.pages)
            try:
                while (added := self._own(end, memory, describe(array))) is None:
                    pass  # another registration has ended meanwhile: pages that it shared are nobody's now
                fresh, files = added
                self.watches_files = self.watches_files or any(part.is_watched for part in files)
                self.table[key] = _Registration(memory, weakref.ref(owner, end), end, files)
                self._map(fresh)
            except BaseException:
                end(None)
                raise

    def _own(
        self, end: RangeGuard, memory: Range, what: str
    ) -> tuple[list[PageRange], list[FilePart]] | None:
        """The runs of pages that nobody owned, which the driver watches from now on, and the files there.

        None: other pages are nobody's than when it was found out what they are.
        """
        runs = self._session.fresh(*memory.pages)
        self._refuse_other_spaces(runs, what)
        mappings = [m for begin, end in runs for m in mappings_of(begin, end)]
        kind = kind_of(mappings, what) if mappings else Kind()
        files = parts_of(mappings)
        refuse_collisions(files, self.file_parts(), what)
        objects = [part.object for part in files if part.shared or part.is_file]
        kind = replace(kind, open=kind.shared and not kind.read_only and self._tell_frames(mappings))
        fresh = None
        try:
            fresh = end.add(**asdict(kind), looked_at=runs, objects=objects)
        finally:
            if fresh is None:
                self._forget_frames(mappings)
        return None if fresh is None else (fresh, files)

    def _refuse_other_spaces(self, runs: list[PageRange], what: str) -> None:
        """UnsupportedError if another open address space has some of the pages: one would miss the other's writes."""
        found = (ref() for ref in _registries.valuerefs())
        others = [other for other in found if other is not None and other is not self]
        if not any(other.has_some(runs) for other in others):
            return
        gc.collect()  # that closes spaces that nobody has any more
        if any(other.has_some(runs) for other in others):
            raise UnsupportedError(
                f"the {what}, or what lies on the same pages, belongs to another AddressSpace: enter that one in "
                "this thread (`with space:` is for the thread that does it), unregister it there, close it, or use "
                "hmm.asarray(x), which copies"
            )

    def has_some(self, runs: list[PageRange]) -> bool:
        """Whether some of these pages belong to the address space, which may be closed."""
        try:
            return self._session.open and any(self._session.fresh(*run) != [run] for run in runs)
        except SpaceClosedError:  # only just
            return False

    def _tell_frames(self, mappings: list[Mapping]) -> bool:
        """Tells the devices where the pages of shared mappings lie. False: one of the objects is out of reach."""
        for mapping in mappings:
            handle = object_of(mapping)
            begin, end = _whole_pages(mapping)
            place = begin, end, mapping.offset_of(begin)
            if handle is None or not all(device.tell_frames(handle.fd, *place) for device in self._devices):
                self._forget_frames(mappings)
                return False
        return True

    def _forget_frames(self, mappings: list[Mapping]) -> None:
        for mapping in mappings:
            for device in self._devices:
                device.forget_frames(*_whole_pages(mapping))

    def file_parts(self) -> list[FilePart]:
        """The parts of files that are registered."""
        return [part for r in list(self.table.values()) for part in r.files]

    def file_at(self, address: int) -> FilePart | None:
        """The part of a regular file that lies at an address, if one does."""
        return next((p for p in self.file_parts() if p.is_file and p.begin <= address < p.end), None)

    def notice_writers(self) -> None:
        """Looks for other writers of the registered files; see `file_parts.notice_writers`."""
        notice_writers(self._session, self.file_parts())

    def remove(self, array: Array, timeout: float | None) -> None:
        """Ends the registration, when launches that use it have ended; RangeError if there is none."""
        owner = root(array)
        registration = self.table.get(id(owner))
        if registration is None:
            raise RangeError(f"the {describe(array)} is not registered")
        for device in self._devices:
            device.wait_for_users(owner, timeout)
        registration.end(None)

    def forget_all(self) -> None:
        """The space is closed: the pages are home already."""
        self.table.clear()

    def ranges(self) -> list[PageRange]:
        """All registered pages, sorted and merged."""
        merged: list[PageRange] = []
        for begin, end in sorted(self._session.whole(*r.memory.pages) for r in list(self.table.values())):
            if merged and begin <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((begin, end))
        return merged

    def arrays(self) -> list[Array]:
        """The registered arrays that are alive."""
        owners = (registration.owner() for registration in list(self.table.values()))
        return [owner for owner in owners if owner is not None]

    def allocations(self) -> list[tuple[int, int, str]]:
        """(begin, end, label) of every registered array, in bytes."""
        result = []
        for registration in list(self.table.values()):
            owner = registration.owner()
            if owner is not None:
                label = f"registered array of shape {owner.shape}, dtype {owner.dtype}"
                result.append((registration.memory.begin, registration.memory.end, label))
        return result

    def _map(self, fresh: list[PageRange]) -> None:
        for device in self._devices:
            device.map(fresh)


_registries: weakref.WeakValueDictionary[int, Registry] = weakref.WeakValueDictionary()


def find_file(address: int) -> FilePart | None:
    """The part of a regular file that lies at an address, in any address space of this process."""
    registries = [registry for ref in _registries.valuerefs() if (registry := ref()) is not None]
    found = (registry.file_at(address) for registry in registries)
    return next((part for part in found if part is not None), None)


def _whole_pages(mapping: Mapping) -> PageRange:
    """Where the pages of the mapping begin and end."""
    if not mapping.huge_page:
        return mapping.begin, mapping.end
    return mapping.begin // HUGE_PAGE * HUGE_PAGE, -(-mapping.end // HUGE_PAGE) * HUGE_PAGE
