"""What the C++ compiler said, in the user's terms: their file, their lines, none of our names.

The compiler sees rewritten text, so its columns and its excerpts are dropped; excerpts are made again from the source
as the user wrote it.
"""

from __future__ import annotations

import re

from hmmemu.compiler.hints import hints

_MESSAGE = re.compile(
    r"^(?P<file>[^\n:]*?):(?P<line>\d+):(?:(?P<column>\d+):)? (?P<kind>(?:fatal )?error|warning|note): (?P<text>.*)$"
)
_OURS = re.compile(
    r"hmmemu/(?:runtime|cuda|abi|compiler(?!/include/source))|/include/(?:hmmemu|stub)/|<tables>|<built-in>|<command-line>"
)
_REWRITES = (
    (re.compile(r"(?:const )?hmm_ctx ?&(?: hmm_c)?,? ?"), ""),
    (re.compile(r"hmm_c, ?"), ""),
    (re.compile(r"hmm_(?:t|v|init)_(\w+)"), r"\1"),
    (re.compile(r"hmm_c\.(\w+)"), r"\1"),
    (re.compile(r"; did you mean '[^']*hmm_[^']*'\?"), ""),
)
_PLENTY = 20
_EXPRESSION = "name expression "  # what tables.py calls the place where a template is instantiated


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
        if _OURS.search(found["file"]) or (
            "'auto'" in found["text"] and found["file"].startswith(_EXPRESSION)
        ):
            continue
        key = (found["file"], found["line"], found["text"])
        if key in seen:
            continue
        seen.add(key)
        message = _one(found, lines, filename)
        errors += bool(message) and found["kind"] != "note"
        if errors > _PLENTY:
            told.append("(more errors follow)")
            break
        told += message
    if not errors:
        told = _unclosed(raw, lines, filename) or [
            _plain(line) for line in raw.splitlines()[:_PLENTY] if line.strip()
        ]
    head = f"{filename}: the C++ compiler refused {kernel or 'the source'}:"
    return "\n".join([head, *told, *hints("\n".join(told))])


def _unclosed(raw: str, lines: list[str], filename: str) -> list[str]:
    """A brace that is never closed is noticed in the text that follows the source; a note tells where it began."""
    found = [
        m for line in raw.splitlines() if (m := _MESSAGE.match(line)) and "to match this '{'" in m["text"]
    ]
    if not found:
        return []
    message = "the '{' that begins here is not closed"
    return _excerpt(found[-1], f"{found[-1]['file']}:{found[-1]['line']}: error: {message}", lines, filename)


def _one(found: re.Match[str], lines: list[str], filename: str) -> list[str]:
    """A message's lines; none for one about our own names that explains nothing."""
    message = _plain(found["text"])
    if found["file"].startswith(_EXPRESSION) and "hmm_describe" in message:
        asked = found["file"].removeprefix(_EXPRESSION)
        return [
            f"error: the name expression {asked} fits no kernel: number or kind of its template arguments differ"
        ]
    if "call to 'hmm_shared" in message:
        message = "the compiler does not know the size of this __shared__ variable"
    if "hmm_" in message or ("'auto'" in message and found["file"].startswith(_EXPRESSION)):
        return []
    return _excerpt(found, f"{found['file']}:{found['line']}: {found['kind']}: {message}", lines, filename)


def _excerpt(found: re.Match[str], message: str, lines: list[str], filename: str) -> list[str]:
    text = [message]
    number = int(found["line"])
    if found["file"] == filename and 0 < number <= len(lines) and lines[number - 1].strip():
        text.append(f"    {lines[number - 1].rstrip()}")
    return text


def _plain(text: str) -> str:
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text
