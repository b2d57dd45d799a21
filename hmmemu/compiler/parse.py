"""From text to what the compiler needs to know of it: functions, variables, and who mentions whom.

The parser (tree-sitter) copes with errors: what it cannot read it skips, and the C++ compiler has the last word.
Names are matched by spelling, not resolved; every use of that is on the safe side.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import tree_sitter
import tree_sitter_cuda

from hmmemu.compiler.mask import Mark, mask

Node = tree_sitter.Node

_NAMES = {"identifier", "field_identifier", "type_identifier", "namespace_identifier", "statement_identifier"}
_DECLARATIONS = {
    "function_definition",
    "declaration",
    "field_declaration",
    "lambda_expression",
    "parameter_declaration",
    "optional_parameter_declaration",
    "alias_declaration",
    "type_definition",
}
_MARKER = re.compile(rb'^# (\d+) "((?:[^"\\]|\\.)*)"[^\n]*', re.MULTILINE)
_CLASSES = {"struct_specifier", "class_specifier", "union_specifier"}


@dataclass(frozen=True)
class Parameter:
    """A function parameter: its name ("" if none) and its type as written."""

    name: str
    type: str


@dataclass(eq=False)
class Function:
    """A function definition or prototype. Lambdas belong to the function they stand in."""

    name: str
    scope: tuple[str, ...]  # namespaces, outermost first
    owner: str  # the class it is a member of, or ""
    node: Node
    declarator: Node  # its function_declarator
    body: Node | None
    parameters: list[Parameter]
    marks: list[Mark]
    is_template: bool
    is_operator: bool
    mentions: set[str] = field(default_factory=set)

    @property
    def is_kernel(self) -> bool:
        """Declared __global__."""
        return self.has("__global__")

    @property
    def qualified(self) -> str:
        """Its name with its namespaces."""
        return "::".join((*self.scope, self.name))

    def has(self, keyword: str) -> bool:
        """Whether the declaration carries that keyword."""
        return any(mark.keyword == keyword for mark in self.marks)


@dataclass(eq=False)
class Variable:
    """A declaration with __shared__, __device__, __constant__ or __managed__; one for all its declarators."""

    node: Node
    marks: list[Mark]
    scope: tuple[str, ...]
    names: list[Node]  # the identifier of each declarator
    specifiers: list[Node]  # storage classes and qualifiers
    function: Function | None  # where it stands, None at namespace scope
    in_class: bool

    def has(self, keyword: str) -> bool:
        """Whether the declaration carries that keyword or specifier."""
        return any(m.keyword == keyword for m in self.marks) or any(
            text(s) == keyword for s in self.specifiers
        )


@dataclass(eq=False)
class Source:
    """A parsed translation unit."""

    text: bytes  # preprocessed, as the compiler would see it
    masked: bytes
    root: Node
    functions: list[Function]
    variables: list[Variable]
    entities: dict[str, set[str]]  # other names at namespace scope (classes, aliases): what they mention

    def line(self, at: int) -> tuple[int, str]:
        """The user's line and file of a position, from the line markers before it."""
        line, name, since = 1, "", 0
        for found in _MARKER.finditer(self.text, 0, at):
            line, name, since = int(found[1]), found[2].decode(), found.end() + 1
        return line + self.text.count(b"\n", since, at), name


def text(node: Node) -> str:
    """The source text of a node, keywords taken out."""
    return (node.text or b"").decode(errors="replace")


def walk(node: Node) -> Iterator[Node]:
    """A node and all below it, in order."""
    stack = [node]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(reversed(current.children))


def mentions(node: Node) -> set[str]:
    """All identifiers below a node."""
    return {text(n) for n in walk(node) if n.type in _NAMES}


def _template_mentions(node: Node) -> set[str]:
    """What a template's parameter list mentions: its default arguments belong to what it declares."""
    parent = node.parent
    if parent is None or parent.type != "template_declaration":
        return set()
    return set().union(*(mentions(c) for c in parent.children if c.type == "template_parameter_list"))


