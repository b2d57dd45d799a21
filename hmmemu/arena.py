"""The arena: address space from which shared arrays are cut, in whole pages.

One range of virtual addresses, reserved at once and backed by memory only where touched. A page that nobody owns lies
behind every allocation, so that a kernel which runs off the end of an array is caught and not served.

LOCK: `Arena._lock` guards the free list. Finalizers of arrays may run at any point of the interpreter, within
this lock too, so they only append to `_dead`, and the next call of `take` or `collect` does the work.
"""

from __future__ import annotations

import bisect
import os
import threading
from collections import deque
from collections.abc import Callable

from hmmemu._native import Session, unmap
from hmmemu.errors import Error, OutOfMemoryError

PAGE = 4096
GUARD = PAGE


def page_down(address: int) -> int:
    """The page that holds `address`."""
    return address & ~(PAGE - 1)


def page_up(address: int) -> int:
    """The first page boundary at or after `address`."""
    return page_down(address + PAGE - 1)


class ArenaMemory:
    """The mapping itself. Arrays and the arena hold it; it is unmapped when the last of them is gone."""

    def __init__(self, session: Session, size: int, in_file: bool) -> None:
        self.begin, self.end = session.make_arena(size, in_file)

    def __del__(self, unmap: Callable[[int, int], None] = unmap) -> None:  # globals may be gone when it runs
        if hasattr(self, "end"):
            unmap(self.begin, self.end)


class Arena:
    """First-fit allocator of page ranges.

    Args:
        session: the driver, which is told of every range that begins or ceases to be owned.
        size: bytes of address space to ask for; less is taken where the system grants less.
        in_file: the memory lies in a file, which a GPU's helper maps, too; else it is private to this process.
            HMMEMU_ARENA=file has it lie there in any space, for tests.
    """

    def __init__(self, session: Session, size: int, in_file: bool = False) -> None:
        in_file = in_file or os.environ.get("HMMEMU_ARENA") == "file"
        self.memory = ArenaMemory(session, size, in_file)
        self._session = session
        self._lock = threading.Lock()
        self._free: list[tuple[int, int]] = [(self.memory.begin, self.memory.end)]  # sorted, never adjacent
        self._taken: dict[int, int] = {}
        self._labels: dict[int, str] = {}
        self._dead: deque[int] = deque()

    def __contains__(self, address: int) -> bool:
        return self.memory.begin <= address < self.memory.end

    def take(self, size: int, label: str) -> int:
        """Allocates `size` bytes; returns the address of the first, on a page boundary.

        `label` says in messages what lies there.

        Raises:
            OutOfMemoryError: no free range is long enough.
        """
        need = page_up(max(size, 1)) + GUARD
        with self._lock:
            self._collect()
            for i, (begin, end) in enumerate(self._free):
                if end - begin < need:
                    continue
                self._free[i : i + 1] = [(begin + need, end)] if end - begin > need else []
                self._taken[begin], self._labels[begin] = begin + need, label
                break
            else:
                raise OutOfMemoryError(
                    f"no room for {size:,} bytes in the arena of {self.memory.end - self.memory.begin:,} bytes: "
                    "delete arrays, or open the AddressSpace with a larger arena_bytes"
                )
        try:
            self._session.allocate(begin, begin + need - GUARD)
        except Error:  # nobody owns a page there
            with self._lock:
                self._give_back(begin)
            raise
        return begin

    def abandon(self, address: int) -> None:
        """Gives an allocation back, some time soon. Safe from finalizers and signal handlers."""
        self._dead.append(address)

    def collect(self) -> None:
        """Frees what was abandoned."""
        if self._dead:
            with self._lock:
                self._collect()

    def allocations(self) -> list[tuple[int, int, str]]:
        """(begin, end, label) of all allocations, guard pages left out."""
        with self._lock:
            return sorted((begin, end - GUARD, self._labels[begin]) for begin, end in self._taken.items())

    def _collect(self) -> None:
        while self._dead:
            begin = self._dead.popleft()
            self._session.free(begin, self._taken[begin] - GUARD)
            self._give_back(begin)

    def _give_back(self, begin: int) -> None:
        end = self._taken.pop(begin)
        del self._labels[begin]
        i = bisect.bisect(self._free, (begin, end))
        if i < len(self._free) and self._free[i][0] == end:
            end = self._free.pop(i)[1]
        if i > 0 and self._free[i - 1][1] == begin:
            begin = self._free.pop(i - 1)[0]
            i -= 1
        self._free.insert(i, (begin, end))
