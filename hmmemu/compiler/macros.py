"""A C preprocessor, for looking at source on a machine without a compiler.

What is compiled goes through the compiler's own preprocessor (preprocess.py); analyses that must work everywhere,
and give the same answer everywhere, use this one. It knows all directives, `#`, `##`, variadic macros and hide sets.
Headers that are not found stay `#include` lines: they are the system's, or CUDA's, and define no kernels.

Lines stay where they are: each output line has the number that it has in the source, with markers (`# 12 "file"`) where
a file begins or goes on. One `Preprocessor` serves one source, in one thread.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hmmemu.compiler.options import CompilerOptions
from hmmemu.compiler.preprocess import DEFINITIONS, escape
from hmmemu.errors import CompileError

_COMMENT_OR_STRING = re.compile(
    r'(?P<comment>//[^\n]*|/\*.*?\*/)|(?:u8|[uUL])?R"([^()\\\s]{0,16})\(.*?\)\2"'
    r"|\"(?:\\.|[^\"\\\n])*\"|\b\d(?:'?[\w.])*|'(?:\\.|[^'\\\n])*'",
    re.DOTALL,
)
_TOKEN = re.compile(
    r'(?:u8|[uUL])?R"([^()\\\s]{0,16})\((?:.|\n)*?\)\1"|(?:u8|[uUL])?"(?:\\.|[^"\\\n])*"|(?:u8|[uUL])?\'(?:\\.|[^\'\\\n])*\''
    r"|\.?\d(?:[eEpP][+-]|'?[\w.])*|[A-Za-z_$][\w$]*|\n|[^\S\n]+|<<=|>>=|\.\.\.|->\*|##|&&|\|\||<<|>>|[<>=!+\-*/%&|^]=|->|\+\+|--|::|.",
)
_INCLUDES = 100  # files within files
_NAME = re.compile(r"[A-Za-z_$]")


@dataclass(frozen=True)
class _Token:
    text: str
    hidden: frozenset[str] = frozenset()  # macros that must not be expanded in it again

    @property
    def is_name(self) -> bool:
        return _NAME.match(self.text) is not None and self.text[-1] not in "\"'"

    @property
    def is_space(self) -> bool:
        return self.text.isspace()


@dataclass(frozen=True)
class _Macro:
    body: tuple[_Token, ...]
    parameters: tuple[str, ...] | None = None  # None: an object-like macro
    variadic: str = ""  # the name of the rest of the arguments


def expand_macros(code: str, filename: str, options: CompilerOptions) -> str:
    """Preprocessed source with line markers, as `preprocess` gives it.

    Raises CompileError, with file and line, for #error and for directives that make no sense.
    """
    return Preprocessor(options).run(code, filename)


class Preprocessor:
    """The macros and the folders of headers of one source."""

    def __init__(self, options: CompilerOptions) -> None:
        self.macros: dict[str, _Macro] = {"__cplusplus": _Macro((_Token("201703L"),))}
        self.folders: list[str] = []
        self.first: list[str] = []  # files of -include
        self.once: set[str] = set()
        self.depth = 0
        words = iter([*DEFINITIONS, *options.preprocessor])
        for word in words:
            if word == "-include":
                self.first.append(next(words))
            elif word.startswith("-D"):
                name, _, value = word[2:].partition("=")
                self._define(f"{name} {value if '=' in word else 1}", word)
            elif word.startswith("-U"):
                self.macros.pop(word[2:], None)
            elif word.startswith("-I"):
                self.folders.append(word[2:])

    def run(self, code: str, filename: str) -> str:
        """The whole source."""
        out: list[str] = []
        for name in self.first:
            self._include(f'"{name}"', filename, f"-include {name}", out)
        self._file(code, filename, out)
        return "".join(out)

    def _file(self, code: str, filename: str, out: list[str]) -> None:
        out.append(f'# 1 "{escape(filename)}"\n')
        _File(self, filename, out).run(code)

    # -- directives -----------------------------------------------------------------------------------------------

    def _define(self, rest: str, where: str) -> None:
        found = re.match(r"([A-Za-z_$][\w$]*)(\(([^)]*)\))?", rest)
        if not found:
            raise CompileError(f"{where}: #define needs a name, not {rest!r}")
        body = rest[found.end() :].strip()
        tokens = tuple(_Token(t) for t in _tokens(body))
        if found[2] is None:
            self.macros[found[1]] = _Macro(tokens)
            return
        names = [n.strip() for n in found[3].split(",")] if found[3].strip() else []
        variadic = ""
        if names and names[-1].endswith("..."):
            variadic = names.pop()[:-3].strip() or "__VA_ARGS__"
        self.macros[found[1]] = _Macro(tokens, tuple(names), variadic)

    def _include(self, rest: str, filename: str, where: str, out: list[str]) -> None:
        named = "".join(t.text for t in self.expand(_Token(t) for t in _tokens(rest))).strip()
        found = re.match(r'"([^"]+)"|<([^>]+)>', rest.strip()) or re.match(r'"([^"]+)"|<([^>]+)>', named)
        if not found:
            raise CompileError(f"{where}: #include needs a file in quotes or angle brackets, not {rest!r}")
        path = self._find(found[1] or found[2], filename if found[1] else None)
        if path is None:
            out.append(f"#include {found[0]}\n")
        elif os.path.realpath(path) not in self.once:
            if self.depth == _INCLUDES:
                raise CompileError(f"{where}: #include nested more than {_INCLUDES} deep")
            self.depth += 1
            self._file(Path(path).read_text(encoding="utf-8", errors="replace"), path, out)
            self.depth -= 1

    def _find(self, name: str, beside: str | None) -> str | None:
        folders = self.folders if beside is None else [os.path.dirname(beside) or ".", *self.folders]
        paths = (os.path.join(folder, name) for folder in folders)
        return next((path for path in paths if os.path.isfile(path)), None)

    def condition(self, rest: str, filename: str, where: str) -> bool:
        """The value of an #if. Names that are no macros are 0."""

        def has_include(found: re.Match[str]) -> str:
            return str(int(self._find(found[2], filename if found[1] == '"' else None) is not None))

        text = re.sub(r'__has_include\s*\(\s*(["<])([^">]+)[">]\s*\)', has_include, rest)
        text = re.sub(
            r"\bdefined\s*(?:\(\s*(\w+)\s*\)|(\w+))", lambda m: str(int((m[1] or m[2]) in self.macros)), text
        )
        tokens = [t.text for t in self.expand(_Token(t) for t in _tokens(text)) if not t.is_space]
        return _Expression(tokens, where).value() != 0

    # -- expansion ------------------------------------------------------------------------------------------------

    def expand(self, tokens: Iterable[_Token]) -> Iterator[_Token]:
        """Tokens with macros expanded. Newlines within a call come after what it becomes."""
        todo = deque(tokens)
        while todo:
            token = todo.popleft()
            macro = self.macros.get(token.text) if token.is_name and token.text not in token.hidden else None
            if macro is None:
                yield token
            elif macro.parameters is None:
                hidden = token.hidden | {token.text}
                todo.extendleft(reversed(self._substitute(macro, {}, hidden)))
            else:
                call = _arguments(todo)
                if call is None:
                    yield token
                    continue
                arguments, last, lines = call
                hidden = (token.hidden & last.hidden) | {token.text}
                named = _bind(macro, arguments)
                todo.extendleft(reversed([*self._substitute(macro, named, hidden), *[_Token("\n")] * lines]))

    def _substitute(
        self, macro: _Macro, named: dict[str, list[_Token]], hidden: frozenset[str]
    ) -> list[_Token]:
        body, out, i = macro.body, list[_Token](), 0
        while i < len(body):
            token, following = body[i], _next(body, i + 1)
            pasted = following is not None and body[following].text == "##"
            if token.text == "#" and following is not None and body[following].text in named:
                out.append(_Token(_quoted(named[body[following].text])))
                i = following + 1
            elif token.text == "##" and out and following is not None:
                _paste(out, named.get(body[following].text, [body[following]]))
                i = following + 1
            elif token.text in named:
                value = named[token.text]
                out += value if pasted else list(self.expand(value))
                if pasted and not value:
                    out.append(_Token(""))
                i = following if pasted and following is not None else i + 1
            else:
                if not (token.is_space and following is not None and body[following].text == "##"):
                    out.append(token)
                i += 1
        return [_Token(t.text, t.hidden | hidden) for t in out]


