"""Builds the stand-in for libcuda.so.1 (libcuda.cpp), and modules for it, once each, by content."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def build(source: str, what: str) -> Path:
    """A shared object from C++ text; the same file for the same text."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    target = Path(tempfile.gettempdir()) / f"hmmemu-test-{what}-{digest}.so"
    if not target.exists():
        fresh = target.with_suffix(f".{os.getpid()}")
        command = ["c++", "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
        subprocess.run([*command, "-x", "c++", "-", "-o", fresh, "-ldl"], input=source, text=True, check=True)
        fresh.rename(target)
    return target


def library() -> Path:
    """The stand-in, to be named by HMMEMU_LIBCUDA."""
    return build((HERE / "libcuda.cpp").read_text(), "libcuda")
