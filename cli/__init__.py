"""The command line: `hmmemu run`, `hmmemu doctor`, `hmmemu atomics`, `hmmemu bench`. One click command a file.

Only click is imported until a command needs more, so that `hmmemu --help` answers at once.
"""

from hmmemu.cli.group import main

__all__ = ["main"]
