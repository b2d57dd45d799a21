"""Which functions of a source a call may mean, by name, number of arguments and what they point to."""

from __future__ import annotations

from hmmemu.compiler.parse import Function, Node, text
from hmmemu.compiler.types import ARITHMETIC, Type, Types, template_parameters


def inside(node: Node) -> Node:
    """What stands in parentheses: a function that is called in them is not looked up by its arguments."""
    while node.type == "parenthesized_expression" and len(node.named_children) == 1:
        node = node.named_children[0]
    return node


def callee(function: Node) -> tuple[str, list[str], Node | None]:
    """Name, explicit template arguments and object of what a call calls."""
    instance = None
    function = inside(function)
    if function.type == "field_expression":
        instance = function.child_by_field_name("argument")
        function = function.child_by_field_name("field") or function
    while function.type == "qualified_identifier":
        function = function.child_by_field_name("name") or function.named_children[-1]
    explicit: list[str] = []
    if function.type in ("template_function", "template_method"):
        listing = function.child_by_field_name("arguments")
        explicit = [text(n) for n in listing.named_children] if listing is not None else []
        function = function.child_by_field_name("name") or function
    return text(function), explicit, instance


def takes(function: Function, count: int) -> bool:
    """Whether a function can be called with so many arguments."""
    listing = function.declarator.child_by_field_name("parameters")
    nodes = listing.named_children if listing is not None else []
    optional = sum(n.type == "optional_parameter_declaration" for n in nodes)
    return any("variadic" in n.type for n in nodes) or len(function.parameters) - optional <= count <= len(
        function.parameters
    )


def fits(types: Types, function: Function, kinds: list[Type | None]) -> bool:
    """Whether arguments of these types may be passed: pointers only to what is meant."""
    names = template_parameters(function.node)
    for parameter, kind in zip(function.parameters, kinds, strict=False):
        wanted = types.parse(parameter.type)
        if kind is None or wanted.name in ("auto", *names) or not (kind.points and wanted.points):
            continue
        if wanted.name not in (kind.name, "void") and wanted.name in ARITHMETIC:
            return False
    return True


def plain(kind: Type) -> str:
    """A class's name without namespaces and template arguments."""
    return kind.name.split("<")[0].split("::")[-1]
