"""Modules that count their atomic operations: each operation in the source gets a number, its site.

The sites are those that atomic_sites.py finds. The numbers are told at run time by the macros of
include/hmmemu/cuda/atomic_log.h, which do not touch names, types or overloads. Numbers follow the positions in the
preprocessed source, so that whoever has that can tell them again (`numbered_sites`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hmmemu.compiler.atomic_sites import Found, atomic_sites
from hmmemu.compiler.options import parse_options
from hmmemu.compiler.overloads import inside
from hmmemu.compiler.parse import Node, Source, parse, text, walk
from hmmemu.compiler.preprocess import preprocess
from hmmemu.compiler.rewrite import Edits
from hmmemu.compiler.toolchain import find_compiler

_KINDS = ("call_expression", "update_expression", "assignment_expression")
Numbers = dict[tuple[int, int], int]


def _numbers(found: Iterable[Found]) -> Numbers:
    """The number of each site, by its first byte and its end in the preprocessed source; from 1."""
    return {place: 1 + i for i, place in enumerate(sorted({(one.at, one.end) for one in found}))}


def numbered_sites(
    code: str, filename: str | None, options: Sequence[str], name_expressions: Sequence[str]
) -> list[tuple[int, Found]]:
    """The atomic operations of a source that was compiled to count them, each with its number; arguments as then."""
    prepared = preprocess(code, filename or "kernel.cu", parse_options(options), find_compiler())
    found = atomic_sites(parse(prepared), name_expressions)
    number = _numbers(found)
    return [(number[one.at, one.end], one) for one in found]


def add_counting(source: Source, name_expressions: Sequence[str], edits: Edits) -> None:
    """Makes every atomic operation tell its number."""
    wanted = _numbers(atomic_sites(source, name_expressions))
    nodes = {(n.start_byte, n.end_byte): n for n in walk(source.root) if n.type in _KINDS}
    for place, number in sorted(
        wanted.items(), key=lambda item: (item[0][0], -item[0][1])
    ):  # outer ones first
        node = nodes[place]
        if node.type == "call_expression":
            _call(node, number, edits)
        else:
            _operator(node, number, edits)


def _call(node: Node, number: int, edits: Edits) -> None:
    function = node.child_by_field_name("function")
    assert function is not None  # it was found by its function's name
    if inside(function).type != "field_expression":
        edits.replace(function.start_byte, function.end_byte, f"HMM_AT({number}, {text(function)})")
        return
    function = inside(function)
    instance, field = function.child_by_field_name("argument"), function.child_by_field_name("field")
    assert instance is not None and field is not None
    sign = next(c.type for c in function.children if c.type in (".", "->"))
    between = _breaks(instance.end_byte, field.end_byte, node)
    edits.insert(instance.start_byte, f"HMM_AT_METHOD({number}, {sign}{text(field)})(")
    edits.replace(instance.end_byte, field.end_byte, ")" + between)


def _breaks(start: int, end: int, node: Node) -> str:
    """The line breaks of a range within a node, which edits must keep."""
    inside = (node.text or b"")[start - node.start_byte : end - node.start_byte]
    return "\n" * inside.count(b"\n")


def _operator(node: Node, number: int, edits: Edits) -> None:
    """`x += y`, `++x`, `x++`; operands stay where they are."""
    instance = node.child_by_field_name("argument") or node.child_by_field_name("left")
    assert instance is not None
    sign = next(c for c in node.children if not c.is_named)
    if node.type == "assignment_expression":
        edits.insert(node.start_byte, f"HMM_AT_BINARY({number}, {sign.type})(")
        edits.replace(sign.start_byte, sign.end_byte, ")(")
        edits.insert(node.end_byte, ")")
    elif sign.start_byte < instance.start_byte:
        edits.replace(sign.start_byte, sign.end_byte, f"HMM_AT_PREFIX({number}, {sign.type})(")
        edits.insert(node.end_byte, ")")
    else:
        edits.insert(node.start_byte, f"HMM_AT_POSTFIX({number}, {sign.type})(")
        edits.replace(sign.start_byte, sign.end_byte, ")")


__all__ = ["add_counting", "numbered_sites"]
