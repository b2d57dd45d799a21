"""Which values are the same for all threads of a block: decides where a kernel can be cut at its barriers.

By spelling, for one kernel's body: a name is uniform if every declaration and every change of it, under that name
anywhere in the body, has a uniform value, and all threads that reach a declaration go through its changes together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from hmmemu.compiler.analysis import Analysis
from hmmemu.compiler.parse import Function, Node, declared_name, text, walk

PURE_CALLS = {"min", "max", "abs", "umin", "umax", "fminf", "fmaxf", "fabsf", "__umul24", "__mul24"}
LOOPS = {"for_statement", "while_statement", "do_statement"}
_NOT_PURE = {"subscript_expression", "pointer_expression", "assignment_expression", "update_expression",
             "lambda_expression",
             "new_expression", "delete_expression", "gnu_asm_expression", "co_await_expression"}  # fmt: skip


_MATHEMATICS = re.compile(
    r"(?:printf|(?:r?sqrt|r?cbrt|exp|exp2|exp10|expm1|log|log2|log10|log1p|pow|sin|cos|tan|asin|acos|atan|atan2|sinh|cosh|tanh|fabs|floor"
    r"|ceil|round|rint|trunc|fmod|fma|hypot|erf|erfc|fmin|fmax|copysign|isnan|isinf)f?)"
)
_CONTROL = LOOPS | {"if_statement"}
_PLAIN = {"compound_statement", "expression_statement", "declaration", "init_declarator", "else_clause",
          "comma_expression", "condition_clause"}  # fmt: skip


class Uniform:
    """The uniform and the unchanged names of one kernel."""

    def __init__(self, analysis: Analysis, kernel: Function) -> None:
        self.body = kernel.body
        self.functions = analysis.source.functions
        self.parameters = {p.name for p in kernel.parameters if p.name}
        self.pointers = {p.name for p in kernel.parameters if p.type.endswith(("*", "]"))}
        for d in self._declarations() if self.body is not None else ():
            for declarator in d.children_by_field_name("declarator"):
                inner = (
                    declarator.child_by_field_name("declarator")
                    if declarator.type == "init_declarator"
                    else declarator
                )
                if inner is not None and inner.type == "pointer_declarator":
                    self.pointers.add(text(declared_name(inner) or inner))
        self.scopes: dict[str, set[int]] = {}  # of each declared name: the blocks and loops it is declared in
        for d in self._declarations():
            for n in _names(d):
                self.scopes.setdefault(text(n), set()).add((d.parent or d).id)
        self.declared = self.scopes.keys() | self.parameters
        self.places: dict[str, list[int]] = {}  # where each changed name is changed
        self.followed: list[tuple[str, Node | None]] = []
        for name, assignment, at in self._changes():
            self.places.setdefault(name, []).append(at.start_byte)
            self.followed.append((name, assignment))
        self.changed = set(self.places)
        self.addressed = {name for name, assignment in self.followed if assignment is None}
        device = {text(n) for v in analysis.source.variables if not v.has("__constant__") for n in v.names}
        self.memory = device - {
            text(n) for v in analysis.source.variables if v.has("constexpr") for n in v.names
        }
        self.names: set[str] = set()
        self._solve()

    def expression(self, node: Node | None) -> bool:
        """Whether an expression has one value for the whole block, and evaluating it does nothing else."""
        return node is None or self._all(node, self.is_uniform)

    def pure(self, node: Node | None, known: set[str]) -> bool:
        """Whether an expression depends only on uniform names, threadIdx and `known` names."""
        return node is None or self._all(node, lambda n: n == "threadIdx" or n in known or self.is_uniform(n))

    def is_uniform(self, name: str) -> bool:
        """Whether a name stands for one value in the whole block."""
        if name in self.declared:
            return name in self.names
        return name not in self.memory and name != "threadIdx"

    def stable(self, node: Node | None, within: Node) -> bool:
        """Whether no name in an expression is changed inside a block: it has the same value everywhere there."""
        names = {text(n) for n in walk(node) if n.type == "identifier"} if node is not None else set()
        places = [at for name in names for at in self.places.get(name, ())]
        return not any(within.start_byte <= at < within.end_byte for at in places)

    def _may_trap(self, division: Node) -> bool:
        """Integer division by a value that may be zero must not be done for threads that would not have done it."""
        if not any(c.type in ("/", "%") for c in division.children):
            return False
        divisor = division.child_by_field_name("right")
        names = {text(n) for n in walk(divisor) if n.type == "identifier"} if divisor is not None else {""}
        return bool(names & self.declared)

    def _all(self, node: Node, allowed: Callable[[str], bool]) -> bool:
        for n in walk(node):
            if n.type in _NOT_PURE or (n.type == "binary_expression" and self._may_trap(n)):
                return False
            if n.type == "call_expression" and not _is_pure(n):
                return False
            if n.type == "field_expression" and any(c.type == "->" for c in n.children):
                return False
            if n.type == "identifier" and not _called(n) and not allowed(text(n)):
                return False
        return True

    def _declarations(self) -> Iterator[Node]:
        for n in walk(self.body) if self.body is not None else ():
            if n.type in (
                "declaration",
                "for_range_loop",
                "parameter_declaration",
                "optional_parameter_declaration",
            ):
                yield n

    def _changes(self) -> Iterator[tuple[str, Node | None, Node]]:
        """Names that are changed, each with the assignment and where it is. The assignment is None for a change that
        cannot be followed: the address is taken, a reference is bound, a function or method is called."""
        for n in walk(self.body) if self.body is not None else ():
            value, inner = n.child_by_field_name("value"), n.child_by_field_name("declarator")
            if n.type in ("assignment_expression", "update_expression"):
                target = n.child_by_field_name("left") or n.child_by_field_name("argument")
                whole = n if target is not None and target.type == "identifier" else None
                yield from ((name, whole, n) for name in self._root(target))
            elif n.type == "pointer_expression" and n.children and n.children[0].type == "&":
                yield from ((name, None, n) for name in self._root(n.child_by_field_name("argument")))
            elif (
                n.type == "init_declarator"
                and inner is not None
                and inner.type == "reference_declarator"
                and value
            ):
                targets = (
                    value.named_children if value.type in ("argument_list", "initializer_list") else [value]
                )
                yield from ((name, None, n) for target in targets for name in self._root(target))
            elif n.type == "declaration" and any(d.type == "function_declarator" for d in walk(n)):
                names = {text(m) for m in walk(n) if m.type in ("identifier", "type_identifier")}
                yield from ((name, None, n) for name in names)  # `T& r(x);` reads like a function
            elif n.type == "for_range_loop":
                yield from ((name, None, n) for name in self._root(n.child_by_field_name("right")))
            elif n.type == "call_expression":
                yield from ((name, None, n) for name in self._changed_by_call(n))

    def _changed_by_call(self, call: Node) -> Iterator[str]:
        function = call.child_by_field_name("function")
        if function is not None and function.type == "field_expression":
            yield from self._root(function.child_by_field_name("argument"))  # a method, of a.b.c()'s a
        elif function is not None and function.type == "identifier" and text(function) in self.declared:
            yield text(function)  # a functor
        if self._may_change_arguments(call):
            for argument in (call.child_by_field_name("arguments") or call).named_children:
                yield from self._root(argument)

    def _root(self, node: Node | None) -> Iterator[str]:
        """The variable that an lvalue is part of: `a` for a.x, a[i] and (a); nothing for *p, p->x and p[i]."""
        while node is not None:
            if node.type == "identifier":
                yield text(node)
                return
            inner = node.child_by_field_name("argument")
            if node.type == "subscript_expression" and inner is not None and text(inner) in self.pointers:
                return
            if node.type == "field_expression" and any(c.type == "->" for c in node.children):
                return
            if node.type in ("subscript_expression", "field_expression"):
                node = inner
            elif node.type == "parenthesized_expression":
                node = node.named_children[0] if node.named_children else None
            else:
                return

    def _may_change_arguments(self, call: Node) -> bool:
        """CUDA's own functions take values, and the user's too unless they are declared to take references."""
        name = text(call.child_by_field_name("function") or call).split("<")[0].split("::")[-1]
        if _is_pure(call) or name.startswith(("__", "atomic", "make_")) or _MATHEMATICS.fullmatch(name):
            return False
        known = [f for f in self.functions if f.name == name]
        return not known or any(
            "&" in p.type and not p.type.startswith("const ") for f in known for p in f.parameters
        )

    def _solve(self) -> None:
        """Greatest solution: assume all declared names uniform, and drop those that turn out not to be."""
        self.names = set(self.declared)
        values = self._values()
        while True:
            kept = {n for n in self.names if all(self._holds(n, value) for value in values.get(n, []))}
            if kept == self.names:
                break
            self.names = kept

    def _values(self) -> dict[str, list[Node | None]]:
        """For each declared name, the nodes that give it a value; None for one that cannot be followed."""
        found: dict[str, list[Node | None]] = {}
        for n in self._declarations():
            for d in n.children_by_field_name("declarator"):
                value = _plain_value(n, d) if n.type == "declaration" else None
                found.setdefault(text(declared_name(d) or d), []).append(value)
        for name, change in self.followed:
            found.setdefault(name, []).append(change)
        return found

    def _holds(self, name: str, change: Node | None) -> bool:
        """Whether one declaration or change keeps its name uniform."""
        if change is None:
            return False
        if change.type in ("assignment_expression", "update_expression"):
            right = change.child_by_field_name("right")
            return self.expression(right) and self.made_together(change, self.scopes.get(name, set()))
        return self.expression(change)

    def made_together(self, node: Node, scopes: set[int]) -> bool:
        """Whether all threads that enter the nearest of these scopes (or the body) reach a node together: there is only
        uniform control flow between, and the node is a statement of its own."""
        current = node
        while self.body is not None and current.parent is not None and current.id != self.body.id:
            parent = current.parent
            if parent.type in _CONTROL:
                if not self.expression(parent.child_by_field_name("condition")) or is_left_early(parent):
                    return False
            elif parent.type not in _PLAIN:
                return False
            if parent.id in scopes:
                return True
            current = parent
        return self.body is not None and current.id == self.body.id


def is_left_early(loop: Node) -> bool:
    """Whether a loop has a break or continue of its own, so that threads may go round it differently often."""
    if loop.type == "if_statement":
        return False
    for n in walk(loop):
        if n.type in ("break_statement", "continue_statement"):
            node = n.parent
            while node is not None and node.type not in LOOPS | {"switch_statement", "for_range_loop"}:
                node = node.parent
            if node is not None and (node.id == loop.id or node.type == "switch_statement"):
                return True
    return False


def _is_pure(call: Node) -> bool:
    """min, max and the like, and casts."""
    function = call.child_by_field_name("function") or call
    name = text(function)
    return (
        name in PURE_CALLS
        or function.type == "primitive_type"
        or name.startswith(("static_cast<", "reinterpret_cast<"))
    )


def _called(node: Node) -> bool:
    parent = node.parent
    return (
        parent is not None
        and parent.type == "call_expression"
        and (parent.child_by_field_name("function") or parent).id == node.id
    )


def _names(node: Node) -> Iterator[Node]:
    for d in node.children_by_field_name("declarator"):
        name = declared_name(d)
        if name is not None:
            yield name


def _plain_value(declaration: Node, declarator: Node) -> Node | None:
    """The initial value of `T x = value`, or None: no value, a reference, an array, a constructor, static."""
    if any(text(c) in ("static", "extern", "volatile", "__shared__") for c in declaration.children):
        return None
    if declarator.type != "init_declarator":
        return None
    inner, value = declarator.child_by_field_name("declarator"), declarator.child_by_field_name("value")
    if inner is None or inner.type not in ("identifier", "pointer_declarator") or value is None:
        return None
    return None if value.type in ("initializer_list", "argument_list") else value
