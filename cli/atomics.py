"""`hmmemu atomics`: which atomic operations a link carries, and what those of a kernel do on each link.

Looks at source only: nothing is compiled and no device is started.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hmmemu.cli.atomics_options import FALLBACKS, find_link
from hmmemu.cli.output import console, json_option, write_json
from hmmemu.kernels import WORKLOADS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from hmmemu.atomics import AtomicSite
    from hmmemu.link import Link
    from hmmemu.routes import Fallback

_SIZES = ((16, 1, "16"), (32, 1, "32"), (64, 1, "64"), (128, 1, "128"), (32, 4, "32x4"))
_COLOURS = {"native": "green", "migrations": "yellow", "emulated": "yellow", "broken": "red"}


@dataclass(frozen=True)
class Target:
    """A source to look at: what the user called it, its text, and what its templates stand for."""

    name: str
    path: Path
    code: str
    name_expressions: tuple[str, ...] = ()


@click.command()
@click.argument("names", nargs=-1, metavar="[WORKLOAD|FILE.cu]...")
@click.option(
    "--link",
    "link_names",
    multiple=True,
    help="A profile, a .toml file, or gpu: the first GPU's own. All profiles unless given.",
)
@click.option("--device", "gpu_names", multiple=True, metavar="cuda[:N]", help="The link of a GPU here.")
@click.option(
    "--fallback",
    type=click.Choice(FALLBACKS),
    default="migrate",
    show_default=True,
    help="What is done with operations that a link lacks.",
)
@click.option("-D", "defines", multiple=True, metavar="NAME[=VALUE]", help="Define a macro of the sources.")
@click.option("-I", "folders", multiple=True, metavar="FOLDER", help="Look for headers of the sources there.")
@json_option
def atomics(
    names: tuple[str, ...],
    link_names: tuple[str, ...],
    gpu_names: tuple[str, ...],
    fallback: str,
    defines: tuple[str, ...],
    folders: tuple[str, ...],
    json_file: str | None,
) -> None:
    """Show which atomic operations links carry, or what those of kernels do there.

    Without WORKLOAD or FILE, the operations by size. The exit status is 1 if a link was asked for on which an
    operation of these kernels would be lost or stop the kernel.
    """
    from hmmemu.link import links
    from hmmemu.routes import Fallback

    targets = [_target(name) for name in names]
    of_gpus = [_gpu_link(name) for name in gpu_names]
    asked = [find_link(name) for name in link_names] + [link for link, _ in of_gpus]
    way = Fallback(fallback)
    options = [*(f"-D{define}" for define in defines), *(f"-I{folder}" for folder in folders)]
    shown = asked or list(links())
    found = {target.name: _sites(target, shown, way, options) for target in targets}
    out = console(json_file)
    if not targets:
        _show_links(out, shown, way, one=len(asked) == 1)
    for link, words in of_gpus:
        out.print(f"{link.name}: {words}", markup=False, soft_wrap=True)
    for target in targets:
        _show_sites(out, target, found[target.name], shown)
    listing = [{"name": t.name, "sites": [site.to_dict() for site in found[t.name]]} for t in targets]
    document = {"command": "atomics", "fallback": fallback, "links": [link.to_dict() for link in shown]}
    write_json(json_file, {**document, "targets": listing})
    if asked and any(_broken(site, link) for sites in found.values() for site in sites for link in asked):
        click.get_current_context().exit(1)


def _gpu_link(name: str) -> tuple[Link, str]:
    """A GPU's link, and what it is; bad usage if that is no word for a GPU."""
    from hmmemu.errors import ArgumentError
    from hmmemu.gpu_link import find_gpu_link

    try:
        return find_gpu_link(name)
    except ArgumentError as error:
        raise click.BadParameter(str(error), param_hint="--device") from error


