"""What the C++ compiler said, in the user's terms: their file, their lines, none of our names.

The compiler sees rewritten text, so its columns and its excerpts are dropped; excerpts are made again from the source
as the user wrote it.
"""

from __future__ import annotations

import re

_MESSAGE = re.compile(
    r"^(?P<file>[^\n:]*?):(?P<line>\d+):(?:(?P<column>\d+):)? (?P<kind>(?:fatal )?error|warning|note): (?P<text>.*)$"
)
_OURS = re.compile(
    r"hmmemu/(?:runtime|cuda|abi|compiler)|/include/(?:hmmemu|stub)/|<tables>|<built-in>|<command-line>"
)
_REWRITES = (
    (re.compile(r"(?:const )?hmm_ctx ?&(?: hmm_c)?,? ?"), ""),
    (re.compile(r"hmm_c, ?"), ""),
    (re.compile(r"hmm_(?:t|v|init)_(\w+)"), r"\1"),
    (re.compile(r"hmm_c\.(\w+)"), r"\1"),
)
_PLENTY = 20


def clean(raw: str, code: str, filename: str, kernel: str) -> str:
    """One text for the user from the compiler's output: errors with lines, the line itself below each."""
    lines = code.splitlines()
    told: list[str] = []
    seen: set[tuple[str, str, str]] = set()
    errors = 0
    for line in raw.splitlines():
        found = _MESSAGE.match(line)
        if not found or found["kind"] == "warning":
            continue
        if _OURS.search(found["file"]):
            continue
        key = (found["file"], found["line"], found["text"])
        if key in seen:
            continue
        seen.add(key)
        errors += found["kind"] != "note"
        if errors > _PLENTY:
            told.append("(more errors follow)")
            break
        told += _one(found, lines, filename)
    if not errors:
        told = [_plain(line) for line in raw.splitlines()[:_PLENTY] if line.strip()]
    head = f"{filename}: the C++ compiler refused {kernel or 'the source'}:"
    return "\n".join([head, *told])


def _one(found: re.Match[str], lines: list[str], filename: str) -> list[str]:
    text = [f"{found['file']}:{found['line']}: {found['kind']}: {_plain(found['text'])}"]
    number = int(found["line"])
    if found["file"] == filename and 0 < number <= len(lines) and lines[number - 1].strip():
        text.append(f"    {lines[number - 1].rstrip()}")
    return text


def _plain(text: str) -> str:
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text
