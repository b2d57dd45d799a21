"""Finds the C++ compiler that kernels are built with.

Order: `$CXX`, then c++, g++, clang++ on the PATH, then the `ziglang` package (`python -m ziglang c++`). The first that
answers `--version` is taken. Nothing is cached across processes; within one, by the value of $CXX and $PATH.
"""

from __future__ import annotations

import errno
import functools
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace

from hmmemu.errors import NoCompilerError

_HOW_TO_GET_ONE = (
    "kernels need a C++17 compiler: install the distribution's package (Debian and Ubuntu: apt-get install g++; "
    "Fedora: dnf install gcc-c++), or pip install ziglang, or set CXX to the compiler's path"
)
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


@dataclass(frozen=True)
class Toolchain:
    """A C++ compiler: the command that starts it, what it says it is, and why it was chosen."""

    command: tuple[str, ...]
    version: str
    why: str
    family: str  # "gcc" or "clang"

    @property
    def path(self) -> str:
        """The program; for the `ziglang` package, the Python that runs it."""
        return self.command[0]


def find_compiler() -> Toolchain:
    """The compiler in use. Raises NoCompilerError, whose message says how to get one, or why it does not start."""
    return _find(os.environ.get("CXX", ""), os.environ.get("PATH", ""))


@functools.lru_cache(maxsize=8)
def _find(cxx: str, path: str) -> Toolchain:
    tried: list[str] = []
    for command, why in _candidates(cxx, path):
        found = _probe(command, why)
        if found is not None:
            return replace(found, why=f"{found.why}; CXX={cxx} does not run") if cxx and tried else found
        tried.append(shlex.join(command))
    looked = f" (tried: {', '.join(tried)})" if tried else ""
    raise NoCompilerError(f"no C++ compiler found{looked}; {_HOW_TO_GET_ONE}")


def _candidates(cxx: str, path: str) -> list[tuple[tuple[str, ...], str]]:
    found: list[tuple[tuple[str, ...], str]] = []
    if cxx.strip():
        found.append((tuple(shlex.split(cxx)), "named by the environment variable CXX"))
    for name in ("c++", "g++", "clang++"):
        where = shutil.which(name, path=path)
        if where:
            found.append(((where,), f"{name}, first on PATH"))
    if importlib.util.find_spec("ziglang") is not None:
        found.append(((sys.executable, "-m", "ziglang", "c++"), "the ziglang package; no compiler on PATH"))
    return found


def _probe(command: tuple[str, ...], why: str) -> Toolchain | None:
    try:
        answer = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    except OSError as error:
        if error.errno in _SHORTAGES:  # that says nothing about the compiler
            raise NoCompilerError(
                f"the C++ compiler {shlex.join(command)} cannot be started: {error}"
            ) from None
        return None
    if answer.returncode != 0 or not answer.stdout.strip():
        return None
    version = answer.stdout.splitlines()[0].strip()
    family = "clang" if "clang" in answer.stdout.lower() else "gcc"
    return Toolchain(command, version, why, family)
