"""AddressSpace: one memory for this process and its devices.

The public face. What belongs to the space is known to `hmmemu.memory`, who has entered it to `hmmemu.spaces`, what is
done to memory before a launch to `hmmemu.before_launch`; devices, protectors, views and merging have modules of their
own.

No lock of its own: the memory, each device and the native session guard themselves.
"""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import hmmemu.ksm as ksm
from hmmemu._native import Session
from hmmemu.arrays import ArrayMaker
from hmmemu.choices import Choice, choose_devices, choose_tracker, instead, tell_gpu
from hmmemu.device import Device
from hmmemu.device_view import DeviceView, OpenViews
from hmmemu.ending import Ending
from hmmemu.errors import ArgumentError, Error
from hmmemu.ksm import MergeResult
from hmmemu.link import Link
from hmmemu.link_names import find_link
from hmmemu.memory import Memory
from hmmemu.options import ARENA_BYTES, check_options
from hmmemu.page_states import Cpu, held_by, in_letters
from hmmemu.policy import Policy
from hmmemu.protect import DirtyLogs, Protection, Protector, Protectors, Snapshot
from hmmemu.ranges import Array, root
from hmmemu.reach import is_checked
from hmmemu.routes import Fallback, find_fallback
from hmmemu.spaces import Entered, Spaces
from hmmemu.trace import Stats, read_stats

if TYPE_CHECKING:
    from hmmemu.atomics_report import AtomicsReport
    from hmmemu.gpus import Gpu

Location: TypeAlias = Device | Cpu


