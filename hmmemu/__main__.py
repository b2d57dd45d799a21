"""`python -m hmmemu` is `hmmemu`."""

from importlib import import_module

if __name__ == "__main__":
    import_module("hmmemu.cli").main(prog_name="hmmemu")