class _File:
    """One file on its way through: which conditionals are open, and the text since the last directive."""

    def __init__(self, owner: Preprocessor, filename: str, out: list[str]) -> None:
        self.owner, self.filename, self.out = owner, filename, out
        self.open: list[tuple[bool, bool]] = []  # of each #if: text is live, some branch was taken
        self.text: list[str] = []

    def run(self, code: str) -> None:
        lines = _logical_lines(code)
        for number, line, count in lines:
            directive = re.match(r"\s*#\s*(\w*)(.*)", line, re.DOTALL)
            if directive is None:
                self.text.append((line if self._live() else "") + "\n" * count)
                continue
            self._flush()
            included = len(self.out)
            where = f"{self.filename}:{number}"
            self._directive(directive[1], directive[2].strip(), where)
            if len(self.out) > included and directive[1] == "include":
                self.out.append(f'# {number + count} "{escape(self.filename)}"\n')
            elif len(self.out) == included:
                self.text.append("\n" * count)
            else:
                self.text.append("\n" * (count - 1))
        self._flush()
        if self.open:
            raise CompileError(f"{self.filename}: an #if has no #endif")

    def _live(self) -> bool:
        return all(live for live, _ in self.open)

    def _flush(self) -> None:
        tokens = (_Token(t) for t in _tokens("".join(self.text)))
        self.out.append("".join(t.text for t in self.owner.expand(tokens)))
        self.text.clear()

    def _directive(self, name: str, rest: str, where: str) -> None:
        if name in ("if", "ifdef", "ifndef"):
            taken = self._live() and self._test(name, rest, where)
            self.open.append((taken, taken))
        elif name in ("elif", "else", "endif"):
            self._branch(name, rest, where)
        elif not self._live():
            return
        elif name == "define":
            self.owner._define(rest, where)
        elif name == "undef":
            self.owner.macros.pop(rest, None)
        elif name == "include":
            self.owner._include(rest, self.filename, where, self.out)
        elif name == "error":
            raise CompileError(f"{where}: #error {rest}")
        elif name == "pragma":
            if rest == "once":
                self.owner.once.add(os.path.realpath(self.filename))
            else:
                self.out.append(f"#pragma {rest}\n")

    def _test(self, name: str, rest: str, where: str) -> bool:
        if name == "if":
            return self.owner.condition(rest, self.filename, where)
        return (rest.split()[0] in self.owner.macros if rest else False) == (name == "ifdef")

    def _branch(self, name: str, rest: str, where: str) -> None:
        if not self.open:
            raise CompileError(f"{where}: #{name} without #if")
        _, taken = self.open.pop()
        if name == "endif":
            return
        live = not taken and self._live() and (name == "else" or self._test("if", rest, where))
        self.open.append((live, taken or live))


