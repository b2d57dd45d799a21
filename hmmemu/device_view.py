"""Device views: an array's memory on a device, for other libraries than hmmemu.

On a GPU the body of a ``with`` block gets a `cupy.ndarray` of the memory that kernels use there (hmmemu/cuda_view.py);
on an emulated device the array itself, with which the CPU works in the device's place. Views and launches keep out of
each other's way by one rule: memory that is written by one is used by no other meanwhile.

LOCK: `OpenViews._lock` guards the list of views. It is held while marks of pages change, which waits for pages that are
in transition; no page is touched under it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hmmemu._native import Session
from hmmemu.arguments import In, Intent, Out, Pointer
from hmmemu.before_launch import make_ready
from hmmemu.errors import ArgumentError, ViewError
from hmmemu.memory import Memory
from hmmemu.policy import Policy
from hmmemu.ranges import PageRange, describe, extent, root, subtract

if TYPE_CHECKING:
    from hmmemu.device import Device

_MOST_BYTES = {"f": 8, "c": 16}  # of an element that CUDA has a type for


class Space(Protocol):
    """An address space, as far as its views are concerned."""

    memory: Memory
    policy: Policy
    views: OpenViews
    timeout: float | None


class DeviceView:
    """The memory of one array on a device, from `AddressSpace.device_view`. A context manager, for once at a time.

    Within the block nobody but the view may use the array's pages if it writes them, and nobody may write them if it
    reads. Pages that were used all the same are told at its end, as a `ViewError`.
    """

    def __init__(self, space: Space, device: Device, array: Any) -> None:
        self.pointer = _pointer(space.memory, array)
        self.pages = self.pointer.pages
        self.device = device
        self._space = space
        self._open: ExitStack | None = None
        self._array: Any = None

    def __repr__(self) -> str:
        state = "open" if self._open else "closed"
        return f"<hmmemu.DeviceView of the {describe(self.pointer.array)}, on {self.device.name}, {state}>"

    def __enter__(self) -> Any:
        if self._open:
            raise ViewError(f"{self!r} is open already: make another one")
        space = self._space
        session = space.memory.session_or_raise()
        self._open = stack = ExitStack()
        try:
            stack.callback(space.views.remove, self, session)
            space.views.add(self)
            if self.pointer.array.size:
                make_ready(space.memory, space.policy, [self.pointer], self.device.processor)
            self.device.synchronize(space.timeout)
            self._array = stack.enter_context(self.device.open_view(self.pointer))
            return self._array
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._open is not None:
                self._open.__exit__(kind, error, trace)
        finally:
            self._open = self._array = None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3, with CuPy's current stream, while the view is open on a GPU.

        Raises:
            ViewError: it is not open. AttributeError: the device is an emulated one.
        """
        if self.device.kind != "cuda":
            raise AttributeError(f"{self.device.name} has no memory of CUDA's")
        if self._array is None:
            raise ViewError(f"{self!r}: use it within its `with` block")
        interface: dict[str, Any] = self._array.__cuda_array_interface__
        return interface


class OpenViews:
    """The views of one address space that are open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: tuple[DeviceView, ...] = ()  # replaced as a whole

    def add(self, view: DeviceView) -> None:
        """Notes a view that is about to be opened.

        Raises:
            ViewError: one on another device uses the memory.
        """
        with self._lock:
            for other in self._open:
                if other.device is not view.device and _conflict(other, view.pages, view.pointer.writes):
                    raise ViewError(
                        f"the {describe(view.pointer.array)} is in use by a view on {other.device.name}, of the "
                        f"{describe(other.pointer.array)}: leave that `with` block first"
                    )
            self._open = (*self._open, view)

    def remove(self, view: DeviceView, session: Session) -> None:
        """Forgets it. Its pages are marked as used by no view, but for those that another one uses."""
        try:
            self._remove(view, session)
        except BaseException:  # Ctrl-C, say: nobody else would
            self._remove(view, session)
            raise

    def _remove(self, view: DeviceView, session: Session) -> None:
        with self._lock:
            others = [other for other in self._open if other is not view]
            self._open = tuple(others)
            if session.open:
                for begin, end in subtract([view.pages], [other.pages for other in others]):
                    session.mark_viewed(begin, end, False)

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return bool(self._open)

    def of(self, device: Device) -> list[PageRange]:
        """The pages of the views that are open on a device."""
        return [view.pages for view in self._open if view.device is device]

    def refuse(self, pointers: Sequence[Pointer], who: str) -> None:
        """Raises ViewError if something that is about to run would get in the way of an open view."""
        if not self._open:
            return
        for pointer in pointers:
            for view in self._open:
                if _conflict(view, pointer.pages, pointer.writes):
                    raise ViewError(
                        f"{who} {'writes' if pointer.writes else 'reads'} the {describe(pointer.array)}, and a device "
                        f"view {'writes' if view.pointer.writes else 'reads'} pages of it: leave its `with` block "
                        "first"
                    )


def _conflict(view: DeviceView, pages: PageRange, writes: bool) -> bool:
    begin, end = pages
    return (writes or view.pointer.writes) and max(begin, view.pages[0]) < min(end, view.pages[1])


def _pointer(memory: Memory, value: Any) -> Pointer:
    """The array that a view is asked for, as a kernel's argument would be; see `AddressSpace.device_view`."""
    array = value.array if isinstance(value, Intent) else value
    if not isinstance(array, np.ndarray):
        raise ArgumentError(f"a device view is of a numpy array, not of a {type(value).__name__}")
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "biufc" or size > _MOST_BYTES.get(kind, 8) or not array.dtype.isnative:
        raise ArgumentError(
            f"the {describe(array)} has elements that CuPy has no type for; take a view of them that it has, "
            "array.view(numpy.uint8) for example"
        )
    writes = not isinstance(value, In)
    if writes and not array.flags.writeable:
        raise ArgumentError(
            f"the {describe(array)} is read-only: pass hmm.In(array), for a view that only reads"
        )
    if writes:
        _check_pages(memory, array)
    return Pointer(0, array, writes, isinstance(value, Out))


def _check_pages(memory: Memory, array: Any) -> None:
    """What lies on the same pages is out of the CPU's reach while they are written, too."""
    bytes_, whole = extent(array), extent(root(array))
    begin, end = bytes_.pages
    if (
        bytes_.begin == bytes_.end
        or bytes_.begin in memory.arena
        or (whole.begin <= begin and end <= whole.end)
    ):
        return
    raise ArgumentError(
        f"the {describe(array)} has pages on which other memory of the program lies, which nobody could use while the "
        "view is open: allocate it with hmm.empty, copy it with hmm.asarray, or pass hmm.In(array) for a view that "
        "only reads"
    )
