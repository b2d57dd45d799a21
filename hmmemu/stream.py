"""Streams and events, with CuPy's names.

A device runs its launches one after another, in the order in which they were made, whatever their streams; that is an
order CUDA allows. What a stream decides is who waits: a launch on the default stream returns when the kernel has
ended, a launch on any other stream returns at once.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING

from hmmemu.errors import ArgumentError, DeviceError
from hmmemu.space import current_space

if TYPE_CHECKING:
    from hmmemu.device import Device

_current = threading.local()


class Stream:
    """An order of launches. As a context manager it becomes the current stream of the thread.

    Args:
        null: True gives the default stream, on which launches wait for their kernel.
        non_blocking: accepted as in CuPy; streams here never block one another.

    Raises:
        ArgumentError: `null` is no bool; the device is chosen by the launch, not by the stream.
    """

    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        if not isinstance(null, bool):
            raise ArgumentError(
                f"Stream(null={null!r}): True or False; a launch says where it goes, `with device:` or device=..."
            )
        self.is_default = null
        self.non_blocking = non_blocking
        self._last: dict[Device, int] = {}
        self._outer: list[Stream] = []

    def __enter__(self) -> Stream:
        self._outer.append(current_stream())
        _current.stream = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.stream = self._outer.pop()

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
        """Later launches of this stream wait for `event`: they always do, devices work in order."""

    def follow(self, device: Device, ticket: int) -> None:
        """Takes note of a launch (for the library's own use)."""
        self._last[device] = ticket


Stream.null = Stream(null=True)


def current_stream() -> Stream:
    """The stream that launches of this thread go to: that of the innermost `with`, else the default one."""
    return getattr(_current, "stream", Stream.null)


class Event:
    """A point in the work of a device."""

    def __init__(self) -> None:
        self._mark: tuple[Device, int] | None = None

    def __repr__(self) -> str:
        state = "reached" if self.done else "not reached yet"
        return f"<hmmemu.Event, {state if self._mark else 'never recorded'}>"

    def record(self, stream: Stream | None = None) -> None:
        """Marks the point behind everything launched so far on the current device."""
        device = current_space().current_device
        ticket = device.marker()
        (stream or current_stream()).follow(device, ticket)
        self._mark = (device, ticket)

    @property
    def done(self) -> bool:
        """Whether the point was reached; an event never recorded counts as reached."""
        return self._mark is None or self._mark[0].completed(self._mark[1])

    def synchronize(self, timeout: float | None = None) -> None:
        """Waits for the point; see `Stream.synchronize`."""
        if self._mark:
            self._mark[0].wait(self._mark[1], timeout)

    def seconds(self) -> float:
        """When the point was reached, on the device's monotonic clock, in seconds.

        Raises:
            ArgumentError: the event was never recorded.
        """
        if not self._mark:
            raise ArgumentError("this event was never recorded: call event.record() first")
        self.synchronize()
        return self._mark[0].marker_seconds(self._mark[1])


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds between two recorded events; waits for both."""
    return (end_event.seconds() - start_event.seconds()) * 1e3