def _logical_lines(code: str) -> Iterator[tuple[int, str, int]]:
    """Number, text without comments, and count of source lines of each line."""

    def blank(found: re.Match[str]) -> str:
        return " " + re.sub(r"[^\n\0]", "", found[0]) if found["comment"] else found[0]

    spliced = re.sub(r"\\\n", "\0", code.replace("\r\n", "\n"))
    text = _COMMENT_OR_STRING.sub(blank, spliced)
    number = 1
    for line in text.removesuffix("\n").split("\n"):
        count = 1 + line.count("\0")
        raw = re.search(r'R"([^()\\\s]{0,16})\(', line)
        yield number, line.replace("\0", "\\\n" if raw else ""), count
        number += count


def _tokens(text: str) -> list[str]:
    return [found[0] for found in _TOKEN.finditer(text)]


def _next(tokens: Sequence[_Token], at: int) -> int | None:
    """The index of the next token that is no space."""
    return next((i for i in range(at, len(tokens)) if not tokens[i].is_space), None)


def _arguments(todo: deque[_Token]) -> tuple[list[list[_Token]], _Token, int] | None:
    """Takes a macro's arguments from the front: the arguments, the closing bracket, lines gone over. None: no call."""
    start = next((i for i, t in enumerate(todo) if not t.is_space), None)
    if start is None or todo[start].text != "(":
        return None
    taken, depth = [todo.popleft() for _ in range(start + 1)], 1
    arguments: list[list[_Token]] = [[]]
    while todo:
        token = todo.popleft()
        taken.append(token)
        depth += (token.text == "(") - (token.text == ")")
        if depth == 0:
            return [_strip(a) for a in arguments], token, sum(t.text.count("\n") for t in taken)
        if token.text == "," and depth == 1:
            arguments.append([])
        else:
            arguments[-1].append(_Token(" ") if token.text == "\n" else token)
    todo.extendleft(reversed(taken))  # no end: it is not a call
    return None


