"""From CUDA C++ source to a shared object: preprocess, parse, analyse, rewrite, compile, keep."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hmmemu.compiler import cache
from hmmemu.compiler.analysis import Analysis, analyse
from hmmemu.compiler.checks import check
from hmmemu.compiler.counting import add_counting
from hmmemu.compiler.diagnostics import clean
from hmmemu.compiler.fission import fission
from hmmemu.compiler.options import CompilerOptions, parse_options
from hmmemu.compiler.parse import Node, Source, parse
from hmmemu.compiler.preprocess import INCLUDE, escape, preprocess
from hmmemu.compiler.rewrite import Rewritten, rewrite
from hmmemu.compiler.tables import add_launch_bounds, tables, tags
from hmmemu.compiler.toolchain import Toolchain, find_compiler
from hmmemu.errors import CompileError

_FLAGS = [
    "-O3",
    "-march=native",
    "-fPIC",
    "-shared",
    "-w",
    "-Wno-narrowing",  # an error otherwise, which nvcc does not make of it
    "-fvisibility=hidden",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-threadsafe-statics",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ftls-model=initial-exec",
    "-fno-stack-protector",
    "-fstack-clash-protection",  # a frame must not step over the guard page below a fiber's stack
]
_FLAGS_X86 = ["-mno-red-zone", "-fcf-protection=none"]
# A lane may pass a variable to a shuffle that only the leader has set. nvcc lets it; clang would conclude that every
# lane is the leader, unless all variables have a value.
_FLAGS_CLANG = ["-ftrivial-auto-var-init=pattern"]
_SECONDS = 600


@dataclass(frozen=True)
class Compiled:
    """A compiled module: the shared object, and the key under which the cache keeps it.

    `source_key` is the same for a module that counts its atomic operations and for the one that does not: they have
    the same variables.
    """

    path: Path
    key: str
    source_key: str

    @property
    def counts(self) -> bool:
        """Whether it counts its atomic operations."""
        return self.key != self.source_key


def compile_module(
    code: str,
    *,
    filename: str | None = None,
    options: Sequence[str] = (),
    name_expressions: Sequence[str] = (),
    counting: bool = False,
) -> Compiled:
    """Compiles CUDA C++ source for this machine's CPU, or finds it in the cache.

    With `counting` its atomic operations are counted while it runs (counting.py). `options` are NVRTC's;
    `name_expressions` name the template instances wanted. Raises CompileError with the user's own file name and lines,
    NoCompilerError.
    """
    if not isinstance(code, str):
        raise CompileError(f"kernel source must be a string, not {type(code).__name__}")
    tools, wanted = find_compiler(), parse_options(options)
    name = filename or "kernel.cu"
    prepared: str | None = None
    if re.search(r"^\s*#\s*include", code, re.MULTILINE) or "-include" in wanted.preprocessor:
        prepared = preprocess(code, name, wanted, tools)  # the headers' text is part of what is compiled
    flags = [*_flags(tools, wanted), *_folders(name, wanted)]
    parts = [
        prepared,
        code,
        name,
        flags,
        wanted.preprocessor,
        list(name_expressions),
        list(tools.command),
        tools.version,
    ]
    source_key = cache.key(*parts)
    key = cache.key(*parts, "counting") if counting else source_key

    def build(target: Path) -> None:
        ready = prepared if prepared is not None else preprocess(code, name, wanted, tools)
        text = translate(ready, name, name_expressions, counting=counting)
        plain = translate(ready, name, name_expressions, pieces=False, counting=counting)
        try:
            _compile(text, code, name, flags, tools, target)
        except CompileError:
            # A mistake of the user's is told from the text that is nearest to theirs. If that one compiles, the mistake
            # was ours, in a block function: kernels then run as fibers or plain loops.
            if plain == text:
                raise
            _compile(plain, code, name, flags, tools, target)

    return Compiled(cache.get_or_build(key, build), key, source_key)


def translate(
    prepared: str,
    filename: str,
    name_expressions: Sequence[str] = (),
    *,
    pieces: bool = True,
    counting: bool = False,
) -> str:
    """The C++ text that is compiled, from preprocessed source.

    With block functions (fission.py) if `pieces`, with counted atomic operations (counting.py) if `counting`.
    """
    source = parse(prepared)
    check(source)
    analysis = analyse(source, name_expressions)
    rewritten = rewrite(analysis)
    add_launch_bounds(analysis, rewritten)
    if counting:
        add_counting(source, name_expressions, rewritten.edits)
    if pieces:
        _add_block_functions(analysis, rewritten)
    body = rewritten.edits.apply(analysis.source.text)
    head = '#include "hmmemu/runtime.h"\n' + tags(analysis)
    if counting:
        head = "#define HMM_ATOMIC_REPORT 1\n" + head
    if _has_private_arrays(analysis.source):
        head = "#define HMM_NO_IVDEP 1\n" + head
    return f'{head}\n# 1 "{escape(filename)}"\n{body}\n{tables(analysis, rewritten, name_expressions)}'


def _add_block_functions(analysis: Analysis, rewritten: Rewritten) -> None:
    """Gives kernels that can be cut at their barriers the second function that does it, after the first."""
    for kernel in list(analysis.ways):
        made = fission(analysis, kernel, rewritten.edits)
        if made is not None:
            line, name = analysis.source.line(kernel.node.end_byte)
            rewritten.edits.insert(kernel.node.end_byte, f'\n{made}\n# {line} "{name}"\n')
            analysis.ways[kernel] = "HMM_WAY_FISSION"


def _flags(tools: Toolchain, wanted: CompilerOptions) -> list[str]:
    # The user's macros are expanded by now; these are the prelude's. `zig c++ -O3` defines NDEBUG unasked.
    ours = [
        word for word in wanted.preprocessor if re.fullmatch(r"-[DU](NDEBUG|HMMEMU_STRICT_MATH)(=.*)?", word)
    ]
    flags = [*_FLAGS, *wanted.code, "-UNDEBUG", *ours]
    if tools.family == "clang" and _has_libmvec() and "-DHMMEMU_STRICT_MATH" not in ours:
        flags.append(
            "-fveclib=libmvec"
        )  # g++ knows the vector versions from their declarations (cuda/libm.h)
    if tools.family == "clang":
        flags += _FLAGS_CLANG
    if platform.machine() in ("x86_64", "AMD64"):
        flags += _FLAGS_X86
    return flags


def _folders(name: str, wanted: CompilerOptions) -> list[str]:
    """System headers are read once more, with what they include: a user's may say `#pragma GCC system_header`."""
    own = [os.path.dirname(name) or ".", *(w[2:] for w in wanted.preprocessor if w.startswith("-I"))]
    return [word for folder in own for word in ("-idirafter", folder)]


