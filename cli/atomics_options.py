"""Options of `hmmemu run` that are about atomics: the link, the fallback, and the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hmmemu.errors import ArgumentError

if TYPE_CHECKING:
    from hmmemu.link import Link

F = TypeVar("F", bound=Callable[..., Any])
FALLBACKS = ("migrate", "exclusive", "cas-loop", "fault", "silent")


def find_link(name: str, hint: str = "--link") -> Link:
    """A link by name or file; bad usage if there is none."""
    from hmmemu.link_names import find_link

    try:
        return find_link(name)
    except ArgumentError as error:
        raise click.BadParameter(str(error), param_hint=hint) from error


def atomics_options(command: F) -> F:
    """Adds --link, --fallback and --atomics-report: parameters link, fallback, atomics_report."""
    options = [
        click.option(
            "--link",
            callback=lambda context, parameter, name: name and find_link(name),
            help="Which atomics the link to the CPU carries: a profile (hmmemu atomics), a .toml file, or gpu.  "
            "[default: a GPU's own, or pcie4]",
        ),
        click.option(
            "--fallback",
            type=click.Choice(FALLBACKS),
            default="migrate",
            show_default=True,
            help="What is done with atomic operations that the link lacks.",
        ),
        click.option(
            "--atomics-report",
            is_flag=True,
            help="Count the atomic operations, with what they would do on other links; kernels run slower.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command
