"""`python -m hmmemu.cli` is `hmmemu`."""

from hmmemu.cli.group import main

main(prog_name="hmmemu")
