"""What the atomic operations of a kernel do on a link, said before anything runs.

The sites come from the source alone (compiler/atomic_sites.py), the verdicts from the links (link.py): no compiler and
no device is needed. Nothing here changes state, so no lock guards it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from hmmemu.capabilities import AtomicOperation
from hmmemu.errors import ArgumentError
from hmmemu.link import Link
from hmmemu.link import links as profiles
from hmmemu.link_names import find_link
from hmmemu.routes import Fallback, Route, find_fallback

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
class AtomicInSource:
    """An atomic operation in the source of a kernel: what it is, and the rule for its way on a link.

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
        on_device: whether its memory never leaves the device (__shared__, __device__, local).
        fallback: what is done where the link lacks it.
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
    on_device: bool
    fallback: Fallback

    @property
    def bytes(self) -> int:
        """How many bytes it works on; 0 if the type is not known."""
        return self.bits * self.lanes // 8

    def route_on(self, link: Link | str) -> Route | None:
        """The way on a link, for a page in the CPU's memory; None if the type is not known.

        Raises:
            ArgumentError: there is no such link.
        """
        link = find_link(link)
        if self.on_device:
            return Route.LOCAL
        if self.scope != "system":
            return Route.DEVICE
        if not self.bits:
            return None
        way = link.route
        return way(self.operation, self.bits, signed=self.signed, lanes=self.lanes, fallback=self.fallback)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        plain = {field.name: getattr(self, field.name) for field in fields(AtomicInSource)}
        return {**plain, "operation": self.operation.cuda_name, "bytes": self.bytes}


@dataclass(frozen=True)
class AtomicSite(AtomicInSource):
    """An atomic operation in a kernel's source, and the ways it goes.

    Attributes, beside those of `AtomicInSource`:
        arrays: the memory it may go to: the kernel's pointer arguments ("counts"; "v.data" for a pointer in a
            struct), "*root" for what pointers in root's memory lead to, variables with what they are
            ("lock (__device__)"), "?" for memory that cannot be told.
        certain: whether type and memory are known for sure.
        returns_old: whether the old value is used; otherwise it is a reduction.
        asked: the links that it was asked for.
    """

    arrays: tuple[str, ...]
    certain: bool
    returns_old: bool
    asked: tuple[Link, ...] = field(repr=False)

    @property
    def link(self) -> str:
        """The first link that it was asked for."""
        return self.asked[0].name

    @property
    def route(self) -> Route | None:
        """The way on that link; None if the type is not known."""
        return self.route_on(self.asked[0])

    @property
    def routes(self) -> dict[str, Route | None]:
        """The way on each link by its name, the asked ones among them; None where the type is not known."""
        return {link.name: self.route_on(link) for link in (*profiles(), *self.asked)}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        own = {key: getattr(self, key) for key in ("arrays", "certain", "returns_old", "link")}
        named = {
            name: route and {"route": route.value, "verdict": route.verdict}
            for name, route in self.routes.items()
        }
        return {**super().to_dict(), **own, "routes": named}


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

    asked, way = tuple(find_link(link) for link in links), find_fallback(fallback)
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


def _site(found: Found, asked: tuple[Link, ...], way: Fallback) -> AtomicSite:
    scalar = found.scalar
    return AtomicSite(
        kernel=found.kernel,
        function=found.function,
        call=found.called,
        operation=AtomicOperation[found.operation],
        type=found.type,
        bits=scalar.bits if scalar is not None else 0,
        lanes=scalar.lanes if scalar is not None else 1,
        signed=scalar is not None and scalar.kind == "signed",
        scope=found.scope,
        file=found.file,
        line=found.line,
        on_device=lies_on_device(found),
        fallback=way,
        arrays=arrays_of(found),
        certain=scalar is not None
        and len(found.places) == 1
        and not any(p.kind == "unknown" for p in found.places),
        returns_old=found.returns,
        asked=asked,
    )


def lies_on_device(found: Found) -> bool:
    """Whether the operation's memory never leaves the device, wherever it may be."""
    return all(place.kind in _ON_DEVICE for place in found.places)


def arrays_of(found: Found) -> tuple[str, ...]:
    """The names of the memory that an operation may go to."""
    return tuple(sorted(map(_array, found.places)))


def _array(place: Place) -> str:
    return place.name + _MARKS.get(place.kind, "") if place.kind != "unknown" else "?"
