"""Which address spaces this process has: the open ones, those that a thread has entered by `with`, the default one.

LOCK: `Spaces._lock` guards the default space. The table of open ones is changed by single dict operations; what a
thread has entered is its own.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from hmmemu._native import Session

T = TypeVar("T")
_EXIT_SECONDS = 60.0  # kernels still running when the interpreter leaves are stopped after that


class Space(Protocol):
    """An address space, as far as the process is concerned."""

    @property
    def session(self) -> Session:
        """The driver, which knows whether the space is open."""

    def close(self, timeout: float | None = None) -> None:
        """Closes it; kernels that still run are waited for, so many seconds."""


S = TypeVar("S", bound=Space)


class Entered(threading.local, Generic[T]):
    """What each thread has entered by `with`, the innermost last."""

    def __init__(self) -> None:
        self._stack: list[T] = []

    def enter(self, item: T) -> None:
        """The thread enters it."""
        self._stack.append(item)

    def leave(self, item: T) -> None:
        """The thread leaves what it entered last; that is to be `item`. Nothing, if another thread has entered it."""
        if item in self._stack:
            del self._stack[len(self._stack) - 1 - self._stack[::-1].index(item)]

    @property
    def innermost(self) -> T | None:
        """What the thread entered last and has not left; None if there is nothing."""
        return self._stack[-1] if self._stack else None


class Spaces(Generic[S]):
    """The address spaces of this process."""

    def __init__(self) -> None:
        self.entered: Entered[S] = Entered()
        self._open: weakref.WeakValueDictionary[int, S] = weakref.WeakValueDictionary()
        self._default: S | None = None
        self._lock = threading.Lock()
        self._worker = 0  # the process that closes them as a worker

    def opened(self, space: S) -> None:
        """Takes note of a space."""
        self._open[id(space)] = space
        self._close_with_worker()

    def _close_with_worker(self) -> None:
        """A forked worker of `multiprocessing` leaves by os._exit, without `atexit`: it asks its own list."""
        util = sys.modules.get("multiprocessing.util")
        if (
            util is None
            or self._worker == os.getpid()
            or sys.modules["multiprocessing"].parent_process() is None
        ):
            return
        util.Finalize(None, self.close_all, exitpriority=0)
        self._worker = os.getpid()

    def closed(self, space: S) -> None:
        """Forgets it."""
        self._open.pop(id(space), None)

    def open(self) -> list[S]:
        """Those that are open. Others may come and go meanwhile."""
        return [space for reference in self._open.valuerefs() if (space := reference()) is not None]

    def current(self, make: Callable[[], S]) -> S:
        """The innermost one of the thread, else the default one, which is made at first use."""
        space = self.entered.innermost
        if space is not None:
            return space
        with self._lock:
            if self._default is None or not self._default.session.open:
                self._default = make()
            return self._default

    def forked(self) -> None:
        """In a fork child: a thread that opened the default space meanwhile is not here."""
        self._lock = threading.Lock()

    def close_all(self) -> None:
        """The interpreter leaves. What failed in one of them is raised when all are closed."""
        failure: BaseException | None = None
        for space in self.open():
            try:
                space.close(_EXIT_SECONDS)
            except BaseException as error:
                failure = failure or error
        if failure is not None:
            raise failure
