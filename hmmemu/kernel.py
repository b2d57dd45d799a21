"""RawKernel and RawModule, with CuPy's signatures.

The compiler is imported when the first source comes: it is two thirds of what importing hmmemu costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hmmemu.errors import ArgumentError
from hmmemu.ranges import Array
from hmmemu.space import current_space
from hmmemu.stream import Stream, current_stream

if TYPE_CHECKING:
    from hmmemu.atomics import AtomicSite
    from hmmemu.compiler import Compiled
    from hmmemu.compiler.atomic_sites import Found
    from hmmemu.device import Device
    from hmmemu.link import Link
    from hmmemu.modules import LoadedKernel
    from hmmemu.routes import Fallback

Dimensions = int | Sequence[int]
_LIMITS = {"grid": (2**31 - 1, 65535, 65535), "block": (1024, 1024, 64)}


def _dimensions(what: str, value: Dimensions) -> tuple[int, int, int]:
    """(x, y, z) of a grid or a block.

    Raises:
        ArgumentError: not one to three positive integers within CUDA's limits.
    """
    return _checked_dimensions(what, (value,) if isinstance(value, int) else tuple(value))


@lru_cache(maxsize=1024)  # a program launches few shapes, often
def _checked_dimensions(what: str, given: tuple[Any, ...]) -> tuple[int, int, int]:
    if not 1 <= len(given) <= 3:
        raise ArgumentError(f"{what} has 1 to 3 dimensions, not {len(given)}: {given!r}")
    try:
        x, y, z = (int(given[i]) if i < len(given) else 1 for i in range(3))
    except (TypeError, ValueError):
        raise ArgumentError(f"{what} must be integers, not {given!r}") from None
    if any(not 1 <= n <= limit for n, limit in zip((x, y, z), _LIMITS[what], strict=True)):
        raise ArgumentError(f"{what} {(x, y, z)} is outside CUDA's limits, 1 to {_LIMITS[what]}")
    return x, y, z


class Kernel:
    """One kernel of a module; made by `RawModule.get_function`."""

    def __init__(self, module: RawModule, name: str) -> None:
        self._module = module
        self.name = name

    def __repr__(self) -> str:
        return f"<hmmemu kernel {self.name!r} of {self._module.filename}>"

    def compile(self) -> None:
        """Compiles now what is compiled at the first launch otherwise.

        Raises:
            CompileError: the compiler's message, with your own file name and lines.
            NoCompilerError: there is no C++ compiler.
        """
        self._loaded(current_space().current_device)

    @property
    def attributes(self) -> dict[str, Any]:
        """Static properties: `max_threads_per_block`, `shared_size_bytes`, `mode` (how it runs here)."""
        kernel = self._loaded(current_space().current_device)
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
        reaches: Sequence[Any] = (),
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
        if not isinstance(args, (tuple, list)):
            raise ArgumentError(
                f"the arguments of {self.name} are a tuple or a list, not {type(args).__name__}"
            )
        grid3, block3 = _dimensions("grid", grid), _dimensions("block", block)
        device = device or current_space().current_device
        compiled = self._module.compiled_for(device)
        kernel = self._loaded(device)
        threads = block3[0] * block3[1] * block3[2]
        if threads > kernel.max_threads:
            raise ArgumentError(f"a block of {threads} threads: {self.name} allows {kernel.max_threads}")
        room = device.shared_bytes - kernel.static_shared
        if room < 0:
            raise ArgumentError(
                f"{self.name} has {kernel.static_shared} bytes of __shared__ variables; a block can have "
                f"{device.shared_bytes}"
            )
        if not 0 <= shared_mem <= room:
            raise ArgumentError(f"shared_mem={shared_mem}: {self.name} can have 0 to {room} bytes")
        stream = stream or current_stream()
        ticket = device.launch(compiled, self.name, grid3, block3, args, shared_mem, reaches)
        if stream.is_default:
            device.wait(ticket, device.space.timeout)
        else:
            stream.follow(device, ticket)

    def _loaded(self, device: Device) -> LoadedKernel:
        loaded = device.load(self._module.compiled_for(device))
        try:
            return loaded.kernel(self.name)
        except ArgumentError as error:
            raise ArgumentError(f"{error}{self._module.advice(self.name)}") from None


class RawModule:
    """CUDA C++ source with any number of kernels and variables.

    Args:
        code: the source text.
        path: or a file that holds it.
        options: as for NVRTC: -D, -I, -std, --use_fast_math, -fmad=false, ...
        backend: accepted as in CuPy; the compiler is the system's C++ compiler here.
        name_expressions: template instances to make available, for example ``["scale<float>"]``.
        filename: what error messages call the source; the path or "<source>" otherwise.

    Raises:
        ArgumentError: both or neither of `code` and `path`.
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
    ) -> None:
        if (code is None) == (path is None):
            raise ArgumentError("RawModule takes either code or path")
        self.code = Path(path).read_text() if code is None and path is not None else code
        self.filename = filename or (str(path) if path else None)
        self.options = tuple(options)
        self.name_expressions = tuple(name_expressions or ())
        self._compiled: dict[
            tuple[str, bool], Compiled
        ] = {}  # by target, and whether it counts its atomic operations

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
        if (device.target, counting) not in self._compiled:
            assert self.code is not None
            self._compiled[device.target, counting] = device.compile(
                self.code,
                filename=self.filename,
                options=self.options,
                name_expressions=self.name_expressions,
                counting=counting,
            )
        return self._compiled[device.target, counting]

    def numbered_sites(self) -> list[tuple[int, Found]]:
        """The atomic operations, by the numbers in the module that counts them (for the library's own use)."""
        from hmmemu.compiler.counting import numbered_sites

        assert self.code is not None
        return numbered_sites(self.code, self.filename, self.options, self.name_expressions)

    def advice(self, name: str) -> str:
        """Why the source has no kernel of that name although it looks so, as the end of a sentence."""
        from hmmemu.compiler import signatures

        assert self.code is not None
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

        assert self.code is not None
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
        options, backend, filename: as for `RawModule`.
    """

    def __init__(
        self,
        code: str,
        name: str,
        options: Sequence[str] = (),
        backend: str = "nvrtc",
        *,
        filename: str | None = None,
    ) -> None:
        super().__init__(RawModule(code, options=options, backend=backend, filename=filename), name)

    @property
    def code(self) -> str | None:
        """The source text."""
        return self._module.code


__all__ = ["Kernel", "RawKernel", "RawModule"]
