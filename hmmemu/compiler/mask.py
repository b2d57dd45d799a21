"""CUDA's keywords, taken out before the parse.

What is left is C++ of the same length: keywords and attributes become spaces, so every position in the parse tree is
a position in the text. The keywords come back as marks, which the parser gives to the declarations they stand in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SIMPLE = (
    "__global__|__device__|__host__|__shared__|__constant__|__managed__|__grid_constant__|__forceinline__|__noinline__"
    "|__inline__|__restrict__|__restrict|__extension__"
)
_WITH_ARGUMENT = (
    "__launch_bounds__|__maxnreg__|__cluster_dims__|__block_size__|__align__|__builtin_align__|__attribute__|__attribute"
    "|alignas"
)
_TOKEN = re.compile(
    rb"^[ \t]*#[^\n]*"  # line markers and pragmas
    rb'|(?:u8|[uUL])?R"(?P<delimiter>[^()\\\s]{0,16})\((?s:.*?)\)(?P=delimiter)"'
    rb'|"(?:\\.|[^"\\\n])*"'
    rb"|\b\d(?:'?[\w.])*"
    rb"|'(?:\\.|[^'\\\n])*'"
    rb"|\b(?P<argument>" + _WITH_ARGUMENT.encode() + rb")\s*\("
    rb"|\b(?P<simple>" + _SIMPLE.encode() + rb")\b",
    re.MULTILINE,
)
_PAREN = re.compile(rb"[()]")


@dataclass(frozen=True)
class Mark:
    """A keyword at [start, end), its argument's text included."""

    start: int
    end: int
    keyword: str
    argument: str


def mask(text: bytes) -> tuple[bytes, list[Mark]]:
    """The text with keywords, attributes, pragmas and line markers blanked; and the keywords."""
    marks: list[Mark] = []
    out = bytearray(text)
    at = 0
    while found := _TOKEN.search(text, at):
        at = found.end()
        if text[found.start() : found.end()].lstrip().startswith(b"#"):
            _blank(out, found.start(), at)
        elif found["simple"]:
            marks.append(Mark(found.start(), at, found["simple"].decode(), ""))
            _blank(out, found.start(), at)
        elif found["argument"]:
            end = _closing(text, at)
            argument = text[at : end - 1].decode(errors="replace").strip()
            marks.append(Mark(found.start(), end, found["argument"].decode(), argument))
            _blank(out, found.start(), end)
            at = end
    return bytes(out), marks


def _blank(out: bytearray, start: int, end: int) -> None:
    for i in range(start, end):
        if out[i] != 0x0A:
            out[i] = 0x20


def _closing(text: bytes, at: int) -> int:
    """The position after the parenthesis that closes one opened before `at`."""
    depth = 1
    for found in _PAREN.finditer(text, at):
        depth += 1 if found[0] == b"(" else -1
        if depth == 0:
            return found.end()
    return len(text)
