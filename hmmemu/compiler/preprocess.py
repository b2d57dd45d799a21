"""The first step: the C preprocessor, so that the parser sees plain C++.

Macros, conditionals and the user's own headers are resolved here, by the preprocessor that compiles the kernel later.
System headers and our stand-ins for CUDA's headers (include/stub) stay `#include` lines; those that are CUDA C++
themselves (include/source) are taken like the user's. CUDA's keywords are not yet macros. Line markers (`# 12 "file"`)
keep every later message on the user's own lines.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from hmmemu.compiler.diagnostics import clean
from hmmemu.compiler.options import CompilerOptions
from hmmemu.compiler.toolchain import Toolchain
from hmmemu.errors import CompileError

INCLUDE = Path(__file__).parent / "include"

# As NVRTC defines them; cuda/attributes.h has the same values for the compiler proper.
DEFINITIONS = (
    "-D__CUDACC__=1",
    "-D__CUDACC_RTC__=1",
    "-D__CUDACC_VER_MAJOR__=12",
    "-D__CUDACC_VER_MINOR__=4",
    "-D__CUDACC_VER_BUILD__=0",
    "-DCUDART_VERSION=12040",
    "-D__CUDA_ARCH__=750",
    "-D__HMMEMU__=1",
    "-UNDEBUG",
)
_MARKER = re.compile(r'# (\d+) "((?:[^"\\]|\\.)*)"([ \d]*)$')
_SYSTEM = "3"
_SECONDS = 300


def preprocess(code: str, filename: str, options: CompilerOptions, tools: Toolchain) -> str:
    """The source with macros and the user's headers expanded. Raises CompileError."""
    words = [*tools.command, "-x", "c++", "-E", "-dI", "-w", f"-std={options.standard}", *DEFINITIONS]
    folder = os.path.dirname(filename) or "."
    words += [*options.preprocessor, "-iquote", folder, f"-I{INCLUDE / 'source'}"]
    words += ["-isystem", str(INCLUDE / "stub"), "-"]
    text = f'# 1 "{escape(filename)}"\n{code}\n'
    try:
        done = subprocess.run(words, input=text.encode(), capture_output=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise CompileError(f"{filename}: the preprocessor did not finish within {_SECONDS} seconds") from None
    if done.returncode != 0:
        raise CompileError(clean(done.stderr.decode(errors="replace"), code, filename, ""))
    return _without_system_text(
        done.stdout.decode(errors="replace")
    )  # as of sources: comments in other encodings


def escape(filename: str) -> str:
    """A file name as it stands in a line marker."""
    return filename.replace("\\", "\\\\").replace('"', '\\"')


def _without_system_text(text: str) -> str:
    """Drops what system headers expanded to, and keeps the #include lines that brought it.

    A marker with the system flag but the user's own file stands before tokens that a system header's macro (M_PI)
    gave in the user's text: those stay.
    """
    kept: list[str] = []
    own_files: set[str] = set()
    inside_system = False
    pending: str | None = None  # an #include line whose file is not known yet
    for line in text.split("\n"):
        marker = _MARKER.match(line)
        if marker:
            flags = marker[3].split()
            name = marker[2]
            inside_system = (_SYSTEM in flags or name.startswith("<")) and name not in own_files
            if not inside_system:
                own_files.add(name)
            if inside_system and "1" in flags and pending is not None:
                kept.append(pending)
            if "1" in flags:
                pending = None
            if not inside_system:
                kept.append(f'# {marker[1]} "{name}"')
        elif not inside_system:
            if re.match(r"#\s*include\b", line):
                pending = line
                kept.append("")  # no marker follows where the file is skipped (#pragma once)
            else:
                kept.append(line)
    return "\n".join(kept)
