"""NVRTC's and CuPy's compiler options, as options of the host's C++ compiler.

Every option is passed on, deliberately ignored because it means nothing on a CPU, or refused with a CompileError that
names it: none is lost silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hmmemu.errors import CompileError

# Options about the GPU's code, its debugging information and messages. Nothing to do on a CPU.
_IGNORED = re.compile(
    r"-{1,2}(?:gpu-architecture|arch|gpu-code|code|generate-code|gencode|maxrregcount|rdc|relocatable-device-code|ftz|prec-div|prec-sqrt"
    r"|ptxas-options|Xptxas|dopt|device-as-default-execution-space|default-device"
    r"|extra-device-vectorization|restrict|device-w|dw|device-c|dc|disable-warnings|w|display-error-number|err-no|no-display-error-number"
    r"|no-err-no|diag-error|diag-suppress|diag-warn|brief-diagnostics|time|split-compile|jump-table-density|minimal|modify-stack-limit"
    r"|dlink-time-opt|dlto|gen-opt-lto|optimization-info|version-ident|builtin-move-forward|builtin-initializer-list|no-source-include"
    r"|fdevice-syntax-only|device-int128|device-float128|pch|create-pch|use-pch|pch-dir|pch-verbose|std-default|O[0-3s]?)(?:=.*)?"
)
# Of the ignored ones, those whose value may be the next word.
_IGNORED_WITH_VALUE = re.compile(r"-{1,2}(?:gpu-architecture|arch|maxrregcount|gencode|Xptxas|ptxas-options)")
_STANDARD = re.compile(r"-{1,2}std=(?:c|gnu)\+\+(\d\w)")
_PREPROCESSOR = (
    ("-D", ("--define-macro", "-D")),
    ("-U", ("--undefine-macro", "-U")),
    ("-I", ("--include-path", "-I")),
    ("-include", ("--pre-include", "-include")),
)


@dataclass
class CompilerOptions:
    """What the options ask for: preprocessor words, and the few that change the code."""

    preprocessor: list[str] = field(default_factory=list)
    standard: str = "gnu++17"
    fmad: bool = True
    fast_math: bool = False
    lines: bool = False  # line tables, so that a fault can be given its source line

    @property
    def code(self) -> list[str]:
        """Options of the C++ compiler that follow from these."""
        words = [f"-std={self.standard}", f"-ffp-contract={'fast' if self.fmad else 'off'}"]
        if self.fast_math:
            words += ["-freciprocal-math", "-fno-signed-zeros"]
        if self.lines:
            words.append("-g1")
        return words


def parse_options(options: Sequence[str]) -> CompilerOptions:
    """Reads NVRTC-style options. Raises CompileError for one that is not known."""
    if isinstance(options, (str, bytes)):
        raise CompileError(f"options must be a tuple or list of strings, not the string {options!r}")
    result = CompilerOptions()
    words = iter([str(word) for word in options])
    for word in words:
        _take(word.strip(), words, result)
    return result


def _take(word: str, rest: Iterator[str], result: CompilerOptions) -> None:
    if not word or _preprocessor(word, rest, result):
        return
    standard = _STANDARD.fullmatch(word)
    if standard:
        # Kernels are C++17 at least: the runtime needs it.
        result.standard = (
            "gnu++" + max(standard[1].replace("0x", "11"), "17")
            if standard[1] not in ("98", "03")
            else "gnu++17"
        )
    elif word in ("--use_fast_math", "-use_fast_math"):
        result.fast_math = True
        result.preprocessor.append("-D__USE_FAST_MATH__=1")
    elif re.fullmatch(r"-{1,2}(device-debug|G|g|generate-line-info|lineinfo)", word):
        result.lines = True
    elif re.fullmatch(r"-{1,2}fmad=(true|false)", word):
        result.fmad = word.endswith("true")
    elif _IGNORED.fullmatch(word):
        if _IGNORED_WITH_VALUE.fullmatch(word):
            next(rest, None)
    else:
        raise CompileError(
            f"unknown compiler option {word!r}; understood are -D, -U, -I, -include, -std=c++NN, -fmad=true|false, "
            "--use_fast_math, and NVRTC's options about the GPU's code, which are ignored here"
        )


def _preprocessor(word: str, rest: Iterator[str], result: CompilerOptions) -> bool:
    for ours, theirs in _PREPROCESSOR:
        for name in theirs:
            if not word.startswith(name):
                continue
            value = word[len(name) :]
            if name.startswith("--") or name == "-include":
                if value and not value.startswith("="):
                    continue
                value = value[1:]
            value = (value or next(rest, "")).strip()
            if not value:
                raise CompileError(f"compiler option {word!r} needs a value")
            result.preprocessor += [ours, value] if ours == "-include" else [ours + value]
            return True
    return False
