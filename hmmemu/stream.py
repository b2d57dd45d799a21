"""Streams and events, with CuPy's names.

A device runs its launches one after another, in the order in which they were made, whatever their streams; that is an
order CUDA allows. What a stream decides is who waits: a launch on the default stream returns when the kernel has
ended, a launch on any other stream returns at once. Launches on several devices run side by side, those of one stream,
too: an event orders them.

No lock: the current stream is the thread's, and what a stream remembers changes by single operations of a dict or list.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING

from hmmemu.errors import ArgumentError, DeviceError
from hmmemu.space import current_space

if TYPE_CHECKING:
    from hmmemu.device import Device

    Mark = tuple[Device, int]  # of which launch or marker


class _Current(threading.local):
    """The stream of each thread, and those that come back when a `with` ends."""

    def __init__(self) -> None:
        self.stream: Stream = Stream.null
        self.outer: list[Stream] = []


class Stream:
    """An order of launches. As a context manager it becomes the current stream of the thread.

    Args:
        null: True gives the default stream, on which launches wait for their kernel.
        non_blocking, ptds, priority: accepted as in CuPy; streams here never block one another, and none is preferred.

    Raises:
        ArgumentError: `null` is no bool; the device is chosen by the launch, not by the stream.
    """

    null: Stream

    def __init__(
        self,
        null: bool = False,
        non_blocking: bool = False,
        ptds: bool = False,
        *,
        priority: int | None = None,
    ) -> None:
        if not isinstance(null, bool):
            raise ArgumentError(
                f"Stream(null={null!r}): True or False; a launch says where it goes, `with device:` or device=..."
            )
        self.is_default = null
        self.non_blocking = non_blocking
        self.awaited: list[Mark] = []
        self._last: dict[Device, int] = {}

    def __enter__(self) -> Stream:
        _current.outer.append(_current.stream)
        _current.stream = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.stream = _current.outer.pop() if _current.outer else Stream.null

    def __repr__(self) -> str:
        return f"<hmmemu.Stream, {'the default one' if self.is_default else 'of its own'}>"

    def use(self) -> Stream:
        """Makes this the current stream of the thread."""
        _current.stream = self
        return self

    @property
    def done(self) -> bool:
        """Whether everything launched on this stream so far has ended."""
        return all(device.completed(ticket) for device, ticket in list(self._last.items()))

    def synchronize(self, timeout: float | None = None) -> None:
        """Waits until everything launched on this stream so far has ended.

        Args:
            timeout: seconds; None waits without limit (Ctrl-C works).

        Raises:
            KernelTimeout: a kernel did not end in time; it was stopped, the space stays usable.
            KernelFault, KernelAssertion, DeviceError: a kernel failed.
        """
        for device, ticket in list(self._last.items()):
            try:
                device.wait(ticket, timeout)
            except DeviceError:
                self._last.pop(device, None)  # told once
                raise

    def record(self, event: Event | None = None) -> Event:
        """Records an event behind what was launched so far."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Later launches of this stream wait for `event`.

        Those on the event's own device come behind it anyway; a launch on another device waits for it on the CPU, and
        raises what the kernels before the event failed with.
        """
        self.awaited += event.marks

    def follow(self, device: Device, ticket: int) -> None:
        """Takes note of a launch or marker (for the library's own use). On the default stream they have ended."""
        if self.is_default:
            return
        if device not in self._last:
            self.devices()
        self._last[device] = ticket

    def devices(self) -> list[Device]:
        """Those that it has launched on, of spaces that are open: others are forgotten (for the library's own use)."""
        for device in list(self._last):
            if not device.usable:
                self._last.pop(device, None)
        return list(self._last)

    def wait_for_awaited(self, device: Device) -> None:
        """Before a launch on a device: waits for events of others (for the library's own use)."""
        for mark in list(self.awaited):
            other, ticket = mark
            if other is not device:
                other.wait(ticket, other.space.timeout)
            elif not other.completed(ticket):
                continue  # the device's order will do, but other devices may come
            if mark in self.awaited:
                self.awaited.remove(mark)


Stream.null = Stream(null=True)
_current = _Current()


def current_stream() -> Stream:
    """The stream that launches of this thread go to: that of the innermost `with`, else the default one."""
    return _current.stream


class Event:
    """A point in the work of a stream, on all devices that it has launched on.

    Args:
        block, disable_timing, interprocess: accepted as in CuPy; waiting never spins for long, and all are timed.
    """

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.marks: list[Mark] = []

    def __repr__(self) -> str:
        state = "reached" if self.done else "not reached yet"
        return f"<hmmemu.Event, {state if self.marks else 'never recorded'}>"

    def record(self, stream: Stream | None = None) -> None:
        """Marks the point behind everything launched so far on the stream's devices.

        A stream on which nothing was launched, as the default one counts, has the current device.
        """
        stream = stream or current_stream()
        self.marks = [(d, d.marker()) for d in stream.devices() or [current_space().current_device]]
        for device, ticket in self.marks:
            stream.follow(device, ticket)

    @property
    def done(self) -> bool:
        """Whether the point was reached; an event never recorded counts as reached."""
        return all(device.completed(ticket) for device, ticket in self.marks)

    def synchronize(self, timeout: float | None = None) -> None:
        """Waits for the point; see `Stream.synchronize`. The timeout is for each device."""
        for device, ticket in self.marks:
            device.wait(ticket, timeout)

    def seconds(self) -> float:
        """When the point was reached, on the monotonic clock of the CPU and the devices, in seconds.

        Raises:
            ArgumentError: the event was never recorded.
        """
        if not self.marks:
            raise ArgumentError("this event was never recorded: call event.record() first")
        self.synchronize()
        return max(device.marker_seconds(ticket) for device, ticket in self.marks)


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds between two recorded events; waits for both."""
    return (end_event.seconds() - start_event.seconds()) * 1e3