def parse(code: str) -> Source:
    """Parses preprocessed source."""
    raw = code.encode()
    masked, marks = mask(raw)
    root = _parser().parse(masked).root_node
    source = Source(raw, masked, root, [], [], {})
    _Collector(source, _owners(root, masked, marks)).visit(root, (), "", None, False)
    return source


@functools.cache
def _parser() -> tree_sitter.Parser:
    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_cuda.language()))


def _owners(root: Node, masked: bytes, marks: list[Mark]) -> dict[int, list[Mark]]:
    """For each declaration (by node id), the keywords that stand in it."""
    owners: dict[int, list[Mark]] = {}
    for mark in marks:
        node = root.descendant_for_byte_range(*_next_token(masked, mark.end))
        while node is not None and node.type not in _DECLARATIONS:
            node = node.parent
        if node is not None:
            owners.setdefault(node.id, []).append(mark)
    return owners


def _next_token(masked: bytes, at: int) -> tuple[int, int]:
    """The first byte of the next token at or after a position."""
    while at < len(masked) and masked[at : at + 1].isspace():
        at += 1
    return at, at + 1


def declared_name(node: Node | None) -> Node | None:
    """The identifier that a declarator declares."""
    while node is not None and node.type not in (
        "identifier",
        "field_identifier",
        "type_identifier",
        "qualified_identifier",
        "operator_name",
        "destructor_name",
        "template_function",
        "operator_cast",
    ):
        inner = node.child_by_field_name("declarator")
        if inner is None:  # parenthesized and reference declarators have no field
            inner = next(
                (c for c in node.named_children if c.type.endswith("declarator") or c.type in _NAMES), None
            )
        node = inner
    return node


def function_declarator(node: Node) -> Node | None:
    """The function_declarator of a declaration, past pointers and references of the return type."""
    found = node.child_by_field_name("declarator")
    while found is not None and found.type in ("pointer_declarator", "reference_declarator"):
        found = found.child_by_field_name("declarator") or next(
            (c for c in found.named_children if "declarator" in c.type), None
        )
    return found if found is not None and found.type == "function_declarator" else None


