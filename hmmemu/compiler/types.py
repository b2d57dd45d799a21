"""Types of expressions, as far as an analysis without a compiler can tell them.

A `Type` is a name with pointers and array dimensions; qualifiers are dropped. Names are matched by spelling, as
everywhere here (parse.py): an answer may be None, "cannot be told", and whoever asks must take that for anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hmmemu.compiler.parse import Function, Node, Source, declared_name, text, walk

_QUALIFIERS = re.compile(
    r"\b(?:const|volatile|struct|class|union|enum|typename|register|static|extern|constexpr|inline|mutable)\b"
)
_CLASSES = ("struct_specifier", "class_specifier", "union_specifier")
_WORDS = {"unsigned", "signed", "int", "long", "short", "char"}
# Names that CUDA's headers and <cstdint> define, on a 64-bit system.
_KNOWN = {
    "uchar": "unsigned char", "ushort": "unsigned short", "uint": "unsigned int", "ulong": "unsigned long",
    "int8_t": "signed char", "uint8_t": "unsigned char", "int16_t": "short", "uint16_t": "unsigned short",
    "int32_t": "int", "uint32_t": "unsigned int", "int64_t": "long", "uint64_t": "unsigned long",
    "size_t": "unsigned long", "uintptr_t": "unsigned long", "ptrdiff_t": "long", "intptr_t": "long",
    "half": "__half", "nv_half": "__half", "half2": "__half2", "nv_half2": "__half2",
    "nv_bfloat16": "__nv_bfloat16", "nv_bfloat162": "__nv_bfloat162",
}  # fmt: skip


@dataclass(frozen=True)
class Scalar:
    """What an atomic operation works on: `lanes` elements of `bits` each; kind "signed", "unsigned" or "float"."""

    kind: str
    bits: int
    lanes: int = 1


SCALARS = {
    "bool": Scalar("unsigned", 8), "char": Scalar("signed", 8), "signed char": Scalar("signed", 8),
    "unsigned char": Scalar("unsigned", 8), "short": Scalar("signed", 16), "unsigned short": Scalar("unsigned", 16),
    "int": Scalar("signed", 32), "unsigned int": Scalar("unsigned", 32), "long": Scalar("signed", 64),
    "unsigned long": Scalar("unsigned", 64), "long long": Scalar("signed", 64),
    "unsigned long long": Scalar("unsigned", 64), "__int128": Scalar("signed", 128),
    "unsigned __int128": Scalar("unsigned", 128), "float": Scalar("float", 32), "double": Scalar("float", 64),
    "__half": Scalar("float", 16), "__half2": Scalar("float", 16, 2), "__nv_bfloat16": Scalar("float", 16),
    "__nv_bfloat162": Scalar("float", 16, 2), "float2": Scalar("float", 32, 2), "float4": Scalar("float", 32, 4),
}  # fmt: skip


# Too narrow for an address.
NARROW = {name for name, scalar in SCALARS.items() if "long" not in name and "128" not in name}
ARITHMETIC = {name for name, scalar in SCALARS.items() if scalar.lanes == 1}


@dataclass(frozen=True)
class Type:
    """A type: `Type("int", 1)` is int*, `Type("float", 0, 2)` is float[][]."""

    name: str
    pointers: int = 0
    dimensions: int = 0

    @property
    def points(self) -> bool:
        """Whether it is a pointer, or an array, which becomes one."""
        return self.pointers + self.dimensions > 0

    def element(self) -> Type | None:
        """What it points to, or what it is an array of. None: neither."""
        if self.dimensions:
            return replace(self, dimensions=self.dimensions - 1)
        return replace(self, pointers=self.pointers - 1) if self.pointers else None

    def address(self) -> Type:
        """A pointer to it."""
        return Type(self.name, self.pointers + 1)

    def __str__(self) -> str:
        return self.name + "*" * self.pointers + "[]" * self.dimensions


@dataclass
class Record:
    """A class: its fields' types as written, its template parameters, its base classes."""

    fields: dict[str, tuple[str, int, int]] = field(default_factory=dict)  # type name, pointers, dimensions
    parameters: list[str] = field(default_factory=list)
    bases: list[str] = field(default_factory=list)


