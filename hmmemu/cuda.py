"""The CUDA device: a GPU that has a page before a kernel may touch it, and gives it up when no kernel does.

All that is done with the GPU is done by a process, `hmmemu-cuda`, which speaks the emulated device's protocol:
queue, tickets, page faults, restarts are those of `Device`. Not yet run on a GPU; docs/cuda.md has the design.
LOCK: as `Device`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.resources import files
from typing import TYPE_CHECKING, Any, ClassVar

import hmmemu.reach as reach
from hmmemu._native import DeviceProcess, RepeatedLaunch
from hmmemu.address_distance import in_words, refuse_pointers_in_data
from hmmemu.arguments import Parameter, Pointer
from hmmemu.before_launch import LAUNCH
from hmmemu.cuda_sharing import Sharing, find_sharing
from hmmemu.device import Device
from hmmemu.errors import ArgumentError, CompileError, OutOfMemoryError, UnsupportedError
from hmmemu.gpus import PROGRAM, Gpu
from hmmemu.ranges import PageRange
from hmmemu.reach import Reach
from hmmemu.repeated_launch import make_repeated
from hmmemu.routes import Fallback

if TYPE_CHECKING:
    from hmmemu.compiler import Compiled
    from hmmemu.modules import LoadedKernel
    from hmmemu.space import AddressSpace


_BLOCK = 2 << 20  # bytes; what a GPU maps at a time
_PAGE_KERNELS = files("hmmemu.kernels") / "pages.cu"


def _parameter(kernel: LoadedKernel, pointer: Pointer) -> Parameter | None:
    """The argument that an array is for; None if a launch only reaches it."""
    return kernel.parameters[pointer.parameter] if pointer.parameter >= 0 else None


class CudaDevice(Device):
    """A GPU. Kernels reach the arrays that their launch names, whole, and nothing else.

    Attributes:
        gpu: what the driver says of it.
    """

    kind = "cuda"
    counts = False
    confines = False
    # Of modules, by key, with the options; for all devices, as a `RawModule` is compiled once for GPUs of a kind.
    _sources: ClassVar[dict[str, tuple[str, dict[str, Any]]]] = {}

    def __init__(self, space: AddressSpace, index: int, gpu: Gpu, why: str) -> None:
        self.gpu = gpu
        self.target = f"compute capability {gpu.capability[0]}.{gpu.capability[1]}"
        self.shared_bytes = gpu.shared_bytes
        self._not_compiled = ""
        self._shares: dict[tuple[str, str], Sharing] = {}  # by module and kernel
        if space.fallback not in (Fallback.MIGRATE, Fallback.EXCLUSIVE):
            raise ArgumentError(
                f"fallback={space.fallback.value!r} is for emulated devices: on a GPU, atomic operations that the link "
                "lacks are done in its memory (fallback='migrate')"
            )
        super().__init__(space, index, 1, why)

    def _start(self, space: AddressSpace, workers: int) -> DeviceProcess:
        process = DeviceProcess(str(PROGRAM), self.index, workers, tracker="launch", gpu=self.gpu.index)
        try:
            process.set_page_kernels(str(self.compile(_PAGE_KERNELS.read_text(), filename="pages.cu").path))
        except (CompileError, UnsupportedError) as error:
            self._not_compiled = str(error)
        return process

    @property
    def why_no_page_kernels(self) -> str:
        """Why pages cross the link run by run and are not compared; empty if kernels (kernels/pages.cu) gather, scatter
        and compare them, or none had to yet.
        """
        return self._not_compiled or self.process.no_page_kernels

    @property
    def why_not_kept(self) -> str:
        """Why pages that the GPU alone has, some or all, would be lost with a kernel that fails or hangs; empty if they
        would not.
        """
        return self.process.not_kept

    @property
    def crossings(self) -> dict[str, int]:
        """What crossed the link so far, in pages of 4 KiB and in copies.

        ``pages_to_gpu``, ``pages_home``: whose content crossed. ``copies_to_gpu``, ``copies_home``: in so many copies.
        ``scattered_pages``, ``gathered_pages``: of those pages, the ones that lay apart and crossed side by side.
        ``direct_pages``: those that crossed without a copy on the host, straight from and to shared memory.
        ``zeroed_pages``: that nobody had touched; the GPU filled them with zeros. ``compared_pages``: that a kernel
        might have written, and that were compared with what they were; ``unchanged_pages``: those of them that had
        not changed, and did not cross.
        """
        return self.process.crossings()

    @property
    def name(self) -> str:
        """For tables: "CUDA device 0"."""
        return f"CUDA device {self.index}"

    def __repr__(self) -> str:
        where = in_words(self.address_distance)
        return f"<hmmemu.Device {self.index}: {self.gpu}, by process {self.process.pid}{where}; {self.why}>"

    def compile(self, code: str, *, counting: bool = False, **how: Any) -> Compiled:
        """Compiles CUDA C++ with NVRTC; see `hmmemu.cuda_compile`."""
        from hmmemu.cuda_compile import compile_module

        compiled = compile_module(code, self.gpu.capability, **how)
        self._sources[compiled.key] = code, how
        return compiled

    def open_view(self, pointer: Pointer) -> AbstractContextManager[Any]:
        """See `hmmemu.cuda_view.open_view`."""
        from hmmemu.cuda_view import open_view

        return open_view(self, pointer)

    @property
    def _names_reach(self) -> bool:
        return True

    def _reached(
        self,
        pointers: Sequence[Pointer],
        block: bytes,
        compiled: Compiled,
        kernel: LoadedKernel,
    ) -> list[Reach]:
        """The pages of the arrays and of the module's variables; they are brought here, too, many at a time.

        What the CPU takes back before the kernel begins comes again, by page faults of the device process. What the
        kernel shares with the CPU stays where it is.
        """
        if distance := self.address_distance:
            memory = self.space.memory.mapped_ranges()
            refuse_pointers_in_data(
                self.name, distance, kernel.name, kernel.parameters, pointers, block, memory
            )
        sharing = self._sharing(compiled.key, kernel.name)
        shared: list[Pointer] = []
        others: list[Pointer] = []
        for pointer in pointers:
            with_cpu = (
                sharing.any
                and pointer.array.flags.writeable
                and sharing.with_cpu(_parameter(kernel, pointer))
            )
            (shared if with_cpu else others).append(pointer)
        runs = reach.merge([*reach.pages(others), *kernel.variables])
        self.check_room([(begin, end) for begin, end, _ in runs])
        self.ask(self.space.session.access_all, runs, self.processor, LAUNCH)
        return runs + [(begin, end, reach.SHARES) for begin, end, _ in reach.merge(reach.pages(shared))]

    def _make_repeated(self, compiled: Compiled, loaded: LoadedKernel) -> RepeatedLaunch:
        sharing = self._sharing(compiled.key, loaded.name)
        shares = [sharing.any and sharing.with_cpu(parameter) for parameter in loaded.parameters]
        return make_repeated(self, loaded, self._room, shares)

    @property
    def _room(self) -> int:
        """Bytes that the arrays of a launch may take."""
        return min(self.gpu.bytes, self.space.device_memory or self.gpu.bytes)

    def _sharing(self, module: str, kernel: str) -> Sharing:
        found = self._shares.get((module, kernel))
        if found is None:
            code, how = self._sources[module]
            found = self._shares[module, kernel] = find_sharing(code, kernel, self.space.link, **how)
        return found

    def check_room(self, pages: Sequence[PageRange]) -> None:
        """Raises OutOfMemoryError unless the pages can be on the GPU at a time, in whole blocks, beside open views."""
        space = self.space
        pages = [*pages, *space.views.of(self)]
        room = self._room
        slack = _BLOCK * len(pages)  # arrays rarely begin with a block, nor end with one
        if sum([end - begin for begin, end in pages]) + slack <= room:
            return  # as nearly always: that many bytes lie in at most so many blocks and two more for each
        whole = [(begin, end) for begin, end, _ in reach.merge([(*range_, 0) for range_ in pages])]
        blocks = {block for begin, end in whole for block in range(begin // _BLOCK, -(-end // _BLOCK))}
        needed = sum(
            end - begin for begin, end in whole
        )  # `device_memory` counts pages, and a GPU has blocks
        if len(blocks) * _BLOCK > self.gpu.bytes:
            needed = len(blocks) * _BLOCK
        if needed > room:
            raise OutOfMemoryError(
                f"the arrays of this launch take {needed >> 10:,} KiB of device memory, and {self.name} "
                f"has {room >> 10:,} KiB: a kernel on a GPU needs all of its arrays there at a time; launch it on "
                "parts of them"
            )
