"""`hmmemu run`: workloads, each verified, and a report of what happened to the pages.

All workloads run in one address space, one after the other. What each did to the pages is the difference of
the space's counters before and after; an error in one of them is reported and the others go on.
"""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from hmmemu.cli.atomics_options import atomics_options
from hmmemu.cli.output import LateProgress, console, json_option, write_json
from hmmemu.errors import Error
from hmmemu.kernels import SIZES, WORKLOADS

if TYPE_CHECKING:
    from rich.table import Table

    import hmmemu as hmm
    from hmmemu.kernels.images import Image
    from hmmemu.kernels.workload import Outcome
    from hmmemu.link import Link

PAGE = 4096


@dataclass(frozen=True)
class Counters:
    """What happened in a space until now: pages moved each way, faults of the CPU and of all devices."""

    pages_to_device: int
    pages_to_host: int
    pages_between_devices: int
    cpu_faults: int
    device_faults: int

    @classmethod
    def of(cls, space: hmm.AddressSpace) -> Counters:
        """The counters of `space` now."""
        stats = space.stats()
        cpu, *devices = [processor.faults for processor in stats.processors]
        moved = {"HtoD": 0, "DtoH": 0, "DtoD": 0}
        for transfer in stats.transfers:
            moved[transfer.direction] += transfer.bytes // PAGE
        return cls(moved["HtoD"], moved["DtoH"], moved["DtoD"], cpu, sum(devices))

    def since(self, earlier: Counters) -> dict[str, int]:
        """The difference, by name."""
        return {name: value - getattr(earlier, name) for name, value in vars(self).items()}


@dataclass
class Row:
    """One workload's results: an outcome a repetition, or the error that ended it."""

    name: str
    outcomes: list[Outcome] = field(default_factory=list)
    error: str = ""
    memory: dict[str, int] = field(default_factory=dict)

    @property
    def verified(self) -> bool:
        """Whether every repetition gave the right answer."""
        return not self.error and all(outcome.verified for outcome in self.outcomes)

    @property
    def trouble(self) -> str:
        """What went wrong, in words; empty if nothing did."""
        return self.error or next((o.mismatch for o in self.outcomes if not o.verified), "")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        runs = [outcome.to_dict() for outcome in self.outcomes]
        return {
            "name": self.name,
            "verified": self.verified,
            "error": self.error,
            "memory": self.memory,
            "runs": runs,
        }


@dataclass(frozen=True)
class Plan:
    """What to run, apart from which workloads."""

    size: str
    seed: int
    repeat: int
    image: Image | None
    fraction: float | None


def _check_device(context: click.Context, parameter: click.Parameter, value: str) -> str:
    names = value.split(",")
    if value != "auto" and not all(re.fullmatch(r"emulated|cuda(:\d+)?", name.strip()) for name in names):
        raise click.BadParameter(
            "auto, emulated, cuda or cuda:N; several with commas, without auto", context, parameter
        )
    return value


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", type=click.Choice(list(WORKLOADS)))
@click.option("--size", type=click.Choice(SIZES), default="small", show_default=True, help="How much data.")
@click.option(
    "--device",
    callback=_check_device,
    metavar="auto|emulated|cuda[:N]",
    default="auto",
    envvar="HMMEMU_DEVICE",
    show_default=True,
    show_envvar=True,
    help="Where kernels run; auto is a GPU if one can be used; several with commas take turns.",
)
@click.option("--devices", type=click.IntRange(1, 15), default=1, show_default=True, help="How many devices.")
@click.option(
    "--tracker",
    type=click.Choice(["auto", "uffd", "signal", "async"]),
    default="auto",
    envvar="HMMEMU_TRACKER",
    show_default=True,
    show_envvar=True,
    help="How accesses are caught.",
)
@click.option(
    "--input",
    "input_file",
    type=click.Path(exists=True, dir_okay=False),
    help="Image for histograms and sobel: .npy, or raw 1536 x 1024 pixels of 16 bits, big-endian.",
)
@click.option(
    "--fraction",
    type=click.FloatRange(0, 1),
    help="The CPU threads' part of work that they share with devices.  [default: 0.5]",
)
@click.option("--repeat", type=click.IntRange(1), default=1, show_default=True, help="Runs of each workload.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the data.")
@click.option("--list", "list_only", is_flag=True, help="List the workloads and their access patterns.")
@atomics_options
@json_option
def run(
    names: tuple[str, ...],
    size: str,
    device: str,
    devices: int,
    tracker: str,
    link: Link | None,
    fallback: str,
    atomics_report: bool,
    input_file: str | None,
    fraction: float | None,
    repeat: int,
    seed: int,
    list_only: bool,
    json_file: str | None,
) -> None:
    """Run workloads on shared memory and check every result.

    Without NAME all of them run. The exit status is 0 only if every result was right.
    """
    if list_only:
        console(json_file).print(_list_table())
        return
    import hmmemu as hmm

    chosen = list(dict.fromkeys(names)) or list(WORKLOADS)
    _check_fraction(fraction, chosen)
    plan = Plan(size, seed, repeat, _load_image(input_file, chosen), fraction)
    out = console(json_file)
    with hmm.AddressSpace(device, devices, tracker, link=link, fallback=fallback) as space:
        for each in space.devices:
            out.print(repr(each), markup=False, soft_wrap=True)
        report = space.atomics_report() if atomics_report else None
        with report or nullcontext():
            rows = _run_all(space, chosen, plan)
        stats = space.stats()
        used = [repr(each) for each in space.devices]
    _show(out, rows, str(stats))
    if report is not None:
        out.print(f"\n{report}", markup=False, soft_wrap=True)
    verified = all(row.verified for row in rows)
    document = {"command": "run", "size": size, "seed": seed, "repeat": repeat, "devices": used}
    document |= {"verified": verified, "workloads": [row.to_dict() for row in rows], "stats": stats.to_dict()}
    if report is not None:
        document["atomics"] = report.to_dict()
    write_json(json_file, document)
    if not verified:
        click.get_current_context().exit(1)


