"""`hmmemu doctor`: what this machine can do, which parts are in use and why, and what to install or set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hmmemu.cli.output import console, json_option, write_json

if TYPE_CHECKING:
    from rich.table import Table

    from hmmemu.cli.checks import Check


@click.command()
@click.option("--gpu", "probes", is_flag=True, help="Also try on each GPU what hmmemu assumes of its driver.")
@json_option
def doctor(json_file: str | None, probes: bool) -> None:
    """Show what this machine can do, what is in use, and why.

    Also says what to install or set where something is missing.

    The exit status is 0 if kernels can run here on shared memory, on whatever device.
    """
    from hmmemu.cli import checks

    found = checks.all_checks() + (checks.probe_checks() if probes else [])
    out = console(json_file)
    out.print(_table(found))
    able = all(check.ok for check in found if check.needed)
    advice = [check for check in found if check.advice]
    if advice:
        out.print("\nWhat would help:", style="bold")
    for check in advice:
        out.print(f"  {check.name}: {check.advice}", markup=False, soft_wrap=True)
    words = "Kernels can run here." if able else "Kernels cannot run here: see the lines marked ✗ above."
    out.print(f"\n{words}", style="green" if able else "red")
    write_json(json_file, {"command": "doctor", "able": able, "checks": [check.to_dict() for check in found]})
    if not able:
        click.get_current_context().exit(1)


def _table(found: list[Check]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("")
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    topic = ""
    for check in found:
        if check.topic != topic:
            topic = check.topic
            table.add_row("", f"[bold]{escape(topic)}[/bold]", "")
        table.add_row(_mark(check), escape(check.name), escape(check.value))
    return table


def _mark(check: Check) -> str:
    """✓ right, ✗ something to be done, – not there and not needed."""
    if check.ok:
        return "[green]✓[/green]"
    if check.needed:
        return "[red]✗[/red]"
    return "[yellow]✗[/yellow]" if check.advice else "–"
