"""AddressSpace: one memory for this process and its devices.

No lock of its own: the arena, the registry, each device and the native session guard themselves.
"""

from __future__ import annotations

import atexit
import math
import os
import threading
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

import hmmemu.ksm as ksm
from hmmemu._native import Session
from hmmemu.arena import Arena, ArenaMemory
from hmmemu.arguments import Pointer
from hmmemu.atomics_report import AtomicsReport
from hmmemu.choices import choose_devices, choose_tracker
from hmmemu.device import Device
from hmmemu.device_view import DeviceView, OpenViews
from hmmemu.errors import ArgumentError, RangeError, SpaceClosedError
from hmmemu.ksm import MergeResult
from hmmemu.link import Fallback, Link, find_fallback, find_link
from hmmemu.policy import Policy
from hmmemu.protect import DirtyLogs, Protection, Protector, Protectors, Snapshot
from hmmemu.ranges import Array, PageRange, Range, describe, extent, root
from hmmemu.reach import is_checked
from hmmemu.registry import Registry
from hmmemu.trace import CAUSES, Stats, read_stats

if TYPE_CHECKING:
    from hmmemu.gpus import Gpu

Shape: TypeAlias = int | Sequence[int]
Location: TypeAlias = "Device | _Cpu"

ARENA_BYTES = 256 << 30  # address space, not memory
LEAST_DEVICE_MEMORY = 4 << 20  # two of the largest pieces that move at once


class _Cpu:
    """The CPU as a place for pages; see `AddressSpace.prefetch`."""

    processor = 0

    def __repr__(self) -> str:
        return "hmm.cpu"


cpu = _Cpu()


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


