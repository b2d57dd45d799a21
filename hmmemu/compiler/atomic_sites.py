"""The atomic operations in a kernel's source: where, which, of what type and scope, and on which memory.

Works on preprocessed source, without a compiler. From each kernel the calls are followed into device functions,
methods and lambdas, with what their parameters stand for. Functions that are reached in another way (by a pointer,
from a constructor or an operator) are searched too, with parameters of which nothing is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace

from hmmemu.compiler.analysis import Analysis, analyse, mention_graph, reach
from hmmemu.compiler.frame import Frame, unbound
from hmmemu.compiler.overloads import callee, inside
from hmmemu.compiler.parse import Function, Node, Source, text
from hmmemu.compiler.places import NOWHERE, Bound, Places, Program
from hmmemu.compiler.types import Scalar, Type, Types, split_arguments, template_parameters, whole

_FUNCTION = re.compile(r"atomic(Add|Sub|Exch|Min|Max|Inc|Dec|CAS|And|Or|Xor)(_block|_system)?")
_SCOPES = {None: "device", "_block": "block", "_system": "system"}
# Methods of cuda::atomic and cuda::atomic_ref, and operators, by the function that does the same.
_METHODS = {
    "fetch_add": "Add", "fetch_sub": "Sub", "fetch_and": "And", "fetch_or": "Or", "fetch_xor": "Xor",
    "fetch_min": "Min", "fetch_max": "Max", "exchange": "Exch", "compare_exchange_weak": "CAS",
    "compare_exchange_strong": "CAS",
}  # fmt: skip
_OPERATORS = {"++": "Add", "--": "Sub", "+=": "Add", "-=": "Sub", "&=": "And", "|=": "Or", "^=": "Xor"}
# The second one leaves its type to be deduced.
_ATOMIC_TYPE = re.compile(
    r"(?:::)?(?:cuda::(?:std::)?|std::)?atomic(?:_ref)?<(.*)>|(?:::)?cuda::(?:std::)?atomic_ref", re.DOTALL
)
_INTEGER = {"Add": "INTEGER_ADD", "Sub": "INTEGER_ADD", "Min": "INTEGER_MIN", "Max": "INTEGER_MAX",
            "Inc": "INTEGER_INCREMENT", "Dec": "INTEGER_DECREMENT", "And": "AND", "Or": "OR", "Xor": "XOR",
            "Exch": "EXCHANGE", "CAS": "CAS"}  # fmt: skip
_FLOAT = {"Add": "FLOAT_ADD", "Sub": "FLOAT_ADD", "Min": "FLOAT_MIN", "Max": "FLOAT_MAX"}


@dataclass(frozen=True)
class Found:
    """One atomic operation, in one kernel, on one type and one set of places."""

    kernel: str
    function: str  # the function that it stands in
    called: str  # as written: "atomicAdd_system", "fetch_add", "++"
    operation: str  # a name of link.AtomicOperation
    type: str  # "" if it cannot be told
    scalar: Scalar | None
    scope: str  # "system", "device", "block" or "thread"
    line: int
    file: str
    at: int  # bytes in the preprocessed source: the first, and the end
    end: int
    places: Places
    returns: bool  # whether the old value is used


def atomic_sites(source: Source, name_expressions: Sequence[str] = ()) -> list[Found]:
    """The atomic operations that each kernel reaches, in the order of kernels and lines.

    A template kernel is searched once for each name expression that names it, or once with its types unknown.
    """
    analysis = analyse(source, name_expressions)
    program = Program(source, Types(source))
    wanted = _with_atomics(source)
    found: dict[Found, None] = {}
    for kernel in analysis.closures:
        for name, templates in _instances(program.types, kernel, name_expressions):
            sites = _Kernel(program, analysis, kernel, name, templates, wanted).sites()
            found |= dict.fromkeys(sorted(sites, key=lambda s: (s.at, str(sorted(map(str, s.places))))))
    return list(found)


def _instances(
    types: Types, kernel: Function, expressions: Sequence[str]
) -> Iterator[tuple[str, dict[str, Type]]]:
    named = [
        e.strip()
        for e in expressions
        if e.partition("<")[0].strip().lstrip("&:") in (kernel.name, kernel.qualified)
    ]
    if not kernel.is_template or not named:
        yield kernel.qualified, {}
    names = template_parameters(kernel.node)
    for expression in named if kernel.is_template else []:
        given = split_arguments(expression.partition("<")[2].rpartition(">")[0])
        yield expression, {n: types.parse(a) for n, a in zip(names, given, strict=False)}


def _with_atomics(source: Source) -> set[Function]:
    """The functions that may come to an atomic operation, by what they mention: others need not be followed.

    Where the types of libcu++ are mentioned, a mere ++ may be one, so then it is all of them.
    """
    names = {name for function in source.functions for name in function.mentions}
    names |= {name for found in source.entities.values() for name in found} | source.entities.keys()
    if names & {"atomic_ref", "atomic"}:
        return set(source.functions)
    graph = mention_graph(source)
    atomics = {name for name in names if _FUNCTION.fullmatch(name) or name in _METHODS}
    return {f for f in source.functions if (f.mentions | reach(graph, f.mentions)) & atomics}


class _Kernel:
    """The search from one kernel."""

    def __init__(
        self,
        program: Program,
        analysis: Analysis,
        kernel: Function,
        name: str,
        templates: dict[str, Type],
        wanted: Set[Function],
    ) -> None:
        self.program, self.analysis, self.kernel, self.name = program, analysis, kernel, name
        self.templates = templates
        self.wanted = wanted
        self.names = {function.name for function in wanted}
        self.seen: set[Frame] = set()
        self.entered: set[Function] = set()
        self.found: set[Found] = set()

    def sites(self) -> set[Found]:
        start = unbound(self.program, self.kernel)
        if self.templates:
            kinds = {p.name: self.program.types.parse(p.type, self.templates) for p in self.kernel.parameters}
            bound = {n: Bound(kinds[n], b.leads, b.lies) for n, b in start.bound.items()}
            start = Frame(self.program, self.kernel, bound, self.templates, start.this)
        self._search(start)
        reached = self.analysis.closures[self.kernel]
        for function in self.program.source.functions:
            hangs_on = function.owner if function.is_operator and function.owner else function.name
            if (
                function.body is not None
                and hangs_on in reached
                and function not in self.entered
                and function in self.wanted
                and not function.is_kernel
            ):
                self._search(unbound(self.program, function))
        return self.found

    def _search(self, frame: Frame) -> None:
        todo = [frame]
        while todo:
            current = todo.pop()
            if current in self.seen or current.function.body is None:
                continue
            self.seen.add(current)
            self.entered.add(current.function)
            todo += current.special_members(self.wanted)
            for node in self.program.nodes(current.function):
                if node.type == "call_expression" and self._may_matter(node):
                    called = current.calls(node)
                    todo += [frame for frame in called if frame.function in self.wanted]
                    if not called:
                        self._call(current, node)
                elif node.type in ("update_expression", "assignment_expression"):
                    self._operator(current, node)

    def _may_matter(self, call: Node) -> bool:
        """Whether a call may be an atomic operation, or come to one. Objects are called by names of their own."""
        function = call.child_by_field_name("function")
        name = callee(function)[0] if function is not None else ""
        functor = any(f.name == "operator()" for f in self.wanted)
        return functor or name in self.names or _FUNCTION.fullmatch(name) is not None or name in _METHODS

    def _call(self, frame: Frame, node: Node) -> None:
        function = node.child_by_field_name("function")
        arguments = node.child_by_field_name("arguments")
        if function is None or arguments is None:
            return
        function = inside(function)
        if function.type == "field_expression":
            field = function.child_by_field_name("field")
            if field is not None and text(field) in _METHODS:
                self._method(frame, node, function, text(field))
            return
        name = text(function).split("<")[0].removeprefix("::")
        known = _FUNCTION.fullmatch(name)
        if known and arguments.named_children:
            address = arguments.named_children[0]
            pointed = frame.type(address)
            kind = pointed.element() if pointed is not None else None
            if kind is None and len(arguments.named_children) > 1 and known[1] != "CAS":
                kind = frame.type(
                    arguments.named_children[-1]
                )  # the operand has the same type, or becomes it
            self._add(frame, node, name, known[1], kind, _SCOPES[known[2]], frame.leads(address))

    def _method(self, frame: Frame, node: Node, function: Node, name: str) -> None:
        """A method of cuda::atomic_ref and the like, on a variable, a temporary, or what a pointer leads to."""
        instance = function.child_by_field_name("argument")
        pointer = any(c.type == "->" for c in function.children)
        owner = frame.type(instance)
        owner = owner.element() if owner is not None and pointer else owner
        self._atomic_object(frame, node, name, _METHODS[name], owner, instance, pointer)

    def _operator(self, frame: Frame, node: Node) -> None:
        sign = next((c.type for c in node.children if c.type in _OPERATORS), None)
        instance = node.child_by_field_name("argument") or node.child_by_field_name("left")
        if sign is not None and instance is not None:
            self._atomic_object(frame, node, sign, _OPERATORS[sign], frame.type(instance), instance, False)

    def _atomic_object(
        self,
        frame: Frame,
        node: Node,
        called: str,
        operation: str,
        owner: Type | None,
        instance: Node | None,
        pointer: bool,
    ) -> None:
        written = _ATOMIC_TYPE.fullmatch(owner.name) if owner is not None and not owner.points else None
        if written is None:
            return
        arguments = written[1] or ""
        parts = split_arguments(arguments)
        scope = re.search(r"thread_scope_(\w+)", arguments)
        kind = self.program.types.parse(parts[0], frame.templates) if arguments else None
        if "atomic_ref" in (owner.name if owner is not None else "").split("<")[0]:
            places = frame.leads(instance)
        else:
            places = frame.leads(instance) if pointer else frame.lies(instance)
        self._add(frame, node, called, operation, kind, scope[1] if scope else "system", places, library=True)

    def _add(self, frame: Frame, node: Node, called: str, operation: str, kind: Type | None, scope: str, places: Places,
             *, library: bool = False) -> None:  # fmt: skip
        scalar = self.program.types.scalar(kind)
        if operation in ("CAS", "Exch"):
            scalar = whole(kind, scalar)
        line, file = self.program.source.line(node.start_byte)
        named = _operation(operation, scalar)
        if library and scalar is not None and (scalar.bits < 32 or named in ("FLOAT_MIN", "FLOAT_MAX")):
            # libcu++ has no instruction for these, and repeats compare-and-swap of the word around it.
            named, scalar = "CAS", replace(scalar, kind="unsigned", bits=max(32, scalar.bits))
        parent = node.parent
        while parent is not None and parent.type == "comma_expression":
            parent = parent.parent
        returns = parent is None or parent.type != "expression_statement"
        function = frame.function
        self.found.add(
            Found(
                kernel=self.name,
                function=f"{function.owner}::{function.name}" if function.owner else function.qualified,
                called=called,
                operation=named,
                type=str(kind) if kind is not None and scalar is not None else "",
                scalar=scalar,
                scope=scope,
                line=line,
                file=file,
                at=node.start_byte,
                end=node.end_byte,
                places=places or NOWHERE,
                returns=returns,
            )
        )


def _operation(name: str, scalar: Scalar | None) -> str:
    floating = scalar is not None and scalar.kind == "float"
    return _FLOAT.get(name, _INTEGER[name]) if floating else _INTEGER[name]