def _strip(tokens: list[_Token]) -> list[_Token]:
    while tokens and tokens[0].is_space:
        tokens = tokens[1:]
    while tokens and tokens[-1].is_space:
        tokens = tokens[:-1]
    return tokens


def _bind(macro: _Macro, arguments: list[list[_Token]]) -> dict[str, list[_Token]]:
    names = macro.parameters or ()
    padded = arguments + [[]] * max(0, len(names) - len(arguments))
    named = dict(zip(names, padded, strict=False))
    if macro.variadic:
        rest: list[_Token] = []
        for i, argument in enumerate(arguments[len(names) :]):
            rest += ([_Token(","), _Token(" ")] if i else []) + argument
        named[macro.variadic] = rest
    return named


def _quoted(tokens: list[_Token]) -> str:
    text = "".join(t.text if not t.is_space else " " for t in tokens)
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _paste(out: list[_Token], right: list[_Token]) -> None:
    """Joins the last token with the first on the right. GNU's `, ## __VA_ARGS__` drops the comma before nothing."""
    left = out.pop()
    if left.text == ",":
        out += [left, *right] if right else []
        return
    out.append(_Token(left.text + (right[0].text if right else "")))
    out += right[1:]


class _Expression:
    """The value of a preprocessor expression, by precedence climbing."""

    _LEVELS = (("||",), ("&&",), ("|",), ("^",), ("&",), ("==", "!="), ("<", "<=", ">", ">="), ("<<", ">>"), ("+", "-"),
               ("*", "/", "%"))  # fmt: skip

    def __init__(self, tokens: list[str], where: str) -> None:
        self.tokens, self.where, self.at = tokens, where, 0

    def value(self) -> int:
        result = self._conditional()
        if self.at < len(self.tokens):
            self._wrong()
        return result

    def _wrong(self) -> None:
        raise CompileError(
            f"{self.where}: #if cannot be evaluated: {' '.join(self.tokens) or 'nothing there'}"
        )

    def _take(self, *texts: str) -> str:
        if self.at < len(self.tokens) and self.tokens[self.at] in texts:
            self.at += 1
            return self.tokens[self.at - 1]
        return ""

    def _conditional(self) -> int:
        test = self._binary(0)
        if not self._take("?"):
            return test
        yes = self._conditional()
        if not self._take(":"):
            self._wrong()
        no = self._conditional()
        return yes if test else no

    def _binary(self, level: int) -> int:
        if level == len(self._LEVELS):
            return self._unary()
        left = self._binary(level + 1)
        while sign := self._take(*self._LEVELS[level]):
            right = self._binary(level + 1)
            if sign in ("/", "%") and right == 0:
                right = 1  # in a branch that is not taken, or a mistake that the compiler explains
            left = int(_OPERATORS[sign](left, right))
        return left

    def _unary(self) -> int:
        if sign := self._take("!", "-", "+", "~"):
            operand = self._unary()
            return {"!": int(not operand), "-": -operand, "+": operand, "~": ~operand}[sign]
        if self._take("("):
            inner = self._conditional()
            if not self._take(")"):
                self._wrong()
            return inner
        if self.at == len(self.tokens):
            self._wrong()
        token = self.tokens[self.at]
        self.at += 1
        number = re.fullmatch(r"(0[xX][\da-fA-F']+|0[bB][01']+|[\d']+)[uUlLzZ]*", token)
        if number:
            digits = number[1].replace("'", "")
            return int(digits, 8 if re.fullmatch(r"0\d+", digits) else 0)
        if token.startswith("'") and len(token) == 3:
            return ord(token[1])
        if not _NAME.match(token):
            self._wrong()
        return int(token == "true")


_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "||": lambda a, b: a != 0 or b != 0, "&&": lambda a, b: a != 0 and b != 0, "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b, "&": lambda a, b: a & b, "==": lambda a, b: a == b, "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
    "<<": lambda a, b: a << b, ">>": lambda a, b: a >> b, "+": lambda a, b: a + b, "-": lambda a, b: a - b,
    "*": lambda a, b: a * b, "/": lambda a, b: int(a / b), "%": lambda a, b: a - b * int(a / b),
}  # fmt: skip