class AddressSpace:
    """Memory shared by the CPU and one or more devices, kept coherent page by page.

    Args:
        device: "auto", "emulated", "cuda" or "cuda:N"; several, as ["cuda:0", "emulated"] or "cuda:0,emulated", for a
            space with devices of both kinds. HMMEMU_DEVICE overrides "auto".
        devices: how many of one kind, 1 to 15.
        tracker: how accesses are caught: "auto", "uffd", "signal" or "async". HMMEMU_TRACKER overrides "auto".
        policy: how pages move.
        device_memory: bytes that each device has; beyond them it evicts. None: no limit; at least 4 MiB.
        link: to the CPU, a profile's name (`hmm.links()`), a .toml file or a `Link`: which atomic operations of
            system scope devices do on pages in the CPU's memory, in place. None: the first GPU's own, or else "pcie4".
        fallback: what is done with the others: "migrate", "exclusive", "cas-loop", "fault" or "silent".
        workers: worker threads of each emulated device; None: one for each CPU this process may use.
        arena_bytes: address space for arrays; less is taken where the system grants less.
        timeout: seconds that a launch on the default stream may take; None: no limit.
        check_reach: whether a kernel on an emulated device fails when it touches shared memory that its launch does not
            name, as on a GPU; for finding what to name, slower, one page a fault. None: as HMMEMU_CHECK_REACH says.

    Raises:
        ArgumentError: an option is not one of those.
        UnsupportedError: this machine cannot do it; the message says what to change.
    """

    def __init__(
        self,
        device: str | Sequence[str] = "auto",
        devices: int = 1,
        tracker: str = "auto",
        *,
        policy: Policy | None = None,
        device_memory: int | None = None,
        link: Link | str | None = None,
        fallback: Fallback | str = Fallback.MIGRATE,
        workers: int | None = None,
        arena_bytes: int = ARENA_BYTES,
        timeout: float | None = None,
        check_reach: bool | None = None,
    ) -> None:
        chosen = choose_devices(device, devices)
        self.tracker, self.tracker_why = choose_tracker(tracker)
        if workers is not None and not 1 <= workers <= 256:
            raise ArgumentError(f"workers={workers!r}: a device has 1 to 256 worker threads")
        if device_memory is not None and device_memory < LEAST_DEVICE_MEMORY:
            raise ArgumentError(
                f"device_memory={device_memory!r}: a device has at least {LEAST_DEVICE_MEMORY >> 20} MiB"
            )
        own_link = next((f"cuda:{gpu.index}" for gpu, _ in chosen if gpu), "pcie4")
        self.link = find_link(own_link if link is None else link)
        self.fallback = find_fallback(fallback)
        self.policy, self.check_reach = policy or Policy(), is_checked(check_reach)
        self.timeout = timeout
        self.device_memory = device_memory
        self._pid = os.getpid()
        self._owners: weakref.WeakValueDictionary[int, _Owner] = weakref.WeakValueDictionary()
        self._threads = threading.local()
        self.session = Session(
            self.policy.grow and not self.check_reach,  # what comes along makes no fault
            self.policy.threshold,
            self.policy.read_duplication,
            self.tracker,
            self.policy.thrashing,
        )
        self._devices: list[Device] = []
        self.registry = Registry(self.session, self._devices)
        self._protectors = Protectors(self.session)
        self._dirty_logs = DirtyLogs(self.session)
        self.views = OpenViews()
        self.counting: AtomicsReport | None = None  # the report that is being made
        try:
            self.arena = Arena(self.session, arena_bytes)
            for index, (gpu, why) in enumerate(chosen):
                self._devices.append(self._make_device(gpu, index, workers or 0, why))
                self.session.set_capacity(self._devices[-1].processor, device_memory or 0)
                self._devices[-1].map([(self.arena.memory.begin, self.arena.memory.end)])
        except BaseException:
            self.close()
            raise
        _open_spaces[id(self)] = self

    def _make_device(self, gpu: Gpu | None, index: int, workers: int, why: str) -> Device:
        if gpu is None:
            return Device(self, index, workers, why)
        from hmmemu.cuda import CudaDevice

        return CudaDevice(self, index, gpu, why)

    # ------------------------------------------------------------------------------------ life and context

    def __enter__(self) -> AddressSpace:
        self.session_or_raise()
        _stack().append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _stack().remove(self)
        self.close()

    def __repr__(self) -> str:
        if self._pid != os.getpid():
            return "<hmmemu.AddressSpace of the parent process>"
        state = "open" if self.session.open else "closed"
        tracker = f"tracker {self.tracker} ({self.tracker_why})"
        return f"<hmmemu.AddressSpace, {state}, {tracker}, devices {list(self.devices)!r}>"

    def close(self, timeout: float | None = None) -> None:
        """Stops the devices and brings every page home. Arrays stay valid, as plain memory.

        Kernels that still run are waited for, `timeout` seconds (None: the space's own `timeout`). A failure of
        theirs is raised after everything is closed.
        """
        if self._pid != os.getpid() or not self.session.open:
            return
        failure: BaseException | None = None
        for device in self.devices:
            try:
                device.synchronize(self.timeout if timeout is None else timeout)
            except BaseException as error:
                failure = error
        self._protectors.close()
        self._dirty_logs.close()
        for device in self.devices:
            self.session.detach(device.processor)
            device.close()
        self.session.close()
        self.registry.forget_all()
        _open_spaces.pop(id(self), None)
        if failure is not None:
            raise failure

    def session_or_raise(self) -> Session:
        """The native session, while the space can be used.

        Raises:
            SpaceClosedError: it was closed, or belongs to a parent process.
        """
        if self._pid != os.getpid():
            raise SpaceClosedError(
                "this address space belongs to the process that this one was forked from: its arrays are plain "
                "memory here; open an AddressSpace of your own"
            )
        if not self.session.open:
            raise SpaceClosedError("the address space is closed; its arrays are plain memory now")
        return self.session

    # -------------------------------------------------------------------------------------------- arrays

    def empty(self, shape: Shape, dtype: DTypeLike = float, order: Literal["C", "F"] = "C") -> Array:
        """A new shared array. Untouched pages read as zeros and use no memory.

        Raises:
            ArgumentError: the dtype holds Python objects, or the shape is not one.
            OutOfMemoryError: the arena is full.
        """
        self.session_or_raise()
        kind = np.dtype(dtype)
        if kind.hasobject:
            raise ArgumentError(f"dtype {kind} holds Python objects, which cannot be shared with a device")
        dimensions = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
        if any(n < 0 for n in dimensions):
            raise ArgumentError(f"negative dimensions are not allowed: {shape!r}")
        size = math.prod(int(n) for n in dimensions) * kind.itemsize
        label = f"array of shape {dimensions}, dtype {kind}"
        return self._allocate(size, label).view(kind).reshape(dimensions, order=order)

    def _allocate(self, size: int, label: str) -> Array:
        address = self.arena.take(size, label)
        owner = self._owners[address] = _Owner(self.arena.memory, address, size)
        weakref.finalize(owner, self.arena.abandon, address).atexit = False
        return np.asarray(owner)

    def zeros(self, shape: Shape, dtype: DTypeLike = float, order: Literal["C", "F"] = "C") -> Array:
        """A new shared array of zeros; costs nothing, as untouched pages read as zeros."""
        return self.empty(shape, dtype, order)

    def ones(self, shape: Shape, dtype: DTypeLike = float, order: Literal["C", "F"] = "C") -> Array:
        """A new shared array of ones."""
        return self.full(shape, 1, dtype, order)

    def full(
        self, shape: Shape, fill_value: Any, dtype: DTypeLike | None = None, order: Literal["C", "F"] = "C"
    ) -> Array:
        """A new shared array filled with a value."""
        array = self.empty(shape, np.asarray(fill_value).dtype if dtype is None else dtype, order)
        array[...] = fill_value
        return array

    def asarray(self, a: Any, dtype: DTypeLike | None = None) -> Array:
        """`a` as a shared array: itself if it lies in the arena, else a copy there."""
        source = np.asarray(a, dtype)
        if source.size and source.ctypes.data in self.arena:
            return source
        return self._copy_of(source)

    def array(self, a: Any, dtype: DTypeLike | None = None) -> Array:
        """A new shared array with the content of `a`."""
        return self._copy_of(np.asarray(a, dtype))

    def _copy_of(self, source: Array) -> Array:
        array = self.empty(source.shape, source.dtype, _order_of(source))
        array[...] = source
        return array

    def empty_like(self, a: Any, dtype: DTypeLike | None = None) -> Array:
        """A new shared array with the shape, order and (unless given) dtype of `a`."""
        source = np.asarray(a)
        return self.empty(source.shape, dtype or source.dtype, _order_of(source))

    def zeros_like(self, a: Any, dtype: DTypeLike | None = None) -> Array:
        """As `empty_like`; zeros."""
        return self.empty_like(a, dtype)

    def ones_like(self, a: Any, dtype: DTypeLike | None = None) -> Array:
        """As `empty_like`; ones."""
        return self.full_like(a, 1, dtype)

    def full_like(self, a: Any, fill_value: Any, dtype: DTypeLike | None = None) -> Array:
        """As `empty_like`; filled with a value."""
        array = self.empty_like(a, dtype)
        array[...] = fill_value
        return array

    def view(self, address: int, size: int) -> Array:
        """Bytes of the arena as an array of uint8 that owns nothing (for the library's own use)."""
        return np.asarray(_Owner(self.arena.memory, address, size))

    # ------------------------------------------------------------------------------------- registration

    def register(self, array: Array) -> Array:
        """Makes memory that exists part of the address space, without copying it.

        The whole array that owns the memory of `array` is registered, until it is unregistered or deleted; a
        kernel does this for plain arrays among its arguments. Registered twice is registered once.

        Returns:
            `array` itself.

        Raises:
            UnsupportedError: stacks, libraries, huge pages that are not of 2 MiB, pages that another registered
                mapping shows too: use `asarray`, which copies.
            RangeError: the memory is not mapped, or a device cannot map its addresses.
        """
        self.session_or_raise()
        if not isinstance(array, np.ndarray):
            raise ArgumentError(f"register takes a numpy array, not {type(array).__name__}")
        if self._is_shared(array, extent(array)):
            return array
        if array.dtype.hasobject:
            raise ArgumentError(
                f"the {describe(array)} holds Python objects, which cannot be shared with a device"
            )
        self.registry.add(array)
        return array

    def unregister(self, array: Array) -> None:
        """Brings the array's pages home and takes its memory out of the address space.

        Raises:
            RangeError: it is not registered.
        """
        self.session_or_raise()
        self.registry.remove(array)

    def mapped_ranges(self) -> list[PageRange]:
        """Everything that devices map: the arena and the registered pages (for the library's own use)."""
        return [(self.arena.memory.begin, self.arena.memory.end), *self.registry.ranges()]

    def _is_shared(self, array: Array, memory: Range) -> bool:
        return memory.begin == memory.end or memory.begin in self.arena or array in self.registry

    def require(self, array: Array) -> Range:
        """Where the array lies, and RangeError unless that is in the address space (for the library's own use)."""
        self.session_or_raise()
        if not isinstance(array, np.ndarray):
            raise ArgumentError(f"a numpy array is needed, not {type(array).__name__}")
        memory = extent(array)
        if not self._is_shared(array, memory):
            raise RangeError(
                f"the {describe(array)} is not in the address space: register it, or allocate it with space.empty"
            )
        return memory

    # ------------------------------------------------------------------------------------------- pages

    def prepare(self, pointer: Pointer, device: Device) -> None:
        """Gets an argument ready for a launch (for the library's own use)."""
        if pointer.address not in self.arena:
            self.register(pointer.array)
        if pointer.discards and pointer.array.flags.forc:
            self.session.discard(*extent(pointer.array).inner_pages)
        if pointer.writes:
            self._bring(pointer, device)

    def notice_before_launch(self, pointers: Sequence[Pointer], device: Device) -> None:
        """Gives devices what the CPU wrote without being caught, and then what a kernel only reads (for the
        library's own use). In this order, as copies that are updated in place need not be made again.
        """
        self.session.notice_all_writes(True)
        self.registry.notice_writers()
        for pointer in pointers:
            if not pointer.writes:
                self._bring(pointer, device)

    def _bring(self, pointer: Pointer, device: Device) -> None:
        if self.policy.launch == "prefetch" and pointer.array.size:
            pages = extent(pointer.array).pages
            self.session.access(*pages, device.processor, pointer.writes, CAUSES.index("launch"))

    def prefetch(self, array: Array, location: Location, *, write: bool = True) -> None:
        """Brings an array's pages to a device or to `hmm.cpu`, before they are touched there.

        Args:
            array: in the address space.
            location: a device of this space, or `hmm.cpu`.
            write: False makes readable copies and leaves those that there are.

        Raises:
            RangeError: the array is not in the address space.
        """
        memory = self.require(array)
        if not isinstance(location, (Device, _Cpu)) or (
            isinstance(location, Device) and location not in self.devices
        ):
            raise ArgumentError(f"prefetch goes to a device of this space or to hmm.cpu, not to {location!r}")
        self.session.prefetch(*memory.pages, location.processor, write)

    def discard(self, array: Array) -> None:
        """Forgets the content of an array; whole pages of it read as zeros afterwards, and use no memory."""
        self.session.discard(*self.require(array).inner_pages)

    def device_view(self, array: Any, device: Device | None = None) -> DeviceView:
        """An array's memory on a device, for the body of a ``with`` block, in which CuPy's functions work on it.

        On a GPU the block gets a `cupy.ndarray`, with no copy beyond the pages that were not there; on an emulated
        device it gets a `numpy.ndarray` of the same memory, which the CPU then works with in the device's place.
        The block begins when every earlier launch has ended, and ends when CuPy's current stream has; work on other
        streams has to be waited for in it. Within the block the view alone uses the array's pages: launches that
        would are refused, and what the CPU or another device did there is told as an error at the end. The array that
        the block got is not to be used after it.

        Args:
            array: `x`, or `hmm.InOut(x)`, reads and writes; `hmm.In(x)` reads only, and the CPU may go on reading;
                `hmm.Out(x)` moves no content there. Memory that is not in the address space yet is registered.
            device: of this space; None: the current one.

        Raises:
            ArgumentError: not a numpy array; elements that CuPy has no type for; read-only, or on pages with other
                memory, and not `hmm.In`; a device of another space.
            ViewError, by the block: other views or launches use the pages, or somebody did meanwhile.
            UnsupportedError, by the block: CuPy cannot be used.
        """
        self.session_or_raise()
        chosen = self.current_device if device is None else device
        if chosen not in self.devices:
            raise ArgumentError(f"a device view is on a device of this space, not on {device!r}")
        return DeviceView(self, chosen, array)

    def residency(self, array: Array) -> Array:
        """Who holds each page of an array.

        Returns:
            array of str, one a page; one letter a processor, the CPU first: "-" nothing, "S" a readable copy,
            "X" the only copy, writable, "R" (devices) the CPU's copy, over the link. "--": never touched; "-R": a
            device has the CPU's copy, and the CPU cannot reach it at present.

        Raises:
            RangeError: the array is not in the address space.
        """
        memory = self.require(array)
        self.session.notice_writes(*memory.pages)
        words = np.frombuffer(self.session.snapshot(*memory.pages), np.uint64)
        letters = np.array(["-", "S", "X", "R"])
        columns = [letters[(words >> np.uint64(2 * p)) & np.uint64(3)] for p in range(1 + len(self.devices))]
        result: Array = columns[0]
        for column in columns[1:]:
            result = np.char.add(result, column)
        return result

    # -------------------------------------------------------------------------------------- protectors

    def protect(self, memory: Array, protector: Protector) -> Protection:
        """Write-protects an array's pages: `protector.on_write(pages)` is told of the first write to each.

        The write may come from the CPU (a store, or a system call) or from a device. The callback runs on a thread
        of the space soon after, with the content before the write in `pages.before`; the order that is promised
        is said in `hmmemu.protect`. Pages at the array's ends may hold other data, too, and writes to that count.

        Returns:
            the registration: `drop()` ends it, `arm()` watches again, `flush()` waits for callbacks.

        Raises:
            RangeError: the array is not in the address space. ArgumentError: no method `on_write`, or no elements.
        """
        self.require(memory)
        return self._protectors.add(memory, protector)

    def dirty(self, array: Array) -> Array:
        """Which pages of an array were written, by the CPU or a device, since the last call.

        Returns:
            sorted page numbers, intp; 0 is the page that holds the first byte. The first call for an array
            starts the log and returns all pages.

        Raises:
            RangeError: the array is not in the address space.
        """
        self.require(array)
        if array.size == 0:
            return np.empty(0, np.intp)
        return self._dirty_logs.collect(array, root(array))

    def snapshot_of(self, array: Array) -> Snapshot:
        """A frozen copy of an array, which costs only the pages written from now on.

        Raises:
            RangeError: the array is not in the address space. ArgumentError: it has no elements.
        """
        self.require(array)
        if array.size == 0:
            raise ArgumentError(f"the {describe(array)} has no pages to keep")
        return Snapshot(self.session, array)

    # ------------------------------------------------------------------------------------- same-page merging

    def merge(self, *arrays: Array, max_mappings: int | None = None) -> MergeResult:
        """Finds pages with equal content and keeps one frame for each set, until one of its pages is written.

        The first store into a merged page, by the CPU, a device or a system call, gives that page memory of its own
        again; the others stay merged. Content never changes by merging. Pages that a device holds are copied to the CPU
        for comparison; its copies stay, as readable ones. Edge pages, which hold other data too, are left alone.

        Args:
            arrays: of any shape and dtype, in any memory; those that are not in the address space yet are
                registered. None: every array of the space.
            max_mappings: merging stops when the process has about that many mappings; by default at three quarters of
                vm.max_map_count. Each run of merged pages needs one.

        Raises:
            UnsupportedError: this tracker, or this kind of memory, cannot do it.
            RangeError: the memory is not mapped.
        """
        self.session_or_raise()
        return ksm.merge(self, arrays or self._all_memory(), max_mappings)

    def unmerge(self, array: Array) -> None:
        """Gives every merged page of an array memory of its own again.

        Raises:
            RangeError: the array is not in the address space.
        """
        ksm.unmerge(self, array)

    def record(self, array: Array, page: int) -> list[ksm.Owner]:
        """Who owns the frame of a page: one `Owner` a page that shares it, by address; [] if no other page does.

        Several pages share a frame when they are merged, or when they are mappings of the same file or shared memory.

        Args:
            array: in the address space.
            page: counted from the first that holds any of the array, as in `residency`.

        Raises:
            RangeError: the array is not in the address space, or has no such page.
        """
        return ksm.record(self, array, page)

    def _all_memory(self) -> list[Array]:
        arena = [self.view(begin, end - begin) for begin, end, _ in self.arena.allocations()]
        return arena + self.registry.arrays()

    def arrays(self) -> list[Array]:
        """All arrays that are alive: bytes of the arena, and registered memory (for the library's own use)."""
        owners = [owner for ref in self._owners.valuerefs() if (owner := ref()) is not None]
        return [np.asarray(owner) for owner in owners] + self.registry.arrays()

    def nearest(self, address: int) -> str:
        """In words, how far an address is from the nearest array (for error messages)."""
        found = self.nearest_array(address)
        if found is None:
            return "there are no shared arrays"
        begin, end, label = found
        if address < begin:
            where = f"{begin - address:,} bytes before the"
        elif address >= end:
            where = f"{address - end:,} bytes behind the end of the"
        else:
            where = f"{address - begin:,} bytes into the"
        return f"it lies {where} {label} at {begin:#x}"

    def nearest_array(self, address: int) -> tuple[int, int, str] | None:
        """(begin, end, label) of the array that is nearest to an address (for the library's own use)."""
        ranges = self.arena.allocations() + self.registry.allocations()
        return min(ranges, key=lambda r: max(r[0] - address, address - r[1] + 1, 0), default=None)

    # ------------------------------------------------------------------------------------ devices, stats

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices, by index; ``print(space.devices[0])`` says what it is and why."""
        return tuple(self._devices)

    @property
    def current_device(self) -> Device:
        """Where launches go: the device of the innermost ``with device:``, else the first."""
        self.session_or_raise()
        entered = self._entered_devices()
        return entered[-1] if entered else self.devices[0]

    def enter_device(self, device: Device) -> None:
        """Makes a device, and with it this space, the current one of the thread; see `Device.__enter__`."""
        self._entered_devices().append(device)
        _stack().append(self)

    def leave_device(self) -> None:
        """See `Device.__exit__`."""
        self._entered_devices().pop()
        _stack().pop()

    def _entered_devices(self) -> list[Device]:
        if not hasattr(self._threads, "devices"):
            self._threads.devices = []
        devices: list[Device] = self._threads.devices
        return devices

    def synchronize(self, timeout: float | None = None) -> None:
        """Waits until everything launched on any device has ended; see `Stream.synchronize`."""
        self.session_or_raise()
        for device in self.devices:
            device.synchronize(timeout)

    def stats(self) -> Stats:
        """What happened to the pages since the space was opened or `reset_stats` was called."""
        self.session_or_raise()
        return read_stats(self.session.counters(), ["CPU", *(device.name for device in self.devices)])

    def atomics_report(self) -> AtomicsReport:
        """Counts the atomic operations of the kernels that are launched in its ``with`` block; see `AtomicsReport`.

        Kernels are compiled once more for it, and run slower; outside of such a block they count nothing.
        """
        self.session_or_raise()
        return AtomicsReport(self)

    def reset_stats(self) -> None:
        """Sets the counters to zero."""
        self.session_or_raise().reset_counters()


def _order_of(array: Array) -> Literal["C", "F"]:
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"


_open_spaces: weakref.WeakValueDictionary[int, AddressSpace] = weakref.WeakValueDictionary()
_threads = threading.local()
_default: AddressSpace | None = None
_default_lock = threading.Lock()
_EXIT_SECONDS = 60.0  # kernels still running when the interpreter leaves are stopped after that


def open_spaces() -> list[AddressSpace]:
    """The spaces of this process that are open (for the library's own use). Others may come and go meanwhile."""
    return [space for reference in _open_spaces.valuerefs() if (space := reference()) is not None]


def _stack() -> list[AddressSpace]:
    if not hasattr(_threads, "stack"):
        _threads.stack = []
    stack: list[AddressSpace] = _threads.stack
    return stack


def current_space() -> AddressSpace:
    """The space of the innermost ``with`` of this thread, else the default one, opened at first use."""
    global _default
    if _stack():
        return _stack()[-1]
    with _default_lock:
        if _default is None or not _default.session.open:
            _default = AddressSpace()
        return _default


@atexit.register
def _close_all() -> None:
    for space in open_spaces():
        space.close(_EXIT_SECONDS)