def _load_image(path: str | None, chosen: list[str]) -> Image | None:
    """The image of `--input`. A bad file, or one that no chosen workload reads, is bad usage."""
    if path is None:
        return None
    from hmmemu.kernels import images

    if not any(WORKLOADS[name].reads_image for name in chosen):
        readers = ", ".join(name for name in WORKLOADS if WORKLOADS[name].reads_image)
        raise click.BadParameter(f"only these workloads read it: {readers}", param_hint="--input")
    try:
        return images.load(path)
    except images.ImageError as error:
        raise click.BadParameter(str(error), param_hint="--input") from error


def _check_fraction(fraction: float | None, chosen: list[str]) -> None:
    """A fraction that no chosen workload has is bad usage."""
    if fraction is not None and not any(WORKLOADS[name].shares for name in chosen):
        sharing = ", ".join(name for name in WORKLOADS if WORKLOADS[name].shares)
        raise click.BadParameter(f"only these workloads have one: {sharing}", param_hint="--fraction")


def _run_all(space: hmm.AddressSpace, names: list[str], plan: Plan) -> list[Row]:
    rows = []
    with LateProgress("starting", total=len(names) * plan.repeat) as progress:
        for name in names:
            before = Counters.of(space)
            row = _run_one(space, name, plan, progress)
            row.memory = Counters.of(space).since(before)
            rows.append(row)
    return rows


def _run_one(space: hmm.AddressSpace, name: str, plan: Plan, progress: LateProgress) -> Row:
    from hmmemu.cli.group import traceback_wanted

    row = Row(name)
    workload = WORKLOADS[name]
    image = plan.image if workload.reads_image else None
    fraction = plan.fraction if workload.shares else None
    try:
        for number in range(plan.repeat):
            progress.step(f"{name} {number + 1}/{plan.repeat}" if plan.repeat > 1 else name)
            outcome = workload.run(space, plan.size, seed=plan.seed, image=image, fraction=fraction)
            row.outcomes.append(outcome)
            progress.advance()
    except Error as error:
        if traceback_wanted():
            raise
        row.error = str(error)
    return row


def _show(out: Any, rows: list[Row], stats: str) -> None:
    out.print()
    out.print(_table(rows))
    for row in rows:
        if row.trouble:
            out.print(f"{row.name}: {row.trouble}", style="red", markup=False, soft_wrap=True)
    out.print()
    out.print(stats, markup=False, soft_wrap=True)


def _table(rows: list[Row]) -> Table:
    from statistics import median

    from rich.table import Table

    from hmmemu.report import duration

    table = Table(box=None, pad_edge=False, header_style="bold")
    between = any(row.memory["pages_between_devices"] for row in rows)
    table.add_column("workload")
    table.add_column("result")
    for heading in ("kernel time", "launches", "pages to device", "pages to host"):
        table.add_column(heading, justify="right", max_width=10)
    if between:
        table.add_column("pages between devices", justify="right", max_width=10)
    for heading in ("CPU faults", "device faults"):
        table.add_column(heading, justify="right", max_width=7)
    for row in rows:
        time = duration(median(o.kernel_seconds for o in row.outcomes)) if row.outcomes else "-"
        launches = str(sum(o.launches for o in row.outcomes)) if row.outcomes else "-"
        counts = [f"{n:,}" for key, n in row.memory.items() if between or "between" not in key]
        table.add_row(row.name, _result(row), time, launches, *counts)
    return table


def _result(row: Row) -> str:
    if row.error:
        return "[red]✗ failed[/red]"
    return "[green]✓ verified[/green]" if row.verified else "[red]✗ wrong[/red]"


def _list_table() -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("workload")
    table.add_column("access pattern")
    for name, workload in WORKLOADS.items():
        table.add_row(name, workload.pattern)
    return table
