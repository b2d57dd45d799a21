"""The group of commands, and what every one of them does with errors.

Exit status: 0 all is well and every result was verified; 1 something failed or a result was wrong; 2 the
command line was wrong; 130 stopped by Ctrl-C. An hmmemu error is one line on stderr; HMMEMU_TRACEBACK=1 shows
where it came from.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

from hmmemu._version import __version__
from hmmemu.cli.atomics import atomics
from hmmemu.cli.bench import bench
from hmmemu.cli.doctor import doctor
from hmmemu.cli.run import run
from hmmemu.errors import Error, FallbackWarning

FAILED, INTERRUPTED = 1, 130


_IN_ASCII = "hmmemu-ascii"  # the name of an error handler of Python's encoders
_SIGNS = {"✓": "+", "✗": "x", "–": "-"}


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Another sign for one that the terminal's encoding lacks; ✓ and ✗ stay different."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(_SIGNS.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error(_IN_ASCII, _in_ascii)


class Commands(click.Group):
    """A click group that turns hmmemu's errors and Ctrl-C into one line and an exit status."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """As click's; in standalone mode it ends the program with the exit status described above."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show is no reason to fail
                stream.reconfigure(errors=_IN_ASCII)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FallbackWarning)  # the commands say themselves what is in use
                status = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.ClickException as error:
            error.show()
            status = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            click.echo("hmmemu: interrupted", err=True)
            status = INTERRUPTED
        except (Error, OSError) as error:  # OSError: a full disk, too many open files
            if traceback_wanted():
                raise
            click.echo(f"hmmemu: error: {error}", err=True)
            status = FAILED
        sys.exit(status if isinstance(status, int) else 0)


def traceback_wanted() -> bool:
    """Whether the user asked for tracebacks (HMMEMU_TRACEBACK set, and not to 0)."""
    return os.environ.get("HMMEMU_TRACEBACK", "0") not in ("", "0")


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"hmmemu {__version__}")
        ctx.exit()


@click.group(
    cls=Commands,
    commands=[run, doctor, atomics, bench],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="HMMEMU_TRACEBACK=1 shows the traceback of an error.",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version."
)
def main() -> None:
    """One coherent memory for a CPU and its GPUs; CUDA kernels with or without a GPU."""
