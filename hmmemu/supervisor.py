"""The process of a device: requests of it, waiting for it, and another one in its place when it fails.

A process that fails, hangs or is in the way of memory is replaced. Its pages come home first, its address space is made
anew, and the launches that it took with it are remembered: whoever waits for one of them is told why.

LOCK: `Supervisor.lock` guards the change from a process to its successor, and what belongs to one of them (the loaded
modules). It is never held while waiting for a kernel.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from hmmemu._native import LAYOUTS, DeviceProcess
from hmmemu.address_distance import start_with
from hmmemu.arguments import names
from hmmemu.errors import DeviceError, KernelTimeout, RangeError, SpaceClosedError
from hmmemu.memory import Memory
from hmmemu.ranges import Array, PageRange, subtract

_NOT_QUEUED = (1 << 64) - 1  # a ticket that has not ended
_MOST_TRIES = 1000  # to find the device with nothing to do


class _Failure:
    """A process that failed: the launches that it took with it, by ticket, and why; whether anybody was told."""

    def __init__(self, first: int, last: int, error: DeviceError) -> None:
        self.first, self.last, self.error = first, last, error
        self.told = False


class Supervisor:
    """Keeps the process of one device.

    Args:
        process: started, with its link set.
        memory: of the device's space.
        name: of the device, for messages.

    Attributes:
        processor: the device's number among the processors; the CPU is 0.
        generation: how often the process was replaced. What a process was told is unknown to its successor.
        pending: [ticket, what launches under way must keep alive], the oldest first.
    """

    def __init__(self, process: DeviceProcess, memory: Memory, name: str) -> None:
        self.process = process
        self.lock = threading.RLock()
        self.generation = 0
        self._memory: Callable[[], Memory | None] = lambda: memory
        self._name = name
        self.pending: deque[list[Any]] = deque()
        self._failures: list[_Failure] = []
        self._lost_output = 0
        self._closed = False
        self.processor = memory.session.attach(process)

    @property
    def memory(self) -> Memory:
        """The memory of the device's space.

        Raises:
            SpaceClosedError: it was closed, and nobody has it any more.
        """
        memory = self._memory()
        if memory is None:
            raise SpaceClosedError("the address space of this device is closed")
        return memory

    def ask(self, request: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """A request of the process; if the process is found dead, it is replaced and its error raised."""
        generation = self.generation
        try:
            return request(*args, **options)
        except KernelTimeout:
            raise
        except DeviceError:
            if self._lives_on():
                raise
            failure = self._restart(generation, None)
            if failure is None:
                raise
            failure.told = True
            raise failure.error from None

    def _lives_on(self) -> bool:
        """Whether the process is alive; one that is just ending gets half a second to be gone."""
        for _ in range(100):
            if not self.process.alive:
                return False
            time.sleep(0.005)
        return True

    def close(self) -> None:
        """Ends the process. Its pages must be home.

        The memory is not kept alive any more: descriptors and a lot of address space go with the last reference to the
        space, and not when Python looks for cycles.
        """
        with self.lock:
            self._closed = True
            self.process.kill()
        self._memory = weakref.ref(self.memory)

    # ------------------------------------------------------------------------------------------ waiting

    def keep(self, things: Any) -> list[Any]:
        """Keeps what a launch works on alive until it has ended, from before it is queued.

        Returns:
            the entry of `pending`, whose first item is to become the launch's ticket, or a later one.
        """
        kept = [_NOT_QUEUED, things]
        self.pending.append(kept)
        return kept

    def forget_completed(self) -> None:
        """Lets go of what launches that have ended worked on. At no moment is anything else out of `pending`."""
        try:
            while self.completed(self.pending[0][0]):
                first = self.pending.popleft()
                if not self.completed(first[0]):  # another thread has taken the one that was looked at
                    self.pending.appendleft(first)
        except IndexError:  # there is nothing, or another thread has it
            pass

    def completed(self, ticket: int) -> bool:
        """Whether a launch or marker has ended, well or not."""
        return self.process.completed(ticket) or self._failure_of(ticket) is not None

    @property
    def idle(self) -> bool:
        """Whether everything that was launched has ended."""
        return self.completed(self.process.last_ticket)

    def synchronize(self, timeout: float | None = None) -> None:
        """Waits until everything queued has ended; see `Device.synchronize`."""
        self.memory.session_or_raise()
        ticket = self.process.last_ticket
        failure = self._failure_of(ticket)
        if failure is None or not failure.told:
            self.wait(ticket, timeout)

    def wait(self, ticket: int, timeout: float | None = None) -> None:
        """Waits for a launch or marker; raises as `synchronize` does, and again if asked again."""
        self._wait_untold(ticket, timeout)
        failure = self._failure_of(ticket)
        try:
            self._print_output()
        except Exception:
            if failure is None:
                raise  # else: why the kernel failed matters more than a stdout that cannot take its output
        if failure is not None:
            failure.told = True
            raise failure.error.with_traceback(None)

    def wait_for_users(self, owner: Array, timeout: float | None) -> None:
        """Waits until no launch under way was given an array whose memory `owner` owns.

        A kernel that does not end in time is stopped. What a kernel fails with is raised where it is waited for.
        """
        users = [ticket for ticket, things in self.pending.copy() if names(things, owner)]
        if users:
            self._wait_untold(min(max(users), self.process.last_ticket), timeout)

    def _wait_untold(self, ticket: int, timeout: float | None) -> None:
        if self._failure_of(ticket) is None:
            self._wait(ticket, timeout)
        self.forget_completed()

    def _wait(self, ticket: int, timeout: float | None) -> None:
        generation = self.generation
        try:
            outcome = self.process.wait(ticket, timeout)
        except KeyboardInterrupt:
            failure = self._restart(generation, DeviceError("the kernel was stopped by Ctrl-C"))
            if failure:
                failure.told = True
            raise
        if outcome == "timeout":
            self._restart(
                generation,
                KernelTimeout(
                    f"the kernel did not end within {timeout} s and was stopped; the device was started again, "
                    "its memory came home"
                ),
            )
        elif outcome == "dead":
            self._restart(generation, None)

    def _failure_of(self, ticket: int) -> _Failure | None:
        return next((f for f in self._failures if f.first <= ticket <= f.last), None)

    def _print_output(self) -> None:
        text = self.process.take_output().decode(errors="replace")
        if not text:
            return
        lost, self._lost_output = self.process.output_dropped - self._lost_output, self.process.output_dropped
        if lost:
            text += f"[hmmemu: {lost:,} bytes of printf output were lost: its buffer holds 1 MiB]\n"
        _print(text)

    # ---------------------------------------------------------------------------------------- successors

    def _restart(self, generation: int, error: DeviceError | None) -> _Failure | None:
        """A process in the place of one that failed or is to be stopped; its pages come home first.

        Returns the failure, its error made from the crash record unless given; None if another thread was faster. That
        may be seen by the generation, or, if the launch was lost before that was read, by a process that lives.

        Raises:
            SpaceClosedError: there is to be no successor.
        """
        from hmmemu.cuda_failure import add_losses  # most programs need them never
        from hmmemu.failure import describe_crash

        with self.lock:
            if self._closed:
                raise SpaceClosedError("the address space was closed meanwhile") from None
            if generation != self.generation or (error is None and self.process.alive):
                return None
            self.generation += 1
            memory = self.memory
            self.process.kill()
            first, last = self.process.completed_ticket + 1, self.process.last_ticket
            crash = self.process.crash()
            if error is None:
                refused, errno = memory.session.take_refusal(self.processor)
                error = describe_crash(crash, refused, errno, memory)
            else:
                add_losses(error, crash)
            memory.session.detach(self.processor)
            failure = _Failure(first, last, error)
            self._failures.append(failure)
            self.forget_completed()
            self._start_again(self.process.layout, self.process.distance, memory.mapped_ranges())
            return failure

    def _relocate(self, ranges: list[PageRange]) -> None:
        """The way of `_restart`, with nothing lost: launches under way end first."""
        for _ in range(_MOST_TRIES):
            self.synchronize()
            with self.lock:
                if self.process.completed_ticket >= self.process.last_ticket:
                    return self._start_elsewhere(ranges)
            # Another thread has launched meanwhile.
        raise DeviceError(
            f"the {self._name} cannot be started again for an array that was registered: other threads launch kernels "
            "all the time"
        )

    def _start_elsewhere(self, ranges: list[PageRange]) -> None:
        """Caller must hold the lock; nothing is under way."""
        self.generation += 1
        memory = self.memory
        memory.session.detach(self.processor)  # while it lives: a GPU's memory may end with it
        self.process.kill()
        layout, distance = self.process.layout + 1, self.process.distance
        try:
            self._start_again(layout, distance, memory.mapped_ranges())
        except RangeError:
            self._start_again(layout, distance, subtract(memory.mapped_ranges(), ranges))
            raise

    def _start_again(self, layout: int, distance: int, ranges: list[PageRange]) -> None:
        """A new process with these ranges mapped, with another address layout or distance if need be."""
        if not start_with(self.process, layout, distance, ranges):
            raise RangeError(
                f"the {self._name} cannot map all of the address space's memory in any of its {LAYOUTS} address "
                "layouts, nor at another distance: unregister the array registered last"
            )
        self.memory.session.reattach(self.processor, self.process)

    # ------------------------------------------------------------------------------------ address space

    def map(self, ranges: list[PageRange]) -> None:
        """Makes ranges that the space has now part of the device's address space, all or none.

        Where the device cannot have those addresses, its process is replaced by one with another address layout, or
        with all of its addresses at a distance.

        Raises:
            RangeError: in every layout, and at every distance that was tried, something is in the way.
        """
        try:
            for begin, end in ranges:
                self.ask(self.process.map, begin, end - begin)
        except RangeError:
            self._relocate(ranges)

    def tell_frames(self, fd: int, begin: int, end: int, offset: int) -> bool:
        """Tells the process where the CPU's frames of a range lie: from `offset` on in what `fd` (O_PATH) names.

        False: it cannot open that for writing. What is unmapped is forgotten.
        """
        return bool(self.ask(self.process.tell_frames, fd, begin, end - begin, offset))

    def forget_frames(self, begin: int, end: int) -> None:
        """Has the process forget what `tell_frames` said of a range."""
        self.ask(self.process.forget_frames, begin, end - begin)


def _print(text: str) -> None:
    """On stdout, in its encoding, as far as that has the characters; nowhere if the program has no stdout."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:
        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()
