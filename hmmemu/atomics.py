"""What the atomic operations of a kernel do on a link, said before anything runs.

The sites come from the source alone (compiler/atomic_sites.py), the verdicts from the links (link.py): no compiler and
no device is needed. Nothing here changes state, so no lock guards it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hmmemu.errors import ArgumentError
from hmmemu.link import AtomicOperation, Fallback, Link, Route, find_fallback, find_link
from hmmemu.link import links as profiles

if TYPE_CHECKING:
    from hmmemu.compiler.atomic_sites import Found
    from hmmemu.compiler.parse import Source
    from hmmemu.compiler.places import Place

_ON_DEVICE = {"shared", "variable", "local"}  # kinds of places that no CPU reaches
_MARKS = {
    "shared": " (__shared__)",
    "variable": " (__device__)",
    "managed": " (__managed__)",
    "local": " (local)",
}


@dataclass(frozen=True)
class AtomicSite:
    """An atomic operation in a kernel's source, and the ways it goes.

    Attributes:
        kernel: the kernel that reaches it (a name expression for an instance of a template).
        function: the function that it stands in.
        call: as written: "atomicAdd_system", "fetch_add", "++".
        operation: in CUDA's vocabulary.
        type: of what it works on; "" if the source does not tell.
        bits, lanes: size of an element, and how many; 0 bits if the type is not known.
        signed: whether the type is a signed integer.
        scope: "system", "device", "block" or "thread". Only "system" is atomic against the CPU.
        file, line: where.
        arrays: the memory it may go to: the kernel's pointer arguments ("counts"; "v.data" for a pointer in a
            struct), "*root" for what pointers in root's memory lead to, variables with what they are
            ("lock (__device__)"), "?" for memory that cannot be told.
        certain: whether type and memory are known for sure.
        on_device: whether that memory never leaves the device (__shared__, __device__, local).
        returns_old: whether the old value is used; otherwise it is a reduction.
        link, fallback: what it was asked for.
        routes: the way on each link by its name, the asked one among them; None where the type is not known.
    """

    kernel: str
    function: str
    call: str
    operation: AtomicOperation
    type: str
    bits: int
    lanes: int
    signed: bool
    scope: str
    file: str
    line: int
    arrays: tuple[str, ...]
    certain: bool
    on_device: bool
    returns_old: bool
    link: str
    fallback: Fallback
    routes: dict[str, Route | None] = field(hash=False)

    @property
    def bytes(self) -> int:
        """How many bytes it works on; 0 if the type is not known."""
        return self.bits * self.lanes // 8

    @property
    def route(self) -> Route | None:
        """The way on the asked link."""
        return self.routes[self.link]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        plain = {key: value for key, value in vars(self).items() if key not in ("operation", "routes")}
        named = {
            name: route and {"route": route.value, "verdict": route.verdict}
            for name, route in self.routes.items()
        }
        return {**plain, "operation": self.operation.cuda_name, "bytes": self.bytes, "routes": named}


def find_sites(
    code: str,
    *,
    kernel: str | None = None,
    filename: str | None = None,
    options: Sequence[str] = (),
    name_expressions: Sequence[str] = (),
    links: Sequence[Link | str] = ("pcie4",),
    fallback: Fallback | str = Fallback.MIGRATE,
) -> list[AtomicSite]:
    """The atomic operations that the kernels of a source reach, or one kernel; in the order of the source.

    Args:
        code, filename, options, name_expressions: as for `hmm.RawModule`.
        kernel: the kernel's name, or a name expression; None for all.
        links: the links asked for, each a profile's name, a .toml file, or a `Link`; `site.link` is the first.
        fallback: what is done with operations that a link lacks.

    Raises:
        ArgumentError: there is no such link, fallback or kernel.
        CompileError: the source's preprocessor directives make no sense.
    """
    from hmmemu.compiler.atomic_sites import atomic_sites
    from hmmemu.compiler.macros import expand_macros
    from hmmemu.compiler.options import parse_options
    from hmmemu.compiler.parse import parse

    asked, way = [find_link(link) for link in links], find_fallback(fallback)
    source = parse(expand_macros(code, filename or "kernel.cu", parse_options(options)))
    if kernel is not None:
        _check_kernel(source, kernel)
        if "<" in kernel and kernel not in name_expressions:
            name_expressions = [*name_expressions, kernel]
    found = atomic_sites(source, name_expressions)
    wanted = [s for s in found if kernel is None or kernel.strip() in (s.kernel, s.kernel.split("::")[-1])]
    return [_site(one, asked, way) for one in wanted]


def _check_kernel(source: Source, kernel: str) -> None:
    from hmmemu.compiler.signature import kernels_of

    kernels = kernels_of(source)
    base = kernel.split("<")[0].strip().removeprefix("&").removeprefix("::")
    if base not in {name for k in kernels for name in (k.name, k.qualified_name)}:
        known = ", ".join(k.qualified_name for k in kernels) or "none"
        raise ArgumentError(f"there is no kernel {kernel!r} in this source; it has: {known}")


def _site(found: Found, asked: list[Link], way: Fallback) -> AtomicSite:
    scalar, operation = found.scalar, AtomicOperation[found.operation]
    on_device = lies_on_device(found)

    def route(link: Link) -> Route | None:
        if on_device:
            return Route.LOCAL
        if found.scope != "system":
            return Route.DEVICE
        if scalar is None:
            return None
        signed = scalar.kind == "signed"
        return link.route(operation, scalar.bits, signed=signed, lanes=scalar.lanes, fallback=way)

    return AtomicSite(
        kernel=found.kernel,
        function=found.function,
        call=found.called,
        operation=operation,
        type=found.type,
        bits=scalar.bits if scalar is not None else 0,
        lanes=scalar.lanes if scalar is not None else 1,
        signed=scalar is not None and scalar.kind == "signed",
        scope=found.scope,
        file=found.file,
        line=found.line,
        arrays=arrays_of(found),
        certain=scalar is not None
        and len(found.places) == 1
        and not any(p.kind == "unknown" for p in found.places),
        on_device=on_device,
        returns_old=found.returns,
        link=asked[0].name,
        fallback=way,
        routes={link.name: route(link) for link in (*profiles(), *asked)},
    )


def lies_on_device(found: Found) -> bool:
    """Whether the operation's memory never leaves the device, wherever it may be."""
    return all(place.kind in _ON_DEVICE for place in found.places)


def arrays_of(found: Found) -> tuple[str, ...]:
    """The names of the memory that an operation may go to."""
    return tuple(sorted(map(_array, found.places)))


def _array(place: Place) -> str:
    return place.name + _MARKS.get(place.kind, "") if place.kind != "unknown" else "?"