class Types:
    """The classes and aliases of a source."""

    def __init__(self, source: Source) -> None:
        self.aliases: dict[str, tuple[str, int]] = {}  # to a type name, and pointers
        self.records: dict[str, Record] = {}
        for node in walk(source.root):
            if node.type in ("alias_declaration", "type_definition"):
                self._alias(node)
            elif node.type in _CLASSES:
                self._record(node)

    def _alias(self, node: Node) -> None:
        kind = node.child_by_field_name("type")
        if kind is None:
            return
        if node.type == "alias_declaration":
            name = node.child_by_field_name("name")
            if name is not None:
                parsed = self.parse(text(kind))
                self.aliases[text(name)] = (parsed.name, parsed.pointers)
            return
        for declarator in node.children_by_field_name("declarator"):
            name = declared_name(declarator)
            if name is not None:
                self.aliases[text(name)] = (base_name(type_name(kind)), _pointers(declarator))

    def _record(self, node: Node) -> None:
        body = node.child_by_field_name("body")
        if body is None:
            return
        record = self.records.setdefault(type_name(node), Record(parameters=template_parameters(node)))
        record.bases = [text(n) for c in node.children if c.type == "base_class_clause" for n in c.named_children
                        if "type" in n.type or n.type == "qualified_identifier"]  # fmt: skip
        for member in body.named_children:
            kind = member.child_by_field_name("type")
            if member.type != "field_declaration" or kind is None:
                continue
            for declarator in member.children_by_field_name("declarator"):
                named = declared_name(declarator)
                if named is not None:
                    shape = (base_name(type_name(kind)), _pointers(declarator), dimensions(declarator))
                    record.fields[text(named)] = shape

    def parse(self, written: str, bound: Mapping[str, Type] | None = None) -> Type:
        """A type as written, with aliases resolved and template parameters replaced by what they are bound to."""
        dims = written.count("[")
        stars = re.sub(r"<.*>", "", written).count("*")
        return self._resolve(base_name(written), stars, dims, bound or {})

    def _resolve(self, name: str, stars: int, dims: int, bound: Mapping[str, Type], depth: int = 0) -> Type:
        if name in bound:
            inner = bound[name]
            return Type(inner.name, inner.pointers + stars, inner.dimensions + dims)
        if name in self.aliases and depth < 20:
            target, more = self.aliases[name]
            return self._resolve(target, stars + more, dims, bound, depth + 1)
        if "<" in name and bound:
            name = re.sub(r"\b[A-Za-z_]\w*\b", lambda m: str(bound[m[0]]) if m[0] in bound else m[0], name)
        return Type(_KNOWN.get(name.removeprefix("std::").removeprefix("cuda::"), name), stars, dims)

    def member(self, owner: Type, name: str) -> Type | None:
        """The type of a field, looked for in base classes too."""
        plain, _, arguments = owner.name.partition("<")
        record = self.records.get(plain.split("::")[-1])
        if record is None:
            return None
        given = split_arguments(arguments.rpartition(">")[0])
        bound = {p: self.parse(a) for p, a in zip(record.parameters, given, strict=False)}
        if name in record.fields:
            kind, stars, dims = record.fields[name]
            return self._resolve(kind, stars, dims, bound)
        inherited = (self.member(self.parse(base, bound), name) for base in record.bases if base != plain)
        return next((found for found in inherited if found is not None), None)

    def holds_pointers(self, kind: Type | None, depth: int = 0) -> bool:
        """Whether there may be a pointer in a value of that type; a wide integer may be one on its way."""
        if kind is None or kind.pointers:
            return True
        if kind.name in NARROW or vector_element(kind.name):
            return False
        record = self.records.get(kind.name.split("<")[0].split("::")[-1])
        if record is None or record.bases or depth > 10:
            return True
        fields = (self.member(Type(kind.name), name) for name in record.fields)
        return any(self.holds_pointers(inner, depth + 1) for inner in fields)

    def scalar(self, kind: Type | None) -> Scalar | None:
        """What an atomic operation on that type works on; pointers are 64-bit words. None: cannot be told."""
        if kind is None or kind.dimensions:
            return None
        return Scalar("unsigned", 64) if kind.pointers else SCALARS.get(kind.name)


def whole(kind: Type | None, scalar: Scalar | None) -> Scalar | None:
    """The one word that an exchange or a compare-and-swap works on: all of a vector at once."""
    if scalar is not None:
        return Scalar(scalar.kind, scalar.bits * scalar.lanes)
    element = vector_element(kind.name) if kind is not None and not kind.points else None
    bits = (
        SCALARS[element].bits * int(kind.name[-1])
        if element and kind is not None and kind.name[-1].isdigit()
        else 0
    )
    return Scalar("unsigned", bits) if bits in (16, 32, 64, 128) else None


def type_name(node: Node) -> str:
    """The name of a type as written; that of a class without a name is made from its place."""
    if node.type in _CLASSES:
        name = node.child_by_field_name("name")
        return text(name).split("<")[0] if name is not None else f"@{node.start_byte}"
    return text(node)


