"""What a device is, and the emulated one: a process with memory of its own at the same addresses.

LOCK: `Device._lock` guards the tables of loaded modules and the change from a failed process to its successor.
It is never held while waiting for a kernel.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

import hmmemu.reach as reach  # `from hmmemu import reach` would import every public name first
from hmmemu import _native
from hmmemu._native import DeviceProcess
from hmmemu.arena import page_up
from hmmemu.arguments import Pointer, pack
from hmmemu.before_launch import make_ready
from hmmemu.errors import ArgumentError, DeviceError, KernelTimeout, RangeError, SpaceClosedError
from hmmemu.failure import describe_crash
from hmmemu.link import Fallback
from hmmemu.modules import LoadedKernel, LoadedModule
from hmmemu.ranges import Array, PageRange, describe, subtract
from hmmemu.reach import Reach

if TYPE_CHECKING:
    from hmmemu.compiler import Compiled
    from hmmemu.space import AddressSpace

# Beside the extension module, in editable installs too.
PROGRAM = Path(_native.__file__).parent / "hmmemu-device"


# hmm_fallback in compiler/include/hmmemu/abi.h
_FALLBACKS = (Fallback.MIGRATE, Fallback.CAS_LOOP, Fallback.FAULT, Fallback.SILENT, Fallback.EXCLUSIVE)


@dataclass
class _Failure:
    """A process that failed: the launches that it took with it, by ticket, and why; whether anybody was told."""

    first: int
    last: int
    error: DeviceError
    told: bool = False


class Device:
    """An emulated device. Made by `AddressSpace`; as a context manager it becomes the current device.

    `hmmemu.cuda.CudaDevice` is the other kind: it starts another program, compiles for it, and names what a launch
    reaches.

    Attributes:
        index: its number among the space's devices, from 0.
        processor: its number among the processors; the CPU is 0.
        shared_bytes: block-shared memory of a launch, bytes.
    """

    shared_bytes = 256 * 1024
    kind = "emulated"
    target = "this machine's CPU"  # what kernels are compiled for
    counts = True  # whether its kernels can count their atomic operations
    confines = True  # whether it can tell that a kernel touches what its launch does not name

    def __init__(self, space: AddressSpace, index: int, workers: int, why: str) -> None:
        self._space: Callable[[], AddressSpace | None] = lambda: space
        self.index = index
        self.why = why
        self._lock = threading.RLock()
        self._modules: dict[str, LoadedModule] = {}
        self._variables: dict[str, tuple[int, int]] = {}  # memory of a module's variables, kept over restarts
        self._pending: deque[tuple[int, Any]] = deque()  # what launches under way must keep alive
        self._failures: list[_Failure] = []
        self.generation = 0
        self._lost_output = 0
        self.process = self._start(space, workers)
        unsigned, signed = (space.link.native_mask(signed=signed) for signed in (False, True))
        self.process.set_link(unsigned, signed, _FALLBACKS.index(space.fallback))
        self.processor = space.session.attach(self.process)

    def _start(self, space: AddressSpace, workers: int) -> DeviceProcess:
        tracker = "signal" if space.tracker == "signal" else "uffd"
        return DeviceProcess(str(PROGRAM), self.index, workers, tracker=tracker)

    @property
    def space(self) -> AddressSpace:
        """The address space that it belongs to.

        Raises:
            SpaceClosedError: it was closed, and nobody has it any more.
        """
        space = self._space()
        if space is None:
            raise SpaceClosedError("the address space of this device is closed")
        return space

    @property
    def name(self) -> str:
        """For tables: "emulated device 0"."""
        return f"emulated device {self.index}"

    def __repr__(self) -> str:
        workers = len(self.process.workers)
        return (
            f"<hmmemu.Device {self.index}: emulated by process {self.process.pid} with {workers} worker "
            f"thread{'s' if workers != 1 else ''}; {self.why}>"
        )

    def __enter__(self) -> Device:
        self.space.enter_device(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.space.leave_device(self)

    # ------------------------------------------------------------------------------------------- memory

    def read(self, array: Array) -> Array:
        """A copy of `array` as the device sees it; its pages become readable there, as if a kernel read them.

        Raises:
            RangeError: the array is not in the address space.
        """
        memory = self.space.memory.require(array)
        if array.size == 0:
            return array.copy()
        raw = np.empty(memory.end - memory.begin, np.uint8)
        self.space.session.notice_writes(*memory.pages)
        self.space.session.transfer(self.processor, memory.begin, raw.nbytes, raw.ctypes.data, False)
        first = array.ctypes.data - memory.begin
        return np.ndarray(array.shape, array.dtype, raw.data, first, array.strides).copy()

    def write(self, array: Array, data: Any) -> None:
        """Writes `data` (broadcast, cast as by assignment) into a contiguous `array` from the device.

        Raises:
            RangeError: the array is not in the address space.
            ArgumentError: it is read-only or not contiguous. ViewError: a device view uses it.
        """
        self.space.memory.require(array)
        if not array.flags.writeable or not array.flags.c_contiguous:
            raise ArgumentError(f"the {describe(array)} is read-only or not contiguous; write needs neither")
        self.space.views.refuse([Pointer(0, array, array.ctypes.data, True, False)], "device.write")
        values = np.ascontiguousarray(np.broadcast_to(np.asarray(data, array.dtype), array.shape))
        if array.size:
            self.space.session.transfer(
                self.processor, array.ctypes.data, array.nbytes, values.ctypes.data, True
            )

    def open_view(self, pointer: Pointer) -> AbstractContextManager[Any]:
        """What the body of `with space.device_view(...)` gets: here the CPU works in the device's place."""
        view = pointer.array.view()
        view.flags.writeable = pointer.writes
        return nullcontext(view)

    def migrate(self, array: Array) -> None:
        """Moves the array's pages here; afterwards the device has the only copy."""
        self.space.prefetch(array, self)

    # ---------------------------------------------------------------------------------------- launching

    def compile(self, code: str, **how: Any) -> Compiled:
        """Compiles CUDA C++ for this device; see `hmmemu.compiler.compile_module` (for the library's own use)."""
        from hmmemu.compiler import compile_module

        return compile_module(code, **how)

    def load(self, compiled: Compiled) -> LoadedModule:
        """Makes a compiled module ready for launches (for the library's own use)."""
        with self._lock:
            module = self._modules.get(compiled.key)
            if module is None:
                module = self._modules[compiled.key] = self._load(compiled)
            return module

    def _load(self, compiled: Compiled) -> LoadedModule:
        known = self._variables.get(compiled.source_key)
        address, room = known or (0, 0)
        answer = self.ask(self.process.load, str(compiled.path), address, room, known is None)
        if isinstance(answer, int):  # the module has variables: this many bytes of shared memory for them
            address = self.space.memory.arena.take(answer, f"variables of {compiled.path.name}")
            room = page_up(answer)
            try:
                answer = self.ask(self.process.load, str(compiled.path), address, room, True)
            except BaseException:
                self.space.memory.arena.abandon(address)
                raise
            self._variables[compiled.source_key] = (address, room)
        module = LoadedModule(json.loads(answer), self.space.memory.view)
        if known is None:
            module.initialise()
        return module

    def variables(self) -> list[tuple[int, int, str]]:
        """(begin, end, name) of every loaded `__device__` and `__constant__` variable (for the library's own use)."""
        with self._lock:
            return [found for module in self._modules.values() for found in module.variables()]

    def launch(
        self,
        compiled: Compiled,
        name: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        args: Sequence[Any],
        shared_mem: int,
        reaches: Sequence[Any] = (),
    ) -> int:
        """Checks and packs the arguments, and queues the launch; returns its ticket (for the library's own use)."""
        self.space.session_or_raise()
        module = self.load(compiled)
        kernel = module.kernel(name)
        packed = pack(kernel.name, kernel.parameters, kernel.parameter_bytes, args)
        pointers = packed.pointers + reach.named(kernel.name, reaches)
        self.space.views.refuse(pointers, f"kernel {kernel.name}")
        make_ready(self.space.memory, self.space.policy, pointers, self.processor)
        extents = packed.extents() if compiled.counts else b""
        if self._names_reach and self.space.policy.reaches == "registered":
            pointers += reach.whole(self.space.memory.arrays())
        reached = self._reached(pointers, module, compiled, kernel) if self._names_reach else []
        ticket = self._queue(compiled, name, grid, block, shared_mem, packed.block, reached, extents=extents)
        if pointers:
            self._pending.append((ticket, pointers))
        self._forget_completed()
        return ticket

    @property
    def _names_reach(self) -> bool:
        """Whether the device is told what memory a launch reaches."""
        return self.space.check_reach

    def _reached(
        self, pointers: Sequence[Pointer], module: LoadedModule, compiled: Compiled, kernel: LoadedKernel
    ) -> list[Reach]:
        """What a launch may touch. Here, for the check: the arrays, and the variables of all modules."""
        variables = [(begin, begin + size, reach.WRITES) for begin, size in list(self._variables.values())]
        return reach.pages(pointers) + variables

    def _queue(self, compiled: Compiled, name: str, *shape: Any, **more: Any) -> int:
        """Queues a launch in the process that the kernel is loaded in, whichever that is by now."""
        confined = self.confines and self.space.check_reach
        while True:
            with self._lock:
                kernel = self.load(compiled).kernel(name)
                if compiled.counts and self.space.counting is not None:
                    self.space.counting.kernels[self.index, kernel.handle] = (compiled.key, kernel)
                self.space.session.before_launch(self.processor, kernel.waits)
                try:
                    ticket: int = self.ask(
                        self.process.launch, kernel.handle, *shape, confined=confined, timeout=0.05, **more
                    )
                    return ticket
                except KernelTimeout:
                    pass  # the queue is full: without the lock, a kernel that hangs can be stopped
                finally:
                    self.space.session.after_launch(self.processor)
            time.sleep(0.001)

    def _forget_completed(self) -> None:
        while self._pending and self.process.completed(self._pending[0][0]):
            try:
                self._pending.popleft()
            except IndexError:  # another thread took it
                break

    # ------------------------------------------------------------------------------------------ waiting

    def synchronize(self, timeout: float | None = None) -> None:
        """Waits until everything launched on this device has ended.

        Args:
            timeout: seconds; None waits without limit (Ctrl-C works).

        Raises:
            KernelTimeout: a kernel did not end in time; it was stopped, the space stays usable.
            KernelFault, KernelAssertion, DeviceError: a kernel failed, and this was not raised elsewhere before.
        """
        self.space.session_or_raise()
        ticket = self.process.last_ticket
        failure = self._failure_of(ticket)
        if failure is None or not failure.told:
            self.wait(ticket, timeout)

    def marker(self) -> int:
        """Queues a time stamp; returns its ticket."""
        ticket: int = self.ask(self.process.marker)
        return ticket

    def marker_seconds(self, ticket: int) -> float:
        """When a completed marker was reached."""
        return float(self.process.marker_time(ticket)) * 1e-9

    def completed(self, ticket: int) -> bool:
        """Whether a launch or marker has ended, well or not."""
        return self.process.completed(ticket) or self._failure_of(ticket) is not None

    def wait(self, ticket: int, timeout: float | None = None) -> None:
        """Waits for a launch or marker; raises as `synchronize` does, and again if asked again."""
        if self._failure_of(ticket) is None:
            self._wait(ticket, timeout)
        self._print_output()
        self._forget_completed()
        failure = self._failure_of(ticket)
        if failure is not None:
            failure.told = True
            raise failure.error.with_traceback(None)

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

    def _failure_of(self, ticket: int) -> _Failure | None:
        return next((f for f in self._failures if f.first <= ticket <= f.last), None)

    def _print_output(self) -> None:
        text = self.process.take_output()
        if not text:
            return
        sys.stdout.write(text.decode(errors="replace"))
        lost, self._lost_output = self.process.output_dropped - self._lost_output, self.process.output_dropped
        if lost:
            sys.stdout.write(f"[hmmemu: {lost:,} bytes of printf output were lost: its buffer holds 1 MiB]\n")
        sys.stdout.flush()

    def _restart(self, generation: int, error: DeviceError | None) -> _Failure | None:
        """A process in the place of one that failed or is to be stopped; its pages come home first.

        Returns the failure, its error made from the crash record unless given; None if another thread was faster.
        """
        with self._lock:
            if generation != self.generation:
                return None
            self.generation += 1
            self.process.kill()
            first, last = self.process.completed_ticket + 1, self.process.last_ticket
            if error is None:
                refused, errno = self.space.session.take_refusal(self.processor)
                error = describe_crash(self.process.crash(), refused, errno, self.space.memory)
            self.space.session.detach(self.processor)
            failure = _Failure(first, last, error)
            self._failures.append(failure)
            self._modules.clear()
            self._pending.clear()
            self._start_again(self.process.layout, self.space.memory.mapped_ranges())
            return failure

    # ------------------------------------------------------------------------------------ address space

    def _start_again(self, layout: int, ranges: list[PageRange]) -> None:
        """A new process with these ranges mapped; tries the other address layouts too."""
        for attempt in range(_native.LAYOUTS):
            self.process.restart((layout + attempt) % _native.LAYOUTS)
            try:
                for begin, end in ranges:
                    self.process.map(begin, end - begin)
            except RangeError:
                continue
            self.space.session.reattach(self.processor, self.process)
            return
        raise RangeError(
            f"the {self.name} cannot map all of the address space's memory in any of its {_native.LAYOUTS} address "
            "layouts: unregister the array registered last"
        )

    def map(self, ranges: list[PageRange]) -> None:
        """Makes ranges that the space has now part of the device's address space, all or none.

        Where the device process uses those addresses itself, it is replaced by one with another address layout.

        Raises:
            RangeError: in every layout something is in the way.
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

    def _relocate(self, ranges: list[PageRange]) -> None:
        """The way of `_restart`, with nothing lost: launches under way end first."""
        self.synchronize()
        with self._lock:
            self.generation += 1
            self.process.kill()
            self.space.session.detach(self.processor)
            self._modules.clear()
            layout = self.process.layout + 1
            try:
                self._start_again(layout, self.space.memory.mapped_ranges())
            except RangeError:
                self._start_again(layout, subtract(self.space.memory.mapped_ranges(), ranges))
                raise

    def close(self) -> None:
        """Ends the process. Its pages must be home.

        The device does not keep the space alive any more: what both hold (descriptors, a lot of address space) goes
        with the last reference to the space, and not when Python looks for cycles.
        """
        self.process.kill()
        self._modules.clear()
        self._space = weakref.ref(self.space)