def _target(name: str) -> Target:
    if name in WORKLOADS:
        workload = WORKLOADS[name]
        templates = tuple(kernel for kernel in workload.kernels if "<" in kernel)
        return Target(name, workload.path, workload.source, templates)
    path = Path(name)
    if not path.is_file():
        known = ", ".join(WORKLOADS)
        raise click.BadParameter(f"{name!r} is neither a file nor a workload: {known}", param_hint="NAME")
    try:
        return Target(name, path, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{name} cannot be read: {error}", param_hint="NAME") from error


def _sites(target: Target, shown: list[Link], way: Fallback, options: list[str]) -> list[AtomicSite]:
    """The sites, with routes on the shown links."""
    from hmmemu.atomics import find_sites

    return find_sites(
        target.code,
        filename=str(target.path),
        options=options,
        name_expressions=target.name_expressions,
        links=shown,
        fallback=way,
    )


def _broken(site: AtomicSite, link: Link) -> bool:
    route = site.routes[link.name]
    return route is not None and route.is_broken


# -- tables ---------------------------------------------------------------------------------------------------------


def _new_table(*headings: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading)
    return table


def _show_links(out: Console, shown: list[Link], way: Fallback, *, one: bool) -> None:
    from hmmemu.report import duration

    table = _new_table("link")
    for heading in ("bandwidth", "latency", "fault cost"):
        table.add_column(heading, justify="right")
    for link in shown:
        bandwidth = f"{link.bandwidth / 1e9:.2f} GB/s"
        table.add_row(link.name, bandwidth, duration(link.latency), duration(link.fault_cost))
    out.print(table)
    out.print()
    out.print(_sizes_table(shown[0], way) if one else _profiles_table(shown))
    out.print()
    if one:
        out.print(f"{way}: {way.words}.", markup=False, soft_wrap=True)
    else:
        out.print("Sizes in bits that are native; what is not goes by the fallback (--link L shows it).")


def _sizes_table(link: Link, way: Fallback) -> Table:
    """Operations by size on one link: native, or what is done instead; blank where CUDA has no such operation."""
    from hmmemu.capabilities import AtomicOperation
    from hmmemu.link_figures import ALL_ATOMICS
    from hmmemu.routes import Route

    everything = replace(link, atomics=ALL_ATOMICS)
    table = _new_table("operation", *(name for _, _, name in _SIZES))
    for operation in AtomicOperation:
        cells = []
        for bits, lanes, _ in _SIZES:
            signs = [s for s in (False, True) if everything.native(operation, bits, signed=s, lanes=lanes)]
            routes = [link.route(operation, bits, signed=s, lanes=lanes, fallback=way) for s in signs]
            native = [Route.NATIVE is route for route in routes]
            cell = _cell(routes[0]) if routes else ""
            if any(native) and not all(native):
                cell = _cell(Route.NATIVE) + (" (signed)" if native[-1] else " (unsigned)")
            cells.append(cell)
        table.add_row(operation.cuda_name, *cells)
    return table


def _profiles_table(shown: list[Link]) -> Table:
    from hmmemu.capabilities import AtomicOperation
    from hmmemu.report import same_atomics

    groups = same_atomics(shown)
    table = _new_table("operation", *("\n".join(link.name for link in group) for group in groups))
    for operation in AtomicOperation:
        table.add_row(operation.cuda_name, *(_native_sizes(group[0], operation) for group in groups))
    return table


def _native_sizes(link: Link, operation: Any) -> str:
    sizes = []
    for bits, lanes, name in _SIZES:
        unsigned, signed = (link.native(operation, bits, signed=s, lanes=lanes) for s in (False, True))
        if unsigned or signed:
            sizes.append(name if unsigned and signed else f"{name} {'signed' if signed else 'unsigned'}")
    return ", ".join(sizes) if sizes else "–"


def _show_sites(out: Console, target: Target, sites: list[AtomicSite], shown: list[Link]) -> None:
    out.print(f"{target.path}", style="bold", markup=False, soft_wrap=True)
    if not sites:
        out.print("  no atomic operations\n")
        return
    from hmmemu.report import same_atomics

    groups = same_atomics(shown)
    table = _new_table("kernel", "line", "operation", "type", "scope", "memory")
    for group in groups:
        table.add_column("\n".join(link.name for link in group))
    for site in sites:
        memory = ", ".join(site.arrays) + ("" if site.certain or "?" in site.arrays else " (?)")
        cells = [site.kernel, f"{site.line}", site.call, site.type or "?", site.scope, memory]
        table.add_row(*map(_escape, cells), *(_cell(site.routes[group[0].name]) for group in groups))
    out.print(table)
    crossing = [site for site in sites if not site.on_device and site.scope != "system"]
    if crossing:
        count = f"{len(crossing)} of {len(sites)} operations"
        words = (
            "are on memory that the CPU shares, and not of system scope: they are not atomic against the CPU"
        )
        out.print(f"{count} {words}.", markup=False, soft_wrap=True)
    out.print()


def _cell(route: Any) -> str:
    if route is None:
        return "?"
    return f"[{_COLOURS[route.verdict]}]{route.value}[/]"


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