def vector_element(name: str) -> str | None:
    """The type of the elements of int4 and the like."""
    found = re.fullmatch(r"(u?)(char|short|int|long|longlong|float|double)[1-4]|dim3", name)
    if not found:
        return None
    if name == "dim3":
        return "unsigned int"
    plain = {"longlong": "long long", "char": "char" if found[1] else "signed char"}.get(found[2], found[2])
    return ("unsigned " if found[1] else "") + plain


def base_name(written: str) -> str:
    """A type's name without qualifiers, pointers and dimensions; integer types in one spelling."""
    plain = _QUALIFIERS.sub(" ", re.sub(r"\[[^\]]*\]|\.\.\.", " ", written))
    plain = re.sub(r"[&*()]", " ", plain) if "<" not in plain else plain.rstrip("&* ")
    words = plain.split()
    if words and set(words) <= _WORDS:
        return _integer(words)
    return " ".join(words).replace(" ::", "::").replace(":: ", "::").removeprefix("::")


def _integer(words: list[str]) -> str:
    sign = "unsigned " if "unsigned" in words else ""
    if "char" in words:
        return ("signed " if "signed" in words else sign) + "char"
    size = (
        "short"
        if "short" in words
        else "long long"
        if words.count("long") > 1
        else "long"
        if "long" in words
        else "int"
    )
    return sign + size


def _pointers(declarator: Node | None) -> int:
    """How many pointers a declarator adds to its type."""
    count = 0
    while declarator is not None and declarator.type not in (
        "identifier",
        "field_identifier",
        "type_identifier",
    ):
        count += declarator.type == "pointer_declarator"
        declarator = declarator.child_by_field_name("declarator") or next(
            (c for c in declarator.named_children if "declarator" in c.type or c.type.endswith("identifier")),
            None,
        )
    return count


def dimensions(declarator: Node | None) -> int:
    """How many array dimensions a declarator adds to its type."""
    count = 0
    while declarator is not None and declarator.type != "init_declarator":
        count += declarator.type == "array_declarator"
        declarator = declarator.child_by_field_name("declarator")
    if declarator is not None:
        return count + dimensions(declarator.child_by_field_name("declarator"))
    return count


def declarator_type(
    types: Types, kind: Node | None, declarator: Node, bound: Mapping[str, Type]
) -> Type | None:
    """The type that `kind declarator` declares. None for auto."""
    written = type_name(kind) if kind is not None else "auto"
    found = types.parse(written, bound)
    if found.name in ("auto", "decltype(auto)") or written.startswith("decltype"):
        return None
    return Type(found.name, found.pointers + _pointers(declarator), found.dimensions + dimensions(declarator))


def template_parameters(node: Node) -> list[str]:
    """The names of the template parameters of a function or class, in order."""
    parent = node.parent
    while parent is not None and parent.type not in (
        "template_declaration",
        "translation_unit",
        "compound_statement",
    ):
        parent = parent.parent if parent.type in ("declaration", "field_declaration") else None
    if parent is None or parent.type != "template_declaration":
        return []
    listing = parent.child_by_field_name("parameters")
    found = []
    for parameter in listing.named_children if listing is not None else []:
        names = [n for n in walk(parameter) if n.type in ("type_identifier", "identifier")]
        named = parameter.child_by_field_name("declarator") or parameter.child_by_field_name("name")
        chosen = declared_name(named) if named is not None else (names[0] if names else None)
        found.append(text(chosen) if chosen is not None else "")
    return found


def split_arguments(arguments: str) -> list[str]:
    """A template argument list, cut at its commas."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(arguments):
        depth += (c in "(<[{") - (c in ")>]}")
        if c == "," and depth == 0:
            parts.append(arguments[start:i].strip())
            start = i + 1
    last = arguments[start:].strip()
    return [*parts, last] if last else parts


def deduce(
    types: Types,
    function: Function,
    explicit: list[str],
    arguments: list[Type | None],
    bound: Mapping[str, Type],
) -> dict[str, Type]:
    """What a template function's parameters are in a call, from explicit arguments and from those passed."""
    names = template_parameters(function.node)
    found = {name: types.parse(a, bound) for name, a in zip(names, explicit, strict=False)}
    for parameter, given in zip(function.parameters, arguments, strict=False):
        name = base_name(parameter.type)
        stars = parameter.type.count("*") + parameter.type.count("[")
        if name in names and name not in found and given is not None:
            pointers = given.pointers + given.dimensions - stars
            if pointers >= 0:
                found[name] = Type(given.name, pointers)
    return found
