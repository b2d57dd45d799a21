"""The types of expressions in a function, as far as they can be told."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

from hmmemu.compiler.locals import Locals
from hmmemu.compiler.parse import Function, Node, text
from hmmemu.compiler.types import ARITHMETIC, Type, declarator_type, vector_element

_LIBRARY = re.compile(r"(?:.*::)?atomic(?:_ref)?")
_NESTING = 80  # questions within questions; Python's stack holds a few hundred calls
_BUILT_IN = {"threadIdx": Type("uint3"), "blockIdx": Type("uint3"), "blockDim": Type("dim3"), "gridDim": Type("dim3"),
             "warpSize": Type("int")}  # fmt: skip


Found = TypeVar("Found")


@dataclass(eq=False, repr=False)
class Typed(Locals, ABC):
    """A function whose expressions have types. None stands for a type that cannot be told."""

    _known: dict[tuple[str, int], object] = field(default_factory=dict, init=False)
    _busy: set[tuple[str, int]] = field(default_factory=set, init=False)

    @abstractmethod
    def calls(self, call: Node) -> Sequence[Typed]:
        """The functions of this source that a call may mean, as they are called there."""

    @abstractmethod
    def returned(self, call: Node) -> Iterator[tuple[Typed, Node]]:
        """What a call may give: each function, as it is called there, with each of its returned values."""

    def returns(self) -> list[Node]:
        """What the function returns, somewhere."""
        nodes = self.program.nodes(self.function)
        return [n.named_children[0] for n in nodes if n.type == "return_statement" and n.named_children]

    def remember(
        self, what: str, node: Node, find: Callable[[Node], Found], cut: Found, limit: Found
    ) -> Found:
        """The answer to a question about a node: found once, and kept unless it rests on a question still open.

        `cut` is the answer within the search for itself (p = p + 1), `limit` that where the search is too deep.
        """
        question, cuts = (what, node.id), self.program.cuts
        if question in self._known:
            return cast(Found, self._known[question])
        if question in self._busy:
            cuts.append((id(self), question))
            return cut
        if self.program.nesting >= _NESTING or self.program.steps_left <= 0:
            cuts.append(None)
            return limit
        self.program.steps_left -= 1
        self.program.nesting += 1
        since = len(cuts)
        self._busy.add(question)
        try:
            answer = find(node)
        finally:
            self._busy.discard(question)
            self.program.nesting -= 1
        cuts[since:] = [other for other in cuts[since:] if other != (id(self), question)]
        if len(cuts) == since:
            self._known[question] = answer
        return answer

    def type(self, node: Node | None) -> Type | None:
        """The type of an expression. None: cannot be told."""
        return self.remember("type", node, self._type, None, None) if node is not None else None

    def _type(self, node: Node) -> Type | None:
        kind = node.type
        argument = node.child_by_field_name("argument") or node.child_by_field_name("value")
        if kind in ("identifier", "field_identifier", "type_identifier"):
            return self._name_type(text(node))
        if kind == "this":
            return self.this.type
        if kind in ("parenthesized_expression", "comma_expression"):
            return self.type(node.named_children[-1]) if node.named_children else None
        if kind == "cast_expression":
            return self._written(node.child_by_field_name("type"))
        if kind == "subscript_expression":
            found = self.type(argument)
            return found.element() if found is not None else None
        if kind == "pointer_expression":
            found = self.type(argument)
            if node.children[0].type == "&":
                return found.address() if found is not None else None
            return found.element() if found is not None else None
        if kind == "field_expression":
            return self._field_type(node)
        made = temporary(node)
        if made is not None:
            return self._temporary_type(*made)
        if kind == "call_expression":
            return self._call_type(node)
        if kind in ("update_expression", "unary_expression"):
            return self.type(argument)
        if kind == "assignment_expression":
            return self.type(node.child_by_field_name("left"))
        if kind == "conditional_expression":
            return self.type(node.child_by_field_name("consequence")) or self.type(
                node.child_by_field_name("alternative")
            )
        if kind == "binary_expression":
            return self._binary_type(node)
        return _literal_type(node)

    def _name_type(self, name: str) -> Type | None:
        if name in self.kinds:
            known = self.kinds[name]
            if known is None:
                found = (self.type(value) for value in self.values.get(name, []))
                known = next((f for f in found if f is not None), None)
            return known
        if name in self.bound:
            return self.bound[name].type
        owner = self.this.type.element() if self.this.type is not None else None
        field_type = self.program.types.member(owner, name) if owner is not None else None
        return field_type or self.program.variables.get(name, ("", _BUILT_IN.get(name)))[1]

    def _field_type(self, node: Node) -> Type | None:
        owner, name = self.type(node.child_by_field_name("argument")), node.child_by_field_name("field")
        if owner is not None and any(c.type == "->" for c in node.children):
            owner = owner.element()
        if owner is None or name is None or owner.points:
            return None
        element = vector_element(owner.name)
        if element is not None:
            return Type(element)
        return self.program.types.member(owner, text(name))

    def _temporary_type(self, written: str, given: list[Node]) -> Type | None:
        kind = self.type(given[0]) if "<" not in written and given else None
        return self.program.types.parse(f"{written}<{kind}>" if kind else written, self.templates)

    def _call_type(self, node: Node) -> Type | None:
        function = node.child_by_field_name("function")
        if function is not None and function.type in ("template_function", "primitive_type"):
            cast = cast_to(function)
            if cast:
                return self.program.types.parse(cast, self.templates)
        for frame in self.calls(node)[:1]:
            declared = frame.function.node.child_by_field_name("type")
            found = declarator_type(self.program.types, declared, _returned(frame.function), frame.templates)
            if found is not None:
                return found
        kinds = (frame.type(value) for frame, value in self.returned(node))
        return next((kind for kind in kinds if kind is not None), None)

    def _binary_type(self, node: Node) -> Type | None:
        left, right = (
            self.type(node.child_by_field_name("left")),
            self.type(node.child_by_field_name("right")),
        )
        if any(c.type in ("==", "!=", "<", ">", "<=", ">=", "&&", "||") for c in node.children):
            return Type("bool")
        if left is not None and left.points:
            return Type("long") if right is not None and right.points else left
        if right is not None and right.points:
            return right
        return _wider(left, right)

    def _written(self, node: Node | None) -> Type | None:
        return self.program.types.parse(text(node), self.templates) if node is not None else None


def _returned(function: Function) -> Node:
    return function.node.child_by_field_name("declarator") or function.declarator


def cast_to(function: Node) -> str:
    """The type of static_cast<T> and the like, and of int(x)."""
    if function.type == "primitive_type":
        return text(function)
    if function.type == "template_function":
        name, listing = function.child_by_field_name("name"), function.child_by_field_name("arguments")
        if (
            name is not None
            and text(name).endswith("_cast")
            and listing is not None
            and listing.named_children
        ):
            return text(listing.named_children[0])
    return ""


def is_atomic_ref(kind: Type | None) -> bool:
    """Whether a type is cuda::atomic_ref<T, scope>: a pointer, in what it leads to."""
    return kind is not None and not kind.points and kind.name.split("<")[0].split("::")[-1] == "atomic_ref"


def temporary(node: Node) -> tuple[str, list[Node]] | None:
    """The type and the arguments of an object that libcu++ makes: cuda::atomic_ref<int>(x), cuda::atomic_ref{x}."""
    named = {"call_expression": "function", "compound_literal_expression": "type"}.get(node.type, "")
    kind = node.child_by_field_name(named) if named else None
    given = node.child_by_field_name("arguments") or node.child_by_field_name("value")
    if kind is None or given is None:
        return None
    name, angle, _ = text(kind).partition("<")
    if not (name.endswith("cuda::atomic_ref") or (angle and _LIBRARY.fullmatch(name))):
        return None
    return text(kind), given.named_children


def _literal_type(node: Node) -> Type | None:
    written = text(node)
    if node.type == "number_literal":
        if written.lower().startswith("0x"):
            floating = False
        else:
            floating = "." in written or "e" in written.lower()
            if floating or written.lower().endswith("f"):
                return Type("float" if written.lower().endswith("f") else "double")
        suffix = written.lower()[len(written.rstrip("uUlL")) :]
        size = "long long" if suffix.count("l") else "int"
        return Type(("unsigned " if "u" in suffix else "") + size)
    if node.type in ("true", "false"):
        return Type("bool")
    if node.type == "sizeof_expression":
        return Type("unsigned long")
    return Type("char") if node.type == "char_literal" else None


def _wider(left: Type | None, right: Type | None) -> Type | None:
    if left is None or right is None:
        return None
    order = [
        "int",
        "unsigned int",
        "long",
        "unsigned long",
        "long long",
        "unsigned long long",
        "float",
        "double",
    ]
    ranks = [
        order.index(t.name) if t.name in order else 0 if t.name in ARITHMETIC else -1 for t in (left, right)
    ]
    return Type(order[max(ranks)]) if min(ranks) >= 0 else None