class _Collector:
    """Walks the tree once and fills a Source."""

    def __init__(self, source: Source, owners: dict[int, list[Mark]]) -> None:
        self.source = source
        self.owners = owners

    def visit(
        self, node: Node, scope: tuple[str, ...], owner: str, function: Function | None, template: bool
    ) -> None:
        for child in node.children:
            kind = child.type
            if kind == "namespace_definition":
                name = child.child_by_field_name("name")
                inner = tuple(text(name).replace(" ", "").split("::")) if name is not None else ()
                self.visit(child, scope + inner, owner, function, template)
            elif kind == "template_declaration":
                self.visit(child, scope, owner, function, True)
            elif kind == "function_definition":
                self._function(child, scope, owner, function, template)
            elif kind in _CLASSES:
                self._class(child, scope, owner, function)
            elif kind in ("declaration", "field_declaration"):
                self._declaration(child, scope, owner, function, template)
            else:
                if function is None and kind in ("alias_declaration", "type_definition"):
                    self._entity(child)
                self.visit(
                    child, scope, owner, function, template if kind == "linkage_specification" else False
                )

    def _entity(self, node: Node) -> None:
        found = mentions(node)
        for name in found:
            self.source.entities.setdefault(name, set()).update(found - {name})

    def _class(self, node: Node, scope: tuple[str, ...], owner: str, function: Function | None) -> None:
        name_node = node.child_by_field_name("name")
        name = text(name_node).split("<")[0] if name_node is not None else ""
        if name:
            outside = {
                text(n)
                for c in node.children
                if c.type == "base_class_clause"
                for n in walk(c)
                if n.type in _NAMES
            }
            body = node.child_by_field_name("body")
            for member in body.children if body is not None else []:
                if member.type != "function_definition":
                    outside |= mentions(member)
            outside |= _template_mentions(node)
            self.source.entities.setdefault(name, set()).update(outside - {name})
        self.visit(node, scope, name or owner or "?", function, False)

    def _function(
        self, node: Node, scope: tuple[str, ...], owner: str, outer: Function | None, template: bool
    ) -> None:
        declarator = function_declarator(node)
        body = node.child_by_field_name("body")
        if declarator is None:
            found = node.child_by_field_name("declarator")
            if found is None or found.type != "operator_cast" or body is None:
                self.visit(node, scope, owner, outer, False)
                return
            declarator = found
        function = self._make(node, declarator, body, scope, owner, template)
        if outer is None or owner:
            self.source.functions.append(function)
        self.visit(node, scope, "", function, False)

    def _make(
        self,
        node: Node,
        declarator: Node,
        body: Node | None,
        scope: tuple[str, ...],
        owner: str,
        template: bool,
    ) -> Function:
        name_node = declared_name(declarator)
        name = text(name_node) if name_node is not None else ""
        operator = bool(
            name_node is not None and name_node.type in ("operator_name", "destructor_name", "operator_cast")
        )
        if "::" in name and not operator:
            *qualifiers, name = name.split("::")
            last = qualifiers[-1].split("<")[0].strip() if qualifiers else ""
            if last in self.source.entities:
                owner = last
            else:
                scope += tuple(q.strip() for q in qualifiers)
            operator = name.startswith(("operator", "~"))
        name = name.split("<")[0].strip() if not operator else name
        operator = operator or (bool(owner) and name == owner)
        function = Function(
            name,
            scope,
            owner,
            node,
            declarator,
            body,
            _parameters(declarator),
            self.owners.get(node.id, []),
            template,
            operator,
        )
        function.mentions = (mentions(node) | _template_mentions(node)) - ({name} if body is None else set())
        return function

    def _declaration(
        self, node: Node, scope: tuple[str, ...], owner: str, function: Function | None, template: bool
    ) -> None:
        marks = self.owners.get(node.id, [])
        declarator = function_declarator(node)
        if (
            declarator is not None
            and function is None
            and not any(m.keyword in ("__shared__", "__constant__") for m in marks)
        ):
            if not owner:
                self.source.functions.append(self._make(node, declarator, None, scope, owner, template))
        elif any(m.keyword in ("__shared__", "__device__", "__constant__", "__managed__") for m in marks):
            names = [
                n for d in node.children_by_field_name("declarator") if (n := declared_name(d)) is not None
            ]
            specifiers = [c for c in node.children if c.type in ("storage_class_specifier", "type_qualifier")]
            self.source.variables.append(
                Variable(node, marks, scope, names, specifiers, function, bool(owner))
            )
        self.visit(node, scope, owner, function, False)
        if function is None and not owner and declarator is None:
            self._entity(node)


def _parameters(declarator: Node) -> list[Parameter]:
    listing = declarator.child_by_field_name("parameters")
    found: list[Parameter] = []
    for node in listing.named_children if listing is not None else []:
        if node.type not in (
            "parameter_declaration",
            "optional_parameter_declaration",
            "variadic_parameter_declaration",
        ):
            continue
        name_node = declared_name(node.child_by_field_name("declarator"))
        name = text(name_node) if name_node is not None else ""
        found.append(Parameter(name, _type_text(node, name_node)))
    if len(found) == 1 and not found[0].name and found[0].type == "void":
        return []
    return found


def _type_text(node: Node, name: Node | None) -> str:
    whole = text(node)
    default = node.child_by_field_name("default_value")
    if default is not None:
        whole = whole[: default.start_byte - node.start_byte].rstrip().removesuffix("=")
    if name is not None:
        start = len((node.text or b"")[: name.start_byte - node.start_byte].decode(errors="replace"))
        whole = whole[:start] + whole[start + len(text(name)) :]
    return " ".join(whole.split()).replace(" *", "*").replace(" [", "[")
