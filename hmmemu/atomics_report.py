"""AtomicsReport: which atomic operations kernels did, on which arrays, how often and in which way.

Kernels that are launched while a report is made are compiled to count (compiler/counting.py): each worker thread of a
device in a table of its own, which outlives the device's process. They are added up when nothing runs.

LOCK: none. `modules` and `kernels` are changed by single dict operations, by threads that launch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hmmemu.atomic_uses import WAYS, AtomicUse
from hmmemu.atomics import arrays_of
from hmmemu.capabilities import AtomicOperation
from hmmemu.errors import ArgumentError, Error
from hmmemu.link import Link, links
from hmmemu.memory import Memory
from hmmemu.routes import Fallback

if TYPE_CHECKING:
    from hmmemu.compiler.atomic_sites import Found
    from hmmemu.device import Device
    from hmmemu.modules import LoadedKernel

# hmm_atomic_count of compiler/include/hmmemu/abi.h
_COUNT = np.dtype(
    [("kernel", "<u8"), ("site", "<u4"), ("array", "<u2"), ("operation", "u1"), ("bytes", "u1"), ("lanes", "u1"),
     ("signed", "u1"), ("scope", "u1"), ("done", "u1"), ("", "<u4"), ("count", "<u8"), ("low", "<u8"), ("high", "<u8")]
)  # fmt: skip
_SCOPES = ("block", "device", "system")
_TYPES = {(8, True): "signed char", (8, False): "unsigned char", (16, True): "short", (16, False): "unsigned short",
          (32, True): "int", (32, False): "unsigned int", (64, True): "long long", (64, False): "unsigned long long",
          (128, True): "__int128", (128, False): "unsigned __int128"}  # fmt: skip


class Space(Protocol):
    """An address space, as far as a report is concerned."""

    memory: Memory
    link: Link
    fallback: Fallback
    timeout: float | None
    counting: AtomicsReport | None

    @property
    def devices(self) -> Sequence[Device]:
        """The devices, by index."""

    def synchronize(self, timeout: float | None = None) -> None:
        """Waits until everything launched has ended."""


class Module(Protocol):
    """A module of kernels, as far as a report is concerned."""

    def numbered_sites(self) -> list[tuple[int, Found]]:
        """Its atomic operations, by the numbers that its kernels count them under."""


class AtomicsReport:
    """The atomic operations of the kernels that are launched in its ``with`` block; made by `space.atomics_report()`.

    At the end of the block it waits for those kernels. ``print(report)`` shows a table.

    Raises:
        ArgumentError: another report is being made in this space.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._uses: list[AtomicUse] | None = None
        self._lost = 0
        self.modules: dict[str, Module] = {}  # by the compiled module's key
        self.kernels: dict[tuple[int, int], tuple[str, LoadedKernel]] = {}  # by device and handle

    def __enter__(self) -> AtomicsReport:
        if self._space.counting is not None:
            raise ArgumentError("an atomics report is being made in this space already: end its `with` first")
        if self._uses is not None:
            raise ArgumentError("this atomics report has been made: ask the space for another one")
        for device in self._space.devices:
            device.process.clear_atomics()
        self._space.counting = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._space.counting = None
        try:
            self._space.synchronize(self._space.timeout)
        except Error:
            if error is None:
                raise
        finally:
            self._uses = self._collect()

    @property
    def uses(self) -> list[AtomicUse]:
        """A record for each operation of the source and array, in the order of kernels and lines.

        Raises:
            ArgumentError: its ``with`` block has not ended.
        """
        if self._uses is None:
            raise ArgumentError("the atomics report is there when its `with` block has ended")
        return self._uses

    @property
    def lost(self) -> int:
        """Operations that ran and are in no record, because there were too many records."""
        return self._lost

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON, with what each operation would do on every link."""
        space, uses = self._space, self.uses
        found = {"link": space.link.name, "fallback": space.fallback.value, "lost": self.lost}
        return {**found, "uses": [use.to_dict(links()) for use in uses]}

    def __str__(self) -> str:
        from hmmemu.report import atomics_table, text

        parts: list[Any] = [atomics_table(self.uses, self._space.link)]
        if self.lost:
            parts.append(
                f"{self.lost:,} operations are missing: there were too many different ones to count."
            )
        return text(parts)

    # ---------------------------------------------------------------------------------- adding up

    def _collect(self) -> list[AtomicUse]:
        rows: dict[tuple[Any, ...], dict[str, int]] = {}
        found = _Sites(self.modules)
        for device in self._space.devices:
            raw, lost = device.process.atomic_counts()
            self._lost += lost
            for entry in np.frombuffer(raw, _COUNT):
                row = self._row(device, entry, found)
                if row is not None:
                    ways = rows.setdefault(row, {})
                    way = WAYS[entry["done"]]
                    ways[way] = ways.get(way, 0) + int(entry["count"])
        uses = [found.use(row, ways, self._space) for row, ways in rows.items()]
        return [use for _, use in sorted(uses, key=lambda pair: pair[0])]

    def _row(self, device: Device, entry: Any, found: _Sites) -> tuple[Any, ...] | None:
        """What makes a record; None for one that a stray store of a kernel has spoilt."""
        known = self.kernels.get((device.index, int(entry["kernel"])))
        if known is None or entry["done"] >= len(WAYS) or entry["scope"] >= len(_SCOPES):
            return None
        key, kernel = known
        site, array = int(entry["site"]), int(entry["array"])
        if not found.has(key, site) or entry["operation"] >= len(AtomicOperation):
            return None
        if array > len(kernel.parameters):
            return None
        where = "local" if WAYS[entry["done"]] == "local" else ""
        name = kernel.parameters[array - 1].name if array else where
        if not name:
            name = _name_at(device, self._space.memory, int(entry["low"]), int(entry["high"]))
        kind = tuple(int(entry[field]) for field in ("operation", "bytes", "lanes", "signed", "scope"))
        return key, kernel.name, site, name, *kind


class _Sites:
    """The sites of the modules, by number."""

    def __init__(self, modules: dict[str, Module]) -> None:
        self._modules = modules
        self._order = list(modules)
        self._known: dict[str, dict[int, list[Found]]] = {}

    def of(self, key: str) -> dict[int, list[Found]]:
        if key not in self._known:
            sites = self._known[key] = {}
            for number, found in self._modules[key].numbered_sites():
                sites.setdefault(number, []).append(found)
        return self._known[key]

    def has(self, key: str, site: int) -> bool:
        return key in self._modules and site in self.of(key)

    def use(
        self, row: tuple[Any, ...], ways: dict[str, int], space: Space
    ) -> tuple[tuple[Any, ...], AtomicUse]:
        """A record, and its place in the order."""
        key, kernel, site, array, operation, size, lanes, signed, scope = row
        all_of = self.of(key)[site]
        found = _likely(all_of, kernel, 8 * size, lanes)
        foreseen = {name for one in found for name in arrays_of(one)}
        shown = _shown(array, foreseen)
        use = AtomicUse(
            kernel=kernel,
            function=found[0].function,
            call=found[0].called,
            operation=AtomicOperation(operation),
            type=_type(found, 8 * size, bool(signed)),
            bits=8 * size,
            lanes=lanes,
            signed=bool(signed),
            scope=found[0].scope if found[0].scope == "thread" else _SCOPES[scope],
            file=found[0].file,
            line=found[0].line,
            array=shown,
            foreseen=_is_foreseen(shown, foreseen),
            count=sum(ways.values()),
            ways={way: ways[way] for way in WAYS if way in ways},
            link=space.link,
            fallback=space.fallback,
            on_device="local" in ways or shown.endswith("(__device__)"),
        )
        return (self._order.index(key), kernel, found[0].at, shown), use


def _name_at(device: Device, memory: Memory, low: int, high: int) -> str:
    """The variable or array that lies there."""
    named = [(begin, end, f"{name} (__device__)") for begin, end, name in device.variables()]
    for begin, end, label in memory.allocations():
        named.append((begin, end, f"{label} at {begin:#x}"))
    names = [name for begin, end, name in named if begin <= high and low < end]
    covering = [name for begin, end, name in named if begin <= low and high < end]
    return covering[0] if covering else "several arrays" if names else f"memory at {low:#x}"


def _likely(found: list[Found], kernel: str, bits: int, lanes: int) -> list[Found]:
    """Those of a position that are of this kernel and size; a function may be reached in ways that no search sees."""
    plain = kernel.replace(" ", "").removeprefix("&")
    own = [
        f for f in found if plain in (f.kernel.replace(" ", ""), f.kernel.split("::")[-1].replace(" ", ""))
    ]
    sized = [f for f in own if f.scalar is not None and (f.scalar.bits, f.scalar.lanes) == (bits, lanes)]
    return sized or own or found


def _type(found: list[Found], bits: int, signed: bool) -> str:
    names = {f.type for f in found if f.type}
    if len(names) > 1:
        names = {f.type for f in found if f.type and f.scalar and (f.scalar.kind == "signed") == signed}
    return names.pop() if len(names) == 1 else _TYPES.get((bits, signed), f"{bits} bits")


def _shown(array: str, foreseen: Iterable[str]) -> str:
    """Memory of one block by the name of its variable, if there is only one."""
    if array != "local":
        return array
    marked = [name for name in foreseen if name.endswith(("(__shared__)", "(local)"))]
    return marked[0] if len(marked) == 1 else "(__shared__ or local)"


def _is_foreseen(array: str, foreseen: set[str]) -> bool:
    """Memory that is no argument can be told from the source only as what pointers in memory lead to."""
    if array in foreseen or "?" in foreseen or array == "(__shared__ or local)":
        return True
    return " at 0x" in array and any(name.startswith("*") or "." in name for name in foreseen)


__all__ = ["AtomicUse", "AtomicsReport"]
