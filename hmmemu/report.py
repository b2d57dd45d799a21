"""Tables for people: what happened to the pages of an address space, in nvprof's layout.

Sizes are in KB, MB, GB of 1024 bytes each, as nvprof writes them: a fixed number of characters, so that
columns of numbers line up. Nothing here changes state, so no lock guards it.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from hmmemu.link import Link, links

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from hmmemu.atomic_uses import AtomicUse
    from hmmemu.trace import ProcessorStats, Stats, Transfer

_DIRECTIONS = {"HtoD": "Host To Device", "DtoH": "Device To Host", "DtoD": "Device To Device"}
_COLUMNS = ("Count", "Avg Size", "Min Size", "Max Size", "Total Size", "Total Time")


def unified_memory_table(stats: Stats) -> str:
    """nvprof's unified-memory table as text: for each device its transfers and fault groups, then CPU page
    faults.

    A direction in which nothing was moved has no row; a device that nothing happened to has no section.
    """
    cpu, *devices = stats.processors
    parts: list[RenderableType] = ["Unified Memory profiling result:"]
    for device in devices:
        table = _device_table(device, [t for t in stats.transfers if t.device == device.name])
        if table.row_count:
            parts += [f'Device "{device.name}"', table]
    if cpu.throttles:
        parts.append(f"Total CPU Page throttles: {cpu.throttles}")
    parts.append(f"Total CPU Page faults: {cpu.faults}")
    return text(parts)


def atomics_table(uses: Sequence[AtomicUse], link: Link) -> Table:
    """What atomic operations did on this link, and the ways that they would go on others."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    others = [group for group in same_atomics(links()) if link.atomics != group[0].atomics]
    for heading in ("kernel", "line", "operation", "type", "scope", "memory"):
        table.add_column(heading)
    table.add_column("count", justify="right")
    for heading in (f"here: {link.name}", *("\n".join(other.name for other in group) for group in others)):
        table.add_column(heading)
    for use in uses:
        where = use.array if use.foreseen else f"{use.array} (!)"
        told = [use.kernel, f"{use.line}", use.call, use.type, use.scope, where, f"{use.count:,}"]
        ways = ", ".join(f"{way} {count:,}" for way, count in use.ways.items())
        table.add_row(*told, ways, *(_elsewhere(use, group[0]) for group in others))
    return table


def _elsewhere(use: AtomicUse, link: Link) -> str:
    route, moves = use.route_on(link), use.estimate(link).moves
    if route.verdict != "migrations":
        return route.value
    count = "?" if moves is None else f"{moves:,}"
    return f"{route.value}, {count} move{'s' if moves != 1 else ''}"


def same_atomics(links: Iterable[Link]) -> list[list[Link]]:
    """Links with the same atomics, which share a column."""
    groups: dict[Any, list[Link]] = {}
    for link in links:
        groups.setdefault(link.atomics, []).append(link)
    return list(groups.values())


def text(parts: Iterable[RenderableType], width: int = 200) -> str:
    """Rich renderables as plain text, one below the other, without colours, markup or trailing blanks."""
    from rich.console import Console

    buffer = io.StringIO()
    console = Console(file=buffer, width=width, markup=False, highlight=False, color_system=None)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip("\n").split("\n"))


def size(count: float, characters: int = 6) -> str:
    """`count` bytes in nvprof's way: `characters` for the number, then the unit ("64.000KB", "0.9961MB")."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1024
    return f"{int(count)}B" if unit == "B" else _fixed(count, characters) + unit


def duration(seconds: float, characters: int = 6) -> str:
    """`seconds` in nvprof's way: `characters` for the number, then ns, us, ms or s ("12.345us")."""
    for scale, unit in ((1e9, "ns"), (1e6, "us"), (1e3, "ms")):
        if seconds * scale < 1000:
            return _fixed(seconds * scale, characters) + unit
    return _fixed(seconds, characters) + "s"


def _device_table(device: ProcessorStats, transfers: list[Transfer]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=True, header_style="")
    for column in _COLUMNS:
        table.add_column(column, justify="right", min_width=8)
    table.add_column("Name")
    for direction, name in _DIRECTIONS.items():
        for transfer in transfers:
            if transfer.direction == direction and transfer.count:
                table.add_row(*_transfer_cells(transfer), name)
    if device.faults:
        time = duration(device.fault_seconds, 8)
        table.add_row(str(device.faults), "-", "-", "-", "-", time, "Gpu page fault groups")
    for count, name in ((device.throttles, "Page throttles"), (device.pinned_pages, "Pinned pages")):
        if count:
            table.add_row(str(count), "-", "-", "-", "-", "-", name)
    return table


def _transfer_cells(transfer: Transfer) -> list[str]:
    mean = transfer.bytes / transfer.count
    sizes = [size(mean), size(transfer.min_bytes), size(transfer.max_bytes), size(transfer.bytes, 8)]
    return [str(transfer.count), *sizes, duration(transfer.seconds, 8)]


def _fixed(value: float, characters: int) -> str:
    """`value` with as many decimals as fit in `characters`."""
    decimals = max(0, characters - 1 - len(str(int(value))))
    shown = f"{value:.{decimals}f}"
    return shown if len(shown) <= characters or not decimals else f"{value:.{decimals - 1}f}"
