"""RawKernel and RawModule, with CuPy's signatures.

The compiler is imported when the first source comes: it is two thirds of what importing hmmemu costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

from hmmemu.device import Device
from hmmemu.errors import ArgumentError, UnsupportedError
from hmmemu.ranges import Array
from hmmemu.space import current_space
from hmmemu.stream import Stream, current_stream

if TYPE_CHECKING:
    from hmmemu.atomics import AtomicSite
    from hmmemu.compiler import Compiled
    from hmmemu.compiler.atomic_sites import Found
    from hmmemu.link import Link
    from hmmemu.modules import LoadedKernel
    from hmmemu.routes import Fallback

Dimensions = SupportsIndex | Sequence[SupportsIndex]
_NOTHING: tuple[Any, ...] = ()
_LIMITS = {"grid": (2**31 - 1, 65535, 65535), "block": (1024, 1024, 64)}


def _dimensions(what: str, value: Dimensions) -> tuple[int, int, int]:
    """(x, y, z) of a grid or a block.

    Raises:
        ArgumentError: not one to three positive integers within CUDA's limits.
    """
    try:
        given: tuple[Any, ...] = (
            value if type(value) is tuple else tuple(value) if isinstance(value, Iterable) else (value,)
        )
        return _checked_dimensions(what, *given)
    except ArgumentError:
        raise
    except TypeError:  # no integers; a list of lists cannot even be looked up in the cache
        raise ArgumentError(f"{what} is an integer, or one to three of them, not {value!r}") from None


@lru_cache(maxsize=1024, typed=True)  # a program launches few shapes, often; typed: 2.0 is no 2
def _checked_dimensions(what: str, *given: Any) -> tuple[int, int, int]:
    if not 1 <= len(given) <= 3:
        raise ArgumentError(f"{what} has 1 to 3 dimensions, not {len(given)}: {given!r}")
    x, y, z = (index(given[i]) if i < len(given) else 1 for i in range(3))
    if any(not 1 <= n <= limit for n, limit in zip((x, y, z), _LIMITS[what], strict=True)):
        raise ArgumentError(f"{what} {(x, y, z)} is outside CUDA's limits, 1 to {_LIMITS[what]}")
    return x, y, z


def _number(value: Any) -> int:
    """An integer; -1 for what is none. (isinstance(value, SupportsIndex) would take a tenth of a launch.)"""
    try:
        return index(value)
    except TypeError:
        return -1


def _place(stream: Any, device: Any) -> tuple[Stream, Device]:
    """Where a launch goes: what the call says, or what is current.

    Raises:
        ArgumentError: no stream of hmmemu, no device of a space.
    """
    if stream is not None and not isinstance(stream, Stream):
        kind = f"{type(stream).__module__}.{type(stream).__name__}"
        raise ArgumentError(f"stream={stream!r}: a launch goes to an hmm.Stream, not to a {kind}")
    if device is not None and not isinstance(device, Device):
        raise ArgumentError(f"device={device!r}: one of space.devices is needed")
    return stream or current_stream(), device or current_space().current_device


class Kernel:
    """One kernel of a module; made by `RawModule.get_function`."""

    def __init__(self, module: RawModule, name: str) -> None:
        if not isinstance(name, str):
            raise ArgumentError(f"the name of a kernel is a string, not {name!r}")
        self._module = module
        self._name = name
        self._was_launched = False

    @property
    def name(self) -> str:
        """Of the function, or the name expression."""
        return self._name

    def __repr__(self) -> str:
        return f"<hmmemu kernel {self.name!r} of {self._module.filename or 'a string'}>"

    def compile(self) -> None:
        """Compiles now what is compiled at the first launch otherwise.

        Raises:
            CompileError: the compiler's message, with your own file name and lines.
            NoCompilerError: there is no C++ compiler.
        """
        self._loaded_now()

    @property
    def attributes(self) -> dict[str, Any]:
        """Static properties: `max_threads_per_block`, `shared_size_bytes`, `mode` (how it runs here)."""
        kernel = self._loaded_now()
        return {
            "max_threads_per_block": kernel.max_threads,
            "shared_size_bytes": kernel.static_shared,
            "mode": kernel.mode,
        }

    def atomics(self, link: Link | str = "pcie4", fallback: Fallback | str = "migrate") -> list[AtomicSite]:
        """The kernel's atomic operations and what each does on a link; needs no compiler and no device.

        Args:
            link: the name of a profile (`hmm.links()`), the path of a .toml file, or an `hmm.Link`.
            fallback: what is done with operations that a link lacks: "migrate", "exclusive", "cas-loop", "fault"
                or "silent".

        Returns:
            A record for each operation and memory that it goes to, in the order of the source.

        Raises:
            ArgumentError: there is no such kernel, link or fallback.
            CompileError: the source's preprocessor directives make no sense.
        """
        return self._module.atomics(link, fallback, kernel=self.name)

    def __call__(
        self,
        grid: Dimensions,
        block: Dimensions,
        args: Sequence[Any] = (),
        *,
        shared_mem: int = 0,
        stream: Stream | None = None,
        device: Device | None = None,
        reaches: Sequence[Any] = _NOTHING,
    ) -> None:
        """Launches the kernel.

        Args:
            grid: blocks in x, y, z.
            block: threads a block in x, y, z; at most 1024 together.
            args: arrays (any numpy array: memory that is not shared yet is registered on the way), NumPy
                scalars, Python numbers, None for a null pointer; see `hmmemu.arguments`.
            shared_mem: bytes of dynamic shared memory.
            stream: on the default stream the call returns when the kernel has ended, on others at once.
            device: where; the current device of the current space otherwise.
            reaches: arrays that the kernel reaches by pointers inside other data, and not among `args`; `hmm.In(x)` if
                it only reads them. A GPU needs to know; memory that is not shared yet is registered on the way.

        Raises:
            ArgumentError: wrong arguments; nothing was launched.
            CompileError: at the first launch.
            KernelFault, KernelAssertion, KernelTimeout, DeviceError: the kernel failed (default stream), or
                one launched earlier did.
        """
        ticket = 0
        if self._was_launched and reaches is _NOTHING:
            to, on = _place(stream, device)
            if to.awaited:
                to.wait_for_awaited(on)
            ticket = on.launch_again(self, grid, block, args, shared_mem)
        if not ticket:
            to, on, ticket = self._launch(grid, block, args, shared_mem, stream, device, reaches)
        if to.is_default:
            on.wait(ticket, on.space.timeout)
        else:
            to.follow(on, ticket)

    def _launch(
        self,
        grid: Dimensions,
        block: Dimensions,
        args: Sequence[Any],
        shared_mem: int,
        stream: Stream | None,
        device: Device | None,
        reaches: Sequence[Any],
    ) -> tuple[Stream, Device, int]:
        """Looks at everything, and launches. Returns where it went, and the ticket."""
        if not isinstance(args, (tuple, list)):
            raise ArgumentError(
                f"the arguments of {self.name} are a tuple or a list, as (x,) for one, not {type(args).__name__}"
            )
        grid3, block3 = _dimensions("grid", grid), _dimensions("block", block)
        stream, device = _place(stream, device)
        compiled = self._module.compiled_for(device)
        kernel = self._loaded(device, compiled)
        threads = block3[0] * block3[1] * block3[2]
        if threads > kernel.max_threads:
            raise ArgumentError(f"a block of {threads} threads: {self.name} allows {kernel.max_threads}")
        room = device.shared_bytes - kernel.static_shared
        if room < 0:
            raise ArgumentError(
                f"{self.name} has {kernel.static_shared} bytes of __shared__ variables; a block can have "
                f"{device.shared_bytes}"
            )
        if not 0 <= (dynamic := _number(shared_mem)) <= room:
            raise ArgumentError(f"shared_mem={shared_mem!r}: {self.name} can have 0 to {room} bytes")
        stream.wait_for_awaited(device)
        ticket = device.launch(compiled, kernel, grid3, block3, args, dynamic, reaches)
        device.remember(self, compiled, kernel)
        self._was_launched = True
        return stream, device, ticket

    def _loaded_now(self) -> LoadedKernel:
        device = current_space().current_device
        return self._loaded(device, self._module.compiled_for(device))

    def _loaded(self, device: Device, compiled: Compiled) -> LoadedKernel:
        loaded = device.load(compiled)
        try:
            return loaded.kernel(self.name)
        except ArgumentError as error:
            raise ArgumentError(f"{error}{self._module.advice(self.name)}") from None


def _source(code: Any, path: Any) -> str:
    """The text of a module. A file is UTF-8; other bytes, as old comments have them, do no harm."""
    if (code is None) == (path is None):
        raise ArgumentError(
            "a module has either code, the source as a string, or path=, a file that holds it"
        )
    if path is not None:
        return Path(path).read_text(encoding="utf-8-sig", errors="replace")
    if not isinstance(code, str):
        raise ArgumentError(f"code is the source as a string, not {type(code).__name__}; path= takes a file")
    return code


def _strings(what: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, (list, tuple)) and all(isinstance(one, str) for one in given):
        return tuple(given)
    raise ArgumentError(f"{what} is a tuple or list of strings, not {given!r}")


class RawModule:
    """CUDA C++ source with any number of kernels and variables.

    Args:
        code: the source text.
        path: or a file that holds it.
        options: as for NVRTC: -D, -I, -std, --use_fast_math, -fmad=false, ...
        backend: accepted as in CuPy; the compiler is the system's C++ compiler here.
        name_expressions: template instances to make available, for example ``["scale<float>"]``.
        filename: what error messages call the source; the path or "kernel.cu" otherwise.
        translate_cucomplex, jitify: accepted as in CuPy; `cuComplex.h` and headers are there without them.
        enable_cooperative_groups: as in CuPy; True is not there (barriers of the whole grid).

    Raises:
        ArgumentError: both or neither of `code` and `path`; something that is no string.
        OSError: the file cannot be read.
        UnsupportedError: `enable_cooperative_groups`.
    """

    def __init__(
        self,
        code: str | None = None,
        *,
        path: str | Path | None = None,
        options: Sequence[str] = (),
        backend: str = "nvrtc",
        name_expressions: Sequence[str] | None = None,
        filename: str | None = None,
        translate_cucomplex: bool = False,
        enable_cooperative_groups: bool = False,
        jitify: bool = False,
    ) -> None:
        if enable_cooperative_groups:
            raise UnsupportedError(
                "enable_cooperative_groups=True: blocks of a launch have no barrier together (grid.sync) here; what "
                "else there is of <cooperative_groups.h> needs no option"
            )
        self.code = _source(code, path)
        self.filename = filename or (str(path) if path else None)
        self.options = _strings("options", options)
        self.name_expressions = _strings("name_expressions", name_expressions or ())
        # By target, and whether it counts its atomic operations.
        self._compiled: dict[tuple[str, bool], Compiled] = {}

    @property
    def compiled(self) -> Compiled:
        """The module as a file for the current device; compiled at first use, or taken from the cache on disk."""
        return self._compile(current_space().current_device, counting=False)

    def compiled_for(self, device: Device) -> Compiled:
        """The module as a file for a device, whose space may be counting atomic operations now.

        Compiled at first use, or taken from the cache on disk.
        """
        counting = device.space.counting if device.counts else None
        compiled = self._compile(device, counting=counting is not None)
        if counting is not None:
            counting.modules[compiled.key] = self
        return compiled

    def _compile(self, device: Device, *, counting: bool) -> Compiled:
        key = device.target, counting
        compiled = self._compiled.get(key)
        if compiled is None or not (
            device.has_loaded(compiled) or compiled.path.exists()
        ):  # the cache was emptied
            compiled = self._compiled[key] = device.compile(
                self.code,
                filename=self.filename,
                options=self.options,
                name_expressions=self.name_expressions,
                counting=counting,
            )
        return compiled

    def numbered_sites(self) -> list[tuple[int, Found]]:
        """The atomic operations, by the numbers in the module that counts them (for the library's own use)."""
        from hmmemu.compiler.counting import numbered_sites

        return numbered_sites(self.code, self.filename, self.options, self.name_expressions)

    def advice(self, name: str) -> str:
        """Why the source has no kernel of that name although it looks so, as the end of a sentence."""
        from hmmemu.compiler import signatures

        wanted = name.split("<")[0].strip().removeprefix("::")
        found = signatures(self.code, filename=self.filename, options=self.options)
        for kernel in found:
            if kernel.is_template and wanted in (kernel.name, kernel.qualified_name):
                example = name if "<" in name else f"{kernel.qualified_name}<float>"
                which = f"RawModule(..., name_expressions=[{example!r}])"
                return f"; {kernel.qualified_name} is a template, say which: {which}"
        same = [kernel.qualified_name for kernel in found if wanted in (kernel.name, kernel.qualified_name)]
        if len(same) > len(set(same)):
            return (
                f"; {wanted} is overloaded, which no name can tell apart: give each kernel a name of its own"
            )
        return ""

    def compile(self, log_stream: Any = None) -> None:
        """Compiles now; see `Kernel.compile`. `log_stream` is accepted as in CuPy."""
        self.compiled_for(current_space().current_device)

    def atomics(
        self, link: Link | str = "pcie4", fallback: Fallback | str = "migrate", *, kernel: str | None = None
    ) -> list[AtomicSite]:
        """The atomic operations of all kernels, or of one; see `Kernel.atomics`."""
        from hmmemu.atomics import find_sites

        return find_sites(
            self.code,
            kernel=kernel,
            filename=self.filename,
            options=self.options,
            name_expressions=self.name_expressions,
            links=(link,),
            fallback=fallback,
        )

    def get_function(self, name: str) -> Kernel:
        """The kernel `name`, or the template instance of that name expression.

        Raises:
            ArgumentError: at the first launch, if there is no such kernel; the message lists those there are.
        """
        return Kernel(self, name)

    def get_global(self, name: str) -> Array:
        """A ``__device__`` or ``__constant__`` variable of the current device, as shared memory.

        Returns:
            numpy.ndarray of uint8, one element a byte; use ``.view(dtype)``. Writes are seen by later
            launches, and what kernels write is seen in it.

        Raises:
            ArgumentError: there is no such variable; the message lists those there are.
        """
        device = current_space().current_device
        return device.load(self.compiled_for(device)).variable(name)


class RawKernel(Kernel):
    """One kernel from CUDA C++ source, compiled at the first launch.

    Args:
        code: the source text, ``extern "C"`` or not.
        name: of the ``__global__`` function.
        options, backend, filename, translate_cucomplex, enable_cooperative_groups, jitify: as for `RawModule`.
    """

    def __init__(
        self,
        code: str,
        name: str,
        options: Sequence[str] = (),
        backend: str = "nvrtc",
        *,
        filename: str | None = None,
        translate_cucomplex: bool = False,
        enable_cooperative_groups: bool = False,
        jitify: bool = False,
    ) -> None:
        module = RawModule(
            code,
            options=options,
            backend=backend,
            filename=filename,
            translate_cucomplex=translate_cucomplex,
            enable_cooperative_groups=enable_cooperative_groups,
            jitify=jitify,
        )
        super().__init__(module, name)

    @property
    def code(self) -> str:
        """The source text."""
        return self._module.code


__all__ = ["Kernel", "RawKernel", "RawModule"]
