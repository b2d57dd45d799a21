"""What the commands share for showing results: consoles, the JSON file, the late progress bar.

Tables go to stdout, everything else to stderr. With `--json -` the JSON document has stdout to itself, and
tables go to stderr.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hmmemu._version import __version__

if TYPE_CHECKING:
    from rich.console import Console

Command = TypeVar("Command", bound=Callable[..., Any])

PATIENCE_S = 2.0  # a progress bar appears for what takes longer


def _checked(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Refuses a file that could not be written later, before any work is done."""
    if value is None or value == "-":
        return value
    folder = Path(value).absolute().parent
    if Path(value).is_dir():
        raise click.BadParameter(f"{value} is a directory")
    if not folder.is_dir():
        raise click.BadParameter(f"the directory {folder} does not exist")
    if not os.access(value if Path(value).exists() else folder, os.W_OK):
        raise click.BadParameter(f"{value} cannot be written")
    return value


def json_option(command: Command) -> Command:
    """Adds `--json FILE` to a command, as the parameter `json_file`."""
    words = "Write the results as JSON; - is stdout."
    option = click.option("--json", "json_file", metavar="FILE", callback=_checked, help=words)
    return option(command)


def write_json(json_file: str | None, document: dict[str, Any]) -> None:
    """Writes `document` where `--json` said, if it was given; the file appears complete or not at all."""
    if json_file is None:
        return
    text = json.dumps(_plain({"hmmemu": __version__, **document}), indent=2, allow_nan=False) + "\n"
    if json_file == "-":
        click.echo(text, nl=False)
        return
    target = Path(json_file)
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if target.exists() and not target.is_file():  # a pipe or a terminal: there is nothing to replace
            target.write_text(text, encoding="utf-8")
        else:
            part.write_text(text, encoding="utf-8")
            part.replace(target)
    except OSError as error:  # a full disk: the error itself names no file
        part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, json_file) from error


def console(json_file: str | None = None) -> Console:
    """Where tables go. Without a terminal lines are as long as they need to be, for logs and pipes."""
    from rich.console import Console

    stream = sys.stderr if json_file == "-" else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 120, highlight=False)


class LateProgress:
    """A progress bar on stderr that appears when the work has taken two seconds; none without a terminal.

    `_lock` guards `_done`: the bar is started by a timer's thread, and must not start after the work has
    ended.
    """

    def __init__(self, description: str, total: int | None) -> None:
        """`total` steps; None where it is not known (then the bar only shows that time passes)."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
        console = Console(stderr=True)
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task(description, total=total)
        self._lock = threading.Lock()
        self._done = False
        self._timer = threading.Timer(PATIENCE_S, self._show)
        self._timer.daemon = True

    def __enter__(self) -> LateProgress:
        """Starts the clock."""
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes the bar away."""
        self._timer.cancel()
        with self._lock:
            self._done = True
            self._progress.stop()

    def step(self, description: str) -> None:
        """Says what is done now."""
        self._progress.update(self._task, description=description)

    def advance(self) -> None:
        """One more step is done."""
        self._progress.advance(self._task)

    def _show(self) -> None:
        with self._lock:
            if not self._done:
                self._progress.start()


def _plain(value: Any) -> Any:
    """`value` in JSON's types: NumPy scalars as Python's, numbers that are not finite as null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