class AddressSpace(ArrayMaker):
    """Memory shared by the CPU and one or more devices, kept coherent page by page.

    It is closed by `close`, at the end of a ``with`` block, when the interpreter leaves, or, if nobody has it any more,
    when Python's collector finds it: then kernels that still run have ten seconds.

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
        check_options(policy, device_memory, workers, timeout, arena_bytes)
        given_link = None if link is None else find_link(link)
        self.fallback = find_fallback(fallback)
        self.policy, self.check_reach = policy or Policy(), is_checked(check_reach)
        self.timeout = timeout
        self.device_memory = device_memory
        try:
            self._open(chosen, given_link, workers or 0, arena_bytes)
        except Error as error:
            chosen = instead(chosen, error)
            self._open(chosen, given_link, workers or 0, arena_bytes)
        _spaces.opened(self)
        try:
            tell_gpu(chosen)
        except BaseException:  # `python -W error`
            self.close()
            raise

    def _open(self, chosen: list[Choice], link: Link | None, workers: int, arena_bytes: int) -> None:
        """The session, the memory, the devices: all, or nothing stays."""
        own_link = next((f"cuda:{choice.gpu.index}" for choice in chosen if choice.gpu), "pcie4")
        self.link = link or find_link(own_link)
        self.session = Session(
            self.policy.grow and not self.check_reach,  # what comes along makes no fault
            self.policy.threshold,
            self.policy.read_duplication,
            self.tracker,
            self.policy.thrashing,
            round(self.policy.thrashing_lapse * 1e9),
        )
        self._devices: list[Device] = []
        self._entered_devices: Entered[Device] = Entered()
        self.memory = Memory(self.session, arena_bytes, in_file=any(choice.gpu for choice in chosen))
        self._protectors = Protectors(self.session)
        self._dirty_logs = DirtyLogs(self.session)
        self._ending = Ending(self.memory, self._protectors, self._dirty_logs)
        self._dropped = weakref.finalize(self, self._ending.drop)
        self._dropped.atexit = False  # `Spaces.close_all` closes it then
        self.views = OpenViews()
        self.counting: AtomicsReport | None = None  # the report that is being made
        try:
            for index, choice in enumerate(chosen):
                self._devices.append(self._make_device(choice.gpu, index, workers, choice.why))
                self._ending.devices.append(self._devices[-1].supervisor)
                self.session.set_capacity(self._devices[-1].processor, self.device_memory or 0)
                self.memory.map_at(self._devices[-1].supervisor)
        except BaseException:
            self.close()
            raise

    def _make_device(self, gpu: Gpu | None, index: int, workers: int, why: str) -> Device:
        if gpu is None:
            return Device(self, index, workers, why)
        from hmmemu.cuda import CudaDevice

        return CudaDevice(self, index, gpu, why)

    # ------------------------------------------------------------------------------------ life and context

    def __enter__(self) -> AddressSpace:
        self.session_or_raise()
        _spaces.entered.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _spaces.entered.leave(self)
        self.close()

    def __repr__(self) -> str:
        if self.memory.is_inherited:
            return "<hmmemu.AddressSpace of the parent process>"
        state = "open" if self.session.open else "closed"
        tracker = f"tracker {self.tracker} ({self.tracker_why})"
        return f"<hmmemu.AddressSpace, {state}, {tracker}, devices {list(self.devices)!r}>"

    def close(self, timeout: float | None = None) -> None:
        """Stops the devices and brings every page home. Arrays stay valid, as plain memory.

        Kernels that still run are waited for, `timeout` seconds (None: the space's own `timeout`). A failure of
        theirs is raised after everything is closed.
        """
        if self.memory.is_inherited or not self.session.open:
            return
        try:
            self._ending.close(self.timeout if timeout is None else timeout)
        finally:
            if not self.session.open:
                self._dropped.detach()
                _spaces.closed(self)
                for device in self.devices:
                    device.close()

    def session_or_raise(self) -> Session:
        """The native session, while the space can be used.

        Raises:
            SpaceClosedError: it was closed, or belongs to a parent process.
        """
        return self.memory.session_or_raise()

    # -------------------------------------------------------------------------------------------- arrays

    def _allocate(self, size: int, label: str) -> Array:
        return self.memory.allocate(size, label)

    def _allocated(self, address: int) -> bool:
        return address in self.memory.arena

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
        self.memory.register(array)
        return array

    def unregister(self, array: Array) -> None:
        """Brings the array's pages home and takes its memory out of the address space.

        Launches that were given the array, and are under way, are waited for, as long as the space's `timeout` says;
        what they fail with is raised where they are waited for themselves.

        Raises:
            RangeError: it is not registered.
        """
        self.session_or_raise()
        self.memory.registry.remove(array, self.timeout)

    # ------------------------------------------------------------------------------------------- pages

    def prefetch(self, array: Array, location: Location, *, write: bool = True) -> None:
        """Brings an array's pages to a device or to `hmm.cpu`, before they are touched there.

        Args:
            array: in the address space.
            location: a device of this space, or `hmm.cpu`.
            write: False makes readable copies and leaves those that there are.

        Raises:
            RangeError: the array is not in the address space.
        """
        memory = self.memory.require(array)
        if not isinstance(location, (Device, Cpu)) or (
            isinstance(location, Device) and location not in self.devices
        ):
            raise ArgumentError(f"prefetch goes to a device of this space or to hmm.cpu, not to {location!r}")
        self.session.prefetch(*memory.pages, location.processor, write)

    def discard(self, array: Array) -> None:
        """Forgets the content of an array; whole pages of it read as zeros afterwards, and use no memory."""
        self.session.discard(*self.memory.require(array).inner_pages)

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
        pages = self.memory.require(array).pages
        self.session.notice_writes(*pages)
        return in_letters(held_by(self.session, pages, 1 + len(self.devices)))

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
        self.memory.require(memory)
        return self._protectors.add(memory, protector)

    def dirty(self, array: Array) -> Array:
        """Which pages of an array were written, by the CPU or a device, since the last call.

        Returns:
            sorted page numbers, intp; 0 is the page that holds the first byte. The first call for an array
            starts the log and returns all pages. Views of other elements have logs of their own, on the same pages,
            too; those of the same elements share one.

        Raises:
            RangeError: the array is not in the address space.
        """
        self.memory.require(array)
        return self._dirty_logs.collect(array, root(array))

    def snapshot_of(self, array: Array) -> Snapshot:
        """A frozen copy of an array, which costs only the pages written from now on.

        Raises:
            RangeError: the array is not in the address space. ArgumentError: it has no elements.
        """
        self.memory.require(array)
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
        return ksm.merge(self.memory, arrays or self.memory.contents(), max_mappings)

    def unmerge(self, array: Array) -> None:
        """Gives every merged page of an array memory of its own again.

        Raises:
            RangeError: the array is not in the address space.
        """
        ksm.unmerge(self.memory, array)

    def record(self, array: Array, page: int) -> list[ksm.Owner]:
        """Who owns the frame of a page: one `Owner` a page that shares it, by address; [] if no other page does.

        Several pages share a frame when they are merged, or when they are mappings of the same file or shared memory.

        Args:
            array: in the address space.
            page: counted from the first that holds any of the array, as in `residency`.

        Raises:
            RangeError: the array is not in the address space, or has no such page.
        """
        return ksm.record(self.memory, array, page)

    # ------------------------------------------------------------------------------------ devices, stats

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices, by index; ``print(space.devices[0])`` says what it is and why."""
        return tuple(self._devices)

    @property
    def current_device(self) -> Device:
        """Where launches go: the device of the innermost ``with device:``, else the first."""
        self.memory.session_or_raise()
        return self._entered_devices.innermost or self._devices[0]

    def enter_device(self, device: Device) -> None:
        """Makes a device, and with it this space, the current one of the thread; see `Device.__enter__`."""
        self._entered_devices.enter(device)
        _spaces.entered.enter(self)

    def leave_device(self, device: Device) -> None:
        """See `Device.__exit__`."""
        self._entered_devices.leave(device)
        _spaces.entered.leave(self)

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
        from hmmemu.atomics_report import AtomicsReport  # most programs need it never

        self.session_or_raise()
        return AtomicsReport(self)

    def reset_stats(self) -> None:
        """Sets the counters to zero."""
        self.session_or_raise().reset_counters()


_spaces: Spaces[AddressSpace] = Spaces()
atexit.register(_spaces.close_all)
os.register_at_fork(after_in_child=_spaces.forked)


def open_spaces() -> list[AddressSpace]:
    """The spaces of this process that are open (for the library's own use). Others may come and go meanwhile."""
    return _spaces.open()


def current_space() -> AddressSpace:
    """The space of the innermost ``with`` of this thread, else the default one, opened at first use."""
    return _spaces.current(AddressSpace)
