"""Write protectors: who is told before a page is written, by the CPU or by a device.

A protector is told once of each page, until it arms the page again. The native part runs before the write takes
effect: it notes the page and keeps what it held. Python's part, `on_write`, runs on a thread of the space soon
after, because the thread that writes may hold the GIL and must not wait for it; it is given the content before the
write and so can act as if it had run in front of it.

ORDER that is promised: each protector hears of pages in the order in which they were written; of one page,
protectors hear in the order in which they were registered.

LOCKS: `Protectors._lock` guards the list of protections; `Protection._calls` is held while `on_write` runs, so that
after `drop` it does not run any more. Neither is held while pages are written by anybody.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hmmemu._native import Bell, PageLog, Session
from hmmemu.arena import PAGE
from hmmemu.errors import ArgumentError, DeviceError, RangeError
from hmmemu.ranges import Array, PageRange, Range, describe, extent


class Protector(Protocol):
    """Anything with `on_write` can protect pages."""

    def on_write(self, pages: WrittenPages) -> None:
        """Called with pages of which it was the first write since they were armed."""


@dataclass(frozen=True)
class WrittenPages:
    """Pages that were written, in the order of the writes.

    Attributes:
        memory: the array that was given to `AddressSpace.protect`.
        addresses: uint64, one a page.
        indices: intp; 0 is the page that holds the first byte of `memory`.
        before: uint8, shape (pages, 4096): what each page held before the write.
        protection: the registration, to arm pages again or to drop it.
    """

    memory: Array
    addresses: NDArray[np.uint64]
    indices: NDArray[np.intp]
    before: NDArray[np.uint8]
    protection: Protection

    def arm(self) -> None:
        """The next write to each of these pages is told again."""
        self.protection.arm_pages(self.addresses)


class Protection:
    """A registered protector; made by `AddressSpace.protect`. Ends with `drop`, or as a context manager."""

    def __init__(self, owner: Protectors, memory: Array, protector: Protector) -> None:
        self.memory = memory
        self.protector = protector
        self._owner = owner
        self._first, self._end = extent(memory).pages
        self._log = PageLog(owner.session, self._first, self._end, True, owner.bell)
        self._calls = threading.RLock()
        self._dropped = False
        self._delivered = 0

    def __enter__(self) -> Protection:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def arm(self, memory: Array | None = None) -> None:
        """From now on the next write to each page of `memory` (default: all of it) is told.

        Raises:
            RangeError: `memory` does not lie in the protected array.
        """
        if memory is None:
            self._arm([(self._first, self._end)])
            return
        first, end = extent(memory).pages
        if first < self._first or end > self._end:
            raise RangeError(f"the {describe(memory)} does not lie in the protected {describe(self.memory)}")
        self._arm([(first, end)])

    def arm_pages(self, addresses: NDArray[np.uint64]) -> None:
        """As `arm`, for pages by their addresses."""
        self._arm(runs_of(addresses))

    def _arm(self, ranges: list[PageRange]) -> None:
        if not self._dropped:
            self._log.arm(ranges)

    def drop(self, timeout: float = 60.0) -> None:
        """Ends it; `on_write` does not run any more. May be called at any time, from inside `on_write` too.

        Raises:
            DeviceError: `on_write` still runs after `timeout` seconds. It is the last time.
        """
        self._dropped = True
        returned = self._calls.acquire(timeout=timeout)
        if returned:
            self._calls.release()
        self._log.drop()
        self._owner.forget(self)
        if not returned:
            raise _still_runs(self.memory, timeout)

    def flush(self, timeout: float = 60.0) -> None:
        """Waits until `on_write` was called for everything written before this call.

        Raises:
            DeviceError: not within `timeout` seconds. RuntimeError: called from inside an `on_write`.
        """
        target = self._written()
        self._owner.wait_until(lambda: self._dropped or self._delivered >= target, timeout, self.memory)

    def _written(self) -> int:
        self._owner.session.notice_writes(self._first, self._end)
        return self._log.written_pages

    def collect(self) -> NDArray[np.uint64]:
        """Pages written and not yet delivered (for the dispatcher)."""
        return np.frombuffer(self._log.take((self._end - self._first) // PAGE), np.uint64)

    def deliver(self, addresses: NDArray[np.uint64]) -> None:
        """Calls `on_write` (for the dispatcher)."""
        kept = b"".join(self._log.before(int(page)) for page in addresses)
        self._log.forget(addresses.tolist())
        indices = ((addresses - np.uint64(self._first)) // np.uint64(PAGE)).astype(np.intp)
        before = np.frombuffer(kept, np.uint8).reshape(-1, PAGE)
        with self._calls:
            try:
                if not self._dropped:
                    self.protector.on_write(WrittenPages(self.memory, addresses, indices, before, self))
            finally:
                self._delivered += len(addresses)


def _still_runs(memory: Array, timeout: float) -> DeviceError:
    return DeviceError(f"on_write of the {describe(memory)} did not return within {timeout:g} s")


class Protectors:
    """The Python protectors of one space, and the thread that calls them.

    Args:
        session: the driver.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.bell = Bell()
        self._lock = threading.RLock()  # the collector may end the space in the thread that has it
        self._protections: list[Protection] = []
        self._thread: threading.Thread | None = None
        self._progress = threading.Condition()
        self._closing = False

    def add(self, memory: Array, protector: Protector) -> Protection:
        """Registers a protector, armed on all pages of `memory`."""
        if not callable(getattr(protector, "on_write", None)):
            raise ArgumentError(f"{protector!r} is no protector: it has no method on_write(pages)")
        if memory.size == 0:
            raise ArgumentError(f"the {describe(memory)} has no pages to protect")
        protection = Protection(self, memory, protector)
        with self._lock:
            self._protections.append(protection)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hmm-protectors", daemon=True)
                self._thread.start()
        protection.arm()
        return protection

    def forget(self, protection: Protection) -> None:
        """See `Protection.drop`."""
        with self._lock:
            if protection in self._protections:
                self._protections.remove(protection)

    def close(self) -> None:
        """Drops all protections and ends the thread.

        Raises:
            DeviceError: an `on_write` does not return; all the rest is done.
        """
        failure: BaseException | None = None
        for protection in list(self._protections):
            try:
                protection.drop()
            except BaseException as error:  # Ctrl-C, too
                failure = error
        self._closing = True
        self.bell.ring()
        with self._progress:
            self._progress.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(0 if failure else 10)
        if failure:
            raise failure

    def wait_until(self, done: Any, timeout: float, memory: Array) -> None:
        """Waits for the dispatcher."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("flush waits for on_write to return, and was called from inside it")
        with self._progress:
            if not self._progress.wait_for(lambda: done() or self._closing, timeout):
                raise _still_runs(memory, timeout)

    def _run(self) -> None:
        while not self._closing:
            seen = self.bell.count
            if not self._deliver_once():
                self.bell.wait(seen, 1.0)

    def _deliver_once(self) -> bool:
        with self._lock:
            protections = list(self._protections)
        # Natively, of one page, an earlier protector's entry is made first. Collected in reverse, whatever a later
        # one is found to have heard of is there for the earlier ones too.
        collected = [(p, p.collect()) for p in reversed(protections)]
        for protection, addresses in reversed(collected):
            if len(addresses):
                try:
                    protection.deliver(addresses)
                except BaseException:  # sys.exit() in on_write ends nobody else's protection
                    threading.excepthook(
                        threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread()))
                    )
        with self._progress:
            self._progress.notify_all()
        return any(len(addresses) for _, addresses in collected)


_Elements = tuple[Range, tuple[int, ...], tuple[int, ...]]  # where they lie, shape, strides


class DirtyLogs:
    """Which pages of which arrays were written since they were asked for last.

    Arrays on the same pages have logs of their own: asking for one answers nothing for another.

    Args:
        session: the driver.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._logs: dict[_Elements, tuple[PageLog, weakref.ref[Array]]] = {}

    def collect(self, memory: Array, root: Array) -> NDArray[np.intp]:
        """See `AddressSpace.dirty`."""
        if memory.size == 0:
            return np.empty(0, np.intp)
        elements = extent(memory), memory.shape, memory.strides
        first, end = pages = elements[0].pages
        with self._lock:
            known = self._logs.get(elements)
            if known is None:
                log = PageLog(self._session, first, end, False, None)
                self._logs[elements] = log, weakref.ref(root, lambda _: self._end(elements))
                log.arm([pages])
                return np.arange((end - first) // PAGE)
            log = known[0]
            self._session.notice_writes(first, end)
            addresses = np.frombuffer(log.take((end - first) // PAGE), np.uint64)
            log.forget(addresses.tolist())
            log.arm(runs_of(addresses))
        return np.unique((addresses - np.uint64(first)) // np.uint64(PAGE)).astype(np.intp)

    def _end(self, elements: _Elements) -> None:
        self._logs.pop(elements, None)  # the log drops itself

    def close(self) -> None:
        """Drops all logs."""
        with self._lock:
            for log, _ in self._logs.values():
                log.drop()
            self._logs.clear()


class Snapshot:
    """A frozen copy of an array, which costs the pages written since; made by `AddressSpace.snapshot_of`.

    `np.asarray(snapshot)` gives the array as it was. Keeps the array itself alive.
    """

    def __init__(self, session: Session, memory: Array) -> None:
        if memory.size == 0:
            raise ArgumentError(f"the {describe(memory)} has no pages to keep")
        self.memory = memory
        self._session = session
        self._first, self._end = extent(memory).pages
        self._log = PageLog(session, self._first, self._end, True, None)
        self._log.arm([(self._first, self._end)])

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    @property
    def copied_pages(self) -> int:
        """Pages of which the old content is kept, because they were written since."""
        self._session.notice_writes(self._first, self._end)
        return self._log.written_pages

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a snapshot is put together from pages: it cannot be had without a copy")
        raw = np.empty(self._end - self._first, np.uint8)
        self._log.read(self._first, self._end, raw.ctypes.data)
        offset = self.memory.ctypes.data - self._first
        frozen: Array = np.ndarray(
            self.memory.shape, self.memory.dtype, raw.data, offset, self.memory.strides
        ).copy()
        return frozen if dtype is None else frozen.astype(dtype)

    def drop(self) -> None:
        """Ends it; the kept pages are given back."""
        self._log.drop()


def runs_of(addresses: Iterable[int] | NDArray[np.uint64]) -> list[PageRange]:
    """Ranges that hold exactly the pages at these addresses, sorted and merged."""
    pages = np.unique(np.asarray(addresses, np.uint64)).astype(np.int64)
    if len(pages) == 0:
        return []
    cuts = np.flatnonzero(np.diff(pages) != PAGE) + 1
    firsts, lasts = pages[np.r_[0, cuts]], pages[np.r_[cuts - 1, -1]]
    return [(int(first), int(last) + PAGE) for first, last in zip(firsts, lasts, strict=True)]
