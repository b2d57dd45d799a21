"""What a device is, and the emulated one: a process with memory of its own at the same addresses.

The process itself, and what becomes of launches when it fails, is the business of `hmmemu.supervisor`.

LOCK: `Supervisor.lock`, while a launch is queued in the process in which its module is loaded.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

import hmmemu.reach as reach  # `from hmmemu import reach` would import every public name first
from hmmemu import _native
from hmmemu._native import DeviceProcess, RepeatedLaunch
from hmmemu.arguments import Pointer, pack
from hmmemu.before_launch import make_ready
from hmmemu.errors import ArgumentError, KernelTimeout, SpaceClosedError
from hmmemu.modules import LoadedKernel, LoadedModule, LoadedModules
from hmmemu.ranges import Array, describe
from hmmemu.reach import Reach
from hmmemu.repeated_launch import is_plain, make_repeated
from hmmemu.routes import Fallback
from hmmemu.supervisor import Supervisor

if TYPE_CHECKING:
    from hmmemu.compiler import Compiled
    from hmmemu.kernel import Kernel
    from hmmemu.space import AddressSpace

# Beside the extension module, in editable installs too.
PROGRAM = Path(_native.__file__).parent / "hmmemu-device"


# hmm_fallback in compiler/include/hmmemu/abi.h
_FALLBACKS = (Fallback.MIGRATE, Fallback.CAS_LOOP, Fallback.FAULT, Fallback.SILENT, Fallback.EXCLUSIVE)


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
        process = self._start(space, workers)
        unsigned, signed = (space.link.native_mask(signed=signed) for signed in (False, True))
        process.set_link(unsigned, signed, _FALLBACKS.index(space.fallback))
        self.supervisor = Supervisor(process, space.memory, self.name)
        self.process, self.processor = process, self.supervisor.processor
        self._modules = LoadedModules(self.supervisor)
        self._repeated: weakref.WeakKeyDictionary[Kernel, RepeatedLaunch] = weakref.WeakKeyDictionary()

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
    def usable(self) -> bool:
        """Whether its address space is open (for the library's own use)."""
        space = self._space()
        return space is not None and space.session.open

    @property
    def name(self) -> str:
        """For tables: "emulated device 0"."""
        return f"emulated device {self.index}"

    @property
    def address_distance(self) -> int:
        """Bytes from an address on the CPU to the same memory's address on the device, modulo 2**47.

        A multiple of 2 MiB: `(address + distance) % 2**47`, so that what is high on the CPU may be low on the device.

        0, but on a GPU whose driver does not give it the CPU's addresses. Then arrays among a kernel's arguments work
        as ever, and pointers in data do not. It may change when memory is registered.
        """
        return self.process.distance

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
        self.space.views.refuse([Pointer(0, array, True, False)], "device.write")
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
        return self._modules.load(compiled)

    def has_loaded(self, compiled: Compiled) -> bool:
        """Whether its file is not needed any more (for the library's own use)."""
        return compiled in self._modules

    def variables(self) -> list[tuple[int, int, str]]:
        """(begin, end, name) of every loaded `__device__` and `__constant__` variable (for the library's own use)."""
        return self._modules.variables()

    def launch(
        self,
        compiled: Compiled,
        kernel: LoadedKernel,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        args: Sequence[Any],
        shared_mem: int,
        reaches: Sequence[Any] = (),
    ) -> int:
        """Checks and packs the arguments, and queues the launch; returns its ticket (for the library's own use)."""
        space = self.space
        space.memory.session_or_raise()
        packed = pack(kernel.name, kernel.parameters, kernel.parameter_bytes, args)
        pointers = packed.pointers + reach.named(kernel.name, reaches)
        space.views.refuse(pointers, f"kernel {kernel.name}")
        make_ready(space.memory, space.policy, pointers, self.processor)
        extents = packed.extents() if compiled.counts else b""
        reached: list[Reach] = []
        if self._names_reach:
            if space.policy.reaches == "registered":
                pointers += reach.whole(space.memory.arrays())
            reached = self._reached(pointers, packed.block, compiled, kernel)
        kept = self.supervisor.keep(pointers)
        try:
            kept[0] = ticket = self._queue(
                compiled, kernel.name, grid, block, shared_mem, packed.block, reached, extents=extents
            )
        except BaseException:  # Ctrl-C, say: it may be queued
            kept[0] = self.process.last_ticket
            raise
        self.supervisor.forget_completed()
        return ticket

    def launch_again(self, kernel: Kernel, grid: Any, block: Any, args: Any, shared_mem: Any) -> int:
        """Queues a launch like others before; returns its ticket (for the library's own use).

        Returns 0 if nothing was launched: `launch` is to look at everything, and says what is wrong.
        """
        repeated = self._repeated.get(kernel)
        space = self._space()
        if repeated is None or space is None or not is_plain(space):
            return 0
        return repeated.launch(grid, block, args, shared_mem)

    def remember(self, kernel: Kernel, compiled: Compiled, loaded: LoadedKernel) -> None:
        """Takes note of a kernel that was launched, for `launch_again` (for the library's own use)."""
        known = self._repeated.get(kernel)
        if compiled.counts or (known is not None and known.handle == loaded.handle):
            return
        self._repeated[kernel] = self._make_repeated(compiled, loaded)

    def _make_repeated(self, compiled: Compiled, loaded: LoadedKernel) -> RepeatedLaunch:
        return make_repeated(self, loaded)

    @property
    def _names_reach(self) -> bool:
        """Whether the device is told what memory a launch reaches."""
        return self.space.check_reach

    def _reached(
        self,
        pointers: Sequence[Pointer],
        block: bytes,
        compiled: Compiled,
        kernel: LoadedKernel,
    ) -> list[Reach]:
        """What a launch may touch. Here, for the check: the arrays, and the variables of all modules."""
        variables = [(begin, end, reach.WRITES) for begin, end in self._modules.places()]
        return reach.merge(reach.pages(pointers)) + variables

    def _queue(self, compiled: Compiled, name: str, *shape: Any, **more: Any) -> int:
        """Queues a launch in the process that the kernel is loaded in, whichever that is by now."""
        space = self.space
        confined = self.confines and space.check_reach
        while True:
            with self.supervisor.lock:
                kernel = self.load(compiled).kernel(name)
                if compiled.counts and space.counting is not None:
                    space.counting.kernels[self.index, kernel.handle] = (compiled.key, kernel)
                space.session.before_launch(self.processor, kernel.waits)
                try:
                    ticket: int = self.supervisor.ask(
                        self.process.launch, kernel.handle, *shape, confined=confined, timeout=0.05, **more
                    )
                    return ticket
                except KernelTimeout:
                    pass  # the queue is full: without the lock, a kernel that hangs can be stopped
                finally:
                    space.session.after_launch(self.processor)
            time.sleep(0.001)

    # ------------------------------------------------------------------------------------------ waiting

    def synchronize(self, timeout: float | None = None) -> None:
        """Waits until everything launched on this device has ended.

        Args:
            timeout: seconds; None waits without limit (Ctrl-C works).

        Raises:
            KernelTimeout: a kernel did not end in time; it was stopped, the space stays usable.
            KernelFault, KernelAssertion, DeviceError: a kernel failed, and this was not raised elsewhere before.
        """
        self.supervisor.synchronize(timeout)

    def marker(self) -> int:
        """Queues a time stamp; returns its ticket."""
        ticket: int = self.supervisor.ask(self.process.marker)
        return ticket

    def marker_seconds(self, ticket: int) -> float:
        """When a completed marker was reached."""
        return float(self.process.marker_time(ticket)) * 1e-9

    def completed(self, ticket: int) -> bool:
        """Whether a launch or marker has ended, well or not."""
        return self.supervisor.completed(ticket)

    def wait(self, ticket: int, timeout: float | None = None) -> None:
        """Waits for a launch or marker; raises as `synchronize` does, and again if asked again."""
        self.supervisor.wait(ticket, timeout)

    def ask(self, request: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """A request of the process; if the process is found dead, it is replaced and its error raised."""
        return self.supervisor.ask(request, *args, **options)

    @property
    def generation(self) -> int:
        """How often its process was replaced by another one (for the library's own use)."""
        return self.supervisor.generation

    def close(self) -> None:
        """The space is closed, and the process has ended. The device does not keep the space alive any more."""
        self._modules.clear()
        self._repeated.clear()
        self._space = weakref.ref(self.space)