def _has_private_arrays(source: Source) -> bool:
    """Whether some array may be private to a thread: declared anywhere but in shared or device memory."""
    placed = {v.node.id for v in source.variables}

    def private(node: Node) -> bool:
        if node.id in placed or node.type.endswith("parameter_declaration"):
            return False
        return node.type == "array_declarator" or any(private(child) for child in node.children)

    return private(source.root) or re.search(rb"\barray\s*<", source.masked) is not None


def _compile(text: str, code: str, name: str, flags: list[str], tools: Toolchain, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="hmmemu-") as folder:
        source = Path(folder) / "module.cpp"
        source.write_text(text, encoding="utf-8")
        words = [
            *tools.command,
            *flags,
            "-I",
            str(INCLUDE),
            "-isystem",
            str(INCLUDE / "stub"),
            "-o",
            str(target),
            str(source),
        ]
        words += _libraries()
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, errors="replace", timeout=_SECONDS, env=_environment()
            )
        except subprocess.TimeoutExpired:
            raise CompileError(f"{name}: the C++ compiler did not finish within {_SECONDS} seconds") from None
        if done.returncode != 0:
            raise CompileError(clean(done.stderr, code, name, ""))
        os.chmod(target, 0o755)


def _environment() -> dict[str, str]:
    """English messages, in plain quotes."""
    return {**os.environ, "LC_ALL": "C"}


def _has_libmvec() -> bool:
    """Whether the C library has vector versions of its mathematics: glibc on x86-64."""
    return platform.libc_ver()[0] == "glibc" and platform.machine() == "x86_64"


def _libraries() -> list[str]:
    return ["-Wl,--as-needed", "-lmvec", "-lm"] if _has_libmvec() else ["-lm"]
