"""Builds the stand-in for libcuda.so.1 (libcuda.cpp), and compiles kernels for it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hmmemu import compiler
from hmmemu._native import DeviceProcess
from hmmemu.compiler.preprocess import INCLUDE
from hmmemu.device import PROGRAM

HERE = Path(__file__).parent
LOADER = HERE.parent / "loader/loader.cpp"

# A GPU that has none of the addresses of arenas (native/driver/ranges.cpp).
AT_A_DISTANCE = "refuse=0x160000000000-0x2a0000000000"


def build(sources: Sequence[Path], what: str, *options: str) -> Path:
    """A shared object from C++ files; the same for the same text and options."""
    digest = hashlib.sha256(
        b"".join([*(f.read_bytes() for f in (*sources, INCLUDE / "hmmemu/abi.h")), repr(options).encode()])
    ).hexdigest()[:16]
    target = Path(tempfile.gettempdir()) / f"hmmemu-test-{what}-{digest}.so"
    if not target.exists():
        fresh = target.with_suffix(f".{os.getpid()}")
        command = [
            "c++",
            "-std=c++20",
            "-O1",
            "-Wall",
            "-Wextra",
            "-shared",
            "-fPIC",
            "-pthread",
            f"-I{INCLUDE}",
            *options,
        ]
        subprocess.run([*command, *sources, "-o", fresh, "-ldl"], check=True)
        fresh.rename(target)
    return target


def library(*options: str) -> Path:
    """The stand-in, to be named by HMMEMU_LIBCUDA."""
    return build([HERE / "libcuda.cpp", LOADER], "libcuda", *options)


def compile_module(code: str, capability: tuple[int, int], **how: Any) -> compiler.Compiled:
    """In the place of NVRTC: kernels for this machine's CPU, in a file as for a GPU (native/device/cuda/modules.cpp)."""
    compiled = compiler.compile_module(code, **how)
    target = compiled.path.with_suffix(".cuda3")
    if not target.exists():
        fresh = target.with_suffix(f".{os.getpid()}")
        fresh.write_text(_table(compiled.path, code) + f"\n{compiled.path}")
        fresh.rename(target)
    return compiler.Compiled(target, compiled.key, compiled.key)


def _table(path: Path, code: str) -> str:
    """The table of a module's kernels, as an emulated device tells it; whether it prints, as its source does."""
    import json

    process = DeviceProcess(str(PROGRAM), 0, 1, tracker="signal")
    try:
        tables = process.load(
            str(path), 0x10000, 1 << 40, False
        )  # an address for variables that nobody touches
    finally:
        process.kill()
    assert isinstance(tables, str)
    tables = json.loads(tables)
    lines = ["hmmemu-cuda 3", *(["prints"] if "printf" in code or "assert(" in code else [])]
    for g in tables["globals"]:
        lines.append(f"variable\t{g['name']}\t{g['name']}\t{int(g['constant'])}")
    for k in tables["kernels"]:
        lines.append(f"kernel\t{k['name']}\t{k['name']}\t{k['param_bytes']}")
        for p in k["params"]:
            numbers = [
                int(p[f]) for f in ("offset", "size", "kind", "is_signed", "pointee_const", "pointee_size")
            ]
            lines.append("\t".join(map(str, ("param", p["name"], p["type"], *numbers))))
    return "\n".join(lines) + "\n"
