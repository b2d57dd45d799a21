"""`hmmemu bench`: measurements, each as ratios within one run."""

from __future__ import annotations

import click

from hmmemu.cli.output import LateProgress, console, json_option, write_json


@click.command()
@click.argument("name", required=False)
@click.option("--quick", is_flag=True, help="Fewer and smaller measurements: seconds, not minutes.")
@click.option(
    "--bytes", "size", type=click.IntRange(min=1), help="Size of the arrays that `dirty` and `gpu` measure."
)
@json_option
def bench(name: str | None, quick: bool, size: int | None, json_file: str | None) -> None:
    """Measure NAME beside its yardstick.

    Without NAME the benches are listed.
    """
    from hmmemu.bench import BENCHES, question, takes_size

    if name is None:
        for each in BENCHES:
            click.echo(f"{each:10} {question(each)}")
        return
    if name not in BENCHES:
        names = ", ".join(BENCHES)
        raise click.BadParameter(f"there is no bench {name!r}; choose one of {names}", param_hint="NAME")
    if size is not None and not takes_size(name):
        raise click.BadParameter(f"the bench {name!r} has sizes of its own", param_hint="--bytes")
    with LateProgress(f"bench {name}", None):
        result = BENCHES[name].run(quick, *(() if size is None else (size,)))
    console(json_file).print(result.table())
    write_json(json_file, {"command": "bench", "name": name, "quick": quick, "result": result.to_dict()})
