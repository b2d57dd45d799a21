"""The memory of an address space: the arrays of its arena, and what was registered.

A `Memory` knows which memory belongs to the space, and where it lies. Who holds a page is known to the native session
alone; a `Memory` owns that, too, and ends it.

No lock of its own: the arena, the registry and the session guard themselves.
"""

from __future__ import annotations

import os
import weakref

import numpy as np

from hmmemu._native import Session
from hmmemu.arena import Arena, ArenaMemory
from hmmemu.errors import ArgumentError, RangeError, SpaceClosedError
from hmmemu.ranges import Array, PageRange, Range, describe, extent
from hmmemu.registry import Mapper, Registry

_FAR = 1 << 32  # bytes: what is farther from an array has nothing to do with it


class _Owner:
    """Owns one allocation; numpy arrays keep it alive. Holds the arena's mapping, not the space."""

    def __init__(self, memory: ArenaMemory, address: int, size: int) -> None:
        self._memory = memory
        self.__array_interface__ = {
            "version": 3,
            "data": (address, False),
            "shape": (size,),
            "typestr": "|u1",
        }


class Memory:
    """What belongs to one address space.

    Args:
        session: the driver; closed if the arena cannot be had.
        arena_bytes: address space for arrays; less is taken where the system grants less.
        in_file: see `Arena`.
    """

    def __init__(self, session: Session, arena_bytes: int, in_file: bool = False) -> None:
        self.session = session
        self._mappers: list[Mapper] = []
        self.registry = Registry(session, self._mappers)
        self._pid = os.getpid()
        self._owners: weakref.WeakValueDictionary[int, _Owner] = weakref.WeakValueDictionary()
        try:
            self.arena = Arena(session, arena_bytes, in_file)
        except BaseException:
            self.close()
            raise

    # --------------------------------------------------------------------------------------------- life

    @property
    def is_inherited(self) -> bool:
        """Whether it belongs to the process that this one was forked from."""
        return self._pid != os.getpid()

    def session_or_raise(self) -> Session:
        """The native session, while the space can be used; see `AddressSpace.session_or_raise`."""
        if self.session.open:  # not in a fork child
            return self.session
        if self.is_inherited:
            raise SpaceClosedError(
                "this address space belongs to the process that this one was forked from: its arrays are plain "
                "memory here; open an AddressSpace of your own"
            )
        raise SpaceClosedError("the address space is closed; its arrays are plain memory now")

    def close(self) -> None:
        """Brings every page home and ends the session. Arrays stay valid, as plain memory."""
        self.session.close()
        self.registry.forget_all()

    # -------------------------------------------------------------------------------------------- arrays

    def allocate(self, size: int, label: str) -> Array:
        """New bytes of the arena, an array of uint8; `label` says in messages what lies there.

        Raises:
            OutOfMemoryError: the arena is full.
        """
        self.session_or_raise()
        address = self.arena.take(size, label)
        owner = self._owners[address] = _Owner(self.arena.memory, address, size)
        weakref.finalize(owner, self.arena.abandon, address).atexit = False
        return np.asarray(owner)

    def view(self, address: int, size: int) -> Array:
        """Bytes of the arena as an array of uint8 that owns nothing."""
        return np.asarray(_Owner(self.arena.memory, address, size))

    def register(self, array: Array) -> None:
        """Makes memory that exists part of the space; see `AddressSpace.register`."""
        self.session_or_raise()
        if not isinstance(array, np.ndarray):
            raise ArgumentError(f"register takes a numpy array, not {type(array).__name__}")
        if self._holds(array, extent(array)):
            return
        if array.dtype.hasobject:
            raise ArgumentError(
                f"the {describe(array)} holds Python objects, which cannot be shared with a device"
            )
        self.registry.add(array)

    def require(self, array: Array) -> Range:
        """Where the array lies.

        Raises:
            RangeError: that is not in the address space. ArgumentError: it is no array.
        """
        self.session_or_raise()
        if not isinstance(array, np.ndarray):
            raise ArgumentError(f"a numpy array is needed, not {type(array).__name__}")
        memory = extent(array)
        if not self._holds(array, memory):
            raise RangeError(
                f"the {describe(array)} is not in the address space: register it, or allocate it with space.empty"
            )
        return memory

    def _holds(self, array: Array, memory: Range) -> bool:
        return memory.begin == memory.end or memory.begin in self.arena or array in self.registry

    # --------------------------------------------------------------------------------- what there is, where

    def map_at(self, mapper: Mapper) -> None:
        """Has a device map all of it, from now on.

        Raises:
            RangeError: it cannot map its addresses.
        """
        mapper.map(self.mapped_ranges())
        self._mappers.append(mapper)

    @property
    def idle(self) -> bool:
        """Whether everything that was launched on any device has ended."""
        return all(mapper.idle for mapper in self._mappers)

    def mapped_ranges(self) -> list[PageRange]:
        """Everything that devices map: the arena and the registered pages."""
        return [(self.arena.memory.begin, self.arena.memory.end), *self.registry.ranges()]

    def arrays(self) -> list[Array]:
        """All arrays that are alive: bytes of the arena, and registered memory."""
        owners = [owner for ref in self._owners.valuerefs() if (owner := ref()) is not None]
        return [np.asarray(owner) for owner in owners] + self.registry.arrays()

    def contents(self) -> list[Array]:
        """All allocations of the arena, those without an array included, and registered memory."""
        arena = [self.view(begin, end - begin) for begin, end, _ in self.arena.allocations()]
        return arena + self.registry.arrays()

    def allocations(self) -> list[tuple[int, int, str]]:
        """(begin, end, label) of all of that."""
        return self.arena.allocations() + self.registry.allocations()

    def nearest(self, address: int) -> tuple[int, int, str] | None:
        """(begin, end, label) of what is nearest to an address."""
        return min(self.allocations(), key=lambda r: max(r[0] - address, address - r[1] + 1, 0), default=None)

    def whereabouts(self, address: int) -> str:
        """In words, how far an address is from the nearest array (for error messages)."""
        found = self.nearest(address)
        if found is None:
            return "there are no shared arrays"
        begin, end, label = found
        if max(begin - address, address - end) > _FAR:
            return "no shared array is anywhere near"
        if address < begin:
            where = f"{begin - address:,} bytes before the"
        elif address >= end:
            where = f"{address - end:,} bytes behind the end of the"
        else:
            where = f"{address - begin:,} bytes into the"
        return f"it lies {where} {label} at {begin:#x}"
