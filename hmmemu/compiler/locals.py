"""The variables of one function: their types, and the values that they are given anywhere in it.

The order of statements does not matter here, and names are matched by spelling: a variable may hold any of its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hmmemu.compiler.parse import Function, Node, declared_name, parse, text, walk
from hmmemu.compiler.places import Bound, Program
from hmmemu.compiler.types import Type, declarator_type


@dataclass(eq=False, repr=False)
class Locals:
    """One function as it is called: what its parameters are bound to, and its local variables."""

    program: Program
    function: Function
    bound: dict[str, Bound]
    templates: Mapping[str, Type]
    this: Bound
    kinds: dict[str, Type | None] = field(default_factory=dict, init=False)  # of locals; None: auto
    references: set[str] = field(default_factory=set, init=False)
    values: dict[str, list[Node]] = field(
        default_factory=dict, init=False
    )  # what locals and parameters are given
    lambdas: dict[str, Node] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        nodes = self.program.nodes(self.function)
        for node in nodes:
            self._note(node)
        for node in nodes if self.lambdas else ():
            self._note_call(node)

    # -- declarations ---------------------------------------------------------------------------------------------

    def _note(self, node: Node) -> None:
        kind = node.child_by_field_name("type")
        if node.type in ("declaration", "for_range_loop") or (
            node.type in ("parameter_declaration", "optional_parameter_declaration") and _in_lambda(node)
        ):
            for declarator in node.children_by_field_name("declarator"):
                self._declare(kind, declarator, node)
        elif node.type == "assignment_expression":
            left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
            name = _variable(left)
            plain = any(c.type == "=" for c in node.children)  # p += n stays where it was
            if right is not None and name and plain:
                self.values.setdefault(name, []).append(right)

    def _declare(self, kind: Node | None, declarator: Node, whole: Node) -> None:
        named = declared_name(declarator)
        if named is None:
            return
        name = text(named)
        if self.program.variables.get(name, ("", None))[0] == "shared":
            return
        self.kinds[name] = declarator_type(self.program.types, kind, declarator, self.templates)
        if any(n.type == "reference_declarator" for n in _declarators(declarator)):
            self.references.add(name)
        value = declarator.child_by_field_name("value") or whole.child_by_field_name("value")
        if declarator.type == "function_declarator":  # `T x(a[i]);` reads like a function
            listing = declarator.child_by_field_name("parameters")
            value = _as_arguments(text(listing)) if listing is not None else None
        if value is not None and value.type == "lambda_expression":
            self.lambdas[name] = value
        elif value is not None:
            parts = value.named_children if value.type in ("argument_list", "initializer_list") else [value]
            self.values.setdefault(name, []).extend(parts)

    def _note_call(self, node: Node) -> None:
        """Arguments of a lambda's calls are values of its parameters."""
        called = node.child_by_field_name("function") if node.type == "call_expression" else None
        if called is None or text(called) not in self.lambdas:
            return
        declarator = self.lambdas[text(called)].child_by_field_name("declarator")
        listing = declarator.child_by_field_name("parameters") if declarator is not None else None
        given = node.child_by_field_name("arguments")
        parameters = listing.named_children if listing is not None else []
        for parameter, argument in zip(
            parameters, given.named_children if given is not None else [], strict=False
        ):
            name = declared_name(parameter.child_by_field_name("declarator"))
            if name is not None:
                self.values.setdefault(text(name), []).append(argument)


def _declarators(node: Node | None) -> list[Node]:
    found = []
    while node is not None:
        found.append(node)
        node = node.child_by_field_name("declarator") or next(
            (c for c in node.named_children if "declarator" in c.type), None
        )
    return found


def _variable(node: Node | None) -> str:
    """The variable that an lvalue is, or is part of: `v` for v and v.data; "" for what a pointer leads to."""
    while (
        node is not None
        and node.type == "field_expression"
        and not any(c.type == "->" for c in node.children)
    ):
        node = node.child_by_field_name("argument")
    return text(node) if node is not None and node.type == "identifier" else ""


def _in_lambda(node: Node) -> bool:
    current = node.parent
    while current is not None and current.type != "function_definition":
        if current.type == "lambda_expression":
            return True
        current = current.parent
    return False


def _as_arguments(listing: str) -> Node | None:
    """`(a[i], 3)` as the arguments of a call."""
    root = parse(f"void f() {{ f{listing}; }}").root
    return next((n for n in walk(root) if n.type == "argument_list"), None)
