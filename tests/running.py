"""Runs a piece of Python as a program of its own, away from the source tree."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap


def run_python(code: str, *before: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """`before` are words to put before the interpreter, such as ("prlimit", "--as=...")."""
    command = [*before, sys.executable, "-c", textwrap.dedent(code)]
    with tempfile.TemporaryDirectory() as elsewhere:
        os.chmod(elsewhere, 0o755)  # for programs that run as another user
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, cwd=elsewhere
        )
