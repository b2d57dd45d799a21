"""Which memory a kernel shares with the CPU while it runs: what a GPU is then to use where the CPU has it.

A GPU's page does not move during a kernel. So memory for atomic operations that the link carries, and all memory of a
kernel that may wait for the CPU, stays in host memory, mapped; memory for operations that the link lacks goes to the
device, and the CPU waits until the kernel has ended. Both are read from the source (compiler/atomic_sites.py,
compiler/analysis.py); what the source does not tell counts as shared. No state, no lock. docs/cuda.md, "Atomics".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hmmemu.arguments import Parameter
from hmmemu.link import Link
from hmmemu.routes import Route

_METHODS = {
    "load",
    "wait",
    "exchange",
    "compare_exchange_weak",
    "compare_exchange_strong",
}  # of cuda::atomic_ref
_ANYWHERE = "?"


@dataclass(frozen=True)
class Sharing:
    """What one kernel shares.

    Attributes:
        waits: whether it may wait for what the CPU writes meanwhile.
        native: memory that it works on by atomic operations of system scope, as `AtomicSite.arrays` names it, all of
            which the link performs in place.
        lacking: the same, where the link lacks one.
    """

    waits: bool
    native: frozenset[str]
    lacking: frozenset[str]

    @property
    def any(self) -> bool:
        """Whether `with_cpu` may be true of something."""
        return self.waits or bool(self.native)

    def with_cpu(self, parameter: Parameter | None) -> bool:
        """Whether the memory of an argument stays with the CPU. None: memory that no argument leads to."""
        name = parameter.name if parameter is not None else None
        if self._among(self.lacking, name):
            return False
        return self._among(self.native, name) or (self.waits and not _is_constant(parameter))

    @staticmethod
    def _among(memory: frozenset[str], name: str | None) -> bool:
        if name is None:  # behind a pointer in other memory ("*root"), or in a structure ("map.depth")
            return any(_ANYWHERE in m or "*" in m or "." in m for m in memory)
        return name in memory or _ANYWHERE in memory


NOTHING = Sharing(False, frozenset(), frozenset())


def find_sharing(
    code: str,
    kernel: str,
    link: Link,
    *,
    filename: str | None = None,
    options: Sequence[str] = (),
    name_expressions: Sequence[str] = (),
) -> Sharing:
    """What the kernel of that name, or of that name expression, shares on a link. A kernel that the source does not
    show (made by a macro of a header, say) shares nothing.

    Raises:
        CompileError: the source's preprocessor directives make no sense.
    """
    from hmmemu.atomics import find_sites
    from hmmemu.errors import ArgumentError

    try:
        sites = find_sites(
            code,
            kernel=kernel,
            filename=filename,
            options=options,
            name_expressions=name_expressions,
            links=[link],
        )
    except ArgumentError:
        return NOTHING
    crossing = [site for site in sites if site.scope == "system" and not site.on_device]
    lacking = {name for site in crossing if site.route is not Route.NATIVE for name in site.arrays}
    native = {name for site in crossing for name in site.arrays} - lacking
    waits = _waits(code, kernel, filename, options, name_expressions)
    return Sharing(waits, frozenset(native), frozenset(lacking))


def _is_constant(parameter: Parameter | None) -> bool:
    """`const T* __restrict__`: nobody may write there while the kernel runs."""
    return parameter is not None and parameter.pointee_const and "restrict" in parameter.type


def _waits(
    code: str, kernel: str, filename: str | None, options: Sequence[str], name_expressions: Sequence[str]
) -> bool:
    """Whether a kernel has loops that others may end, and looks at memory in a way that shows what the CPU writes.

    A loop of compare-and-swap of device scope, say, is no business of the CPU's.
    """
    from hmmemu.compiler.analysis import analyse, volatile_names
    from hmmemu.compiler.macros import expand_macros
    from hmmemu.compiler.options import parse_options
    from hmmemu.compiler.parse import parse, text, walk

    source = parse(expand_macros(code, filename or "kernel.cu", parse_options(options)))
    found = analyse(source, name_expressions)
    base = kernel.partition("<")[0].strip().lstrip("&").removeprefix("::")
    waiting = [k for k in found.waits if base in (k.name, k.qualified)]
    if not waiting:
        return False
    closure = set().union(*(found.closures.get(k, set()) | {k.name} for k in waiting))
    seen = volatile_names(source) | {"volatile", "__ldcv", "thread_scope_system"}
    words = (
        (n.type, text(n))
        for f in source.functions
        if f.name in closure and f.body is not None
        for n in walk(f.body)
        if n.type in ("identifier", "field_identifier", "type_qualifier")
    )
    return any(
        w in seen or w.endswith("_system") or (t == "field_identifier" and w in _METHODS) for t, w in words
    )


__all__ = ["NOTHING", "Sharing", "find_sharing"]
