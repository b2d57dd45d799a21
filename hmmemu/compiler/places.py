"""Memory that a pointer in a kernel may lead to, and what an analysis knows of a whole source.

`UNKNOWN` in a set of places means that it may be any memory at all. One
`Program` serves one analysis, in one thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hmmemu.compiler.parse import Function, Node, Source, declared_name, text, walk
from hmmemu.compiler.types import Type, Types, declarator_type


@dataclass(frozen=True)
class Place:
    """Memory, of one of these kinds:

    "argument": what the kernel's pointer argument `name` leads to ("v.data" for a pointer in a struct);
    "memory": what pointers lead to that lie there (name "*root");
    "shared", "variable" (__device__ or __constant__), "managed": the variable `name`;
    "local": a variable of a thread; "parameter": the kernel's own copy of an argument;
    "made of argument", "made of shared", ...: an object that holds a pointer to that;
    "unknown".
    """

    kind: str
    name: str

    @property
    def behind(self) -> Place:
        """Where a pointer leads that lies in this place."""
        if self.kind == "parameter":
            return Place("argument", self.name)
        if self.kind.startswith("made of "):
            return Place(self.kind.removeprefix("made of "), self.name)
        if self.kind in ("argument", "variable", "managed", "shared"):
            return Place("memory", "*" + self.name)
        return self if self.kind == "memory" else UNKNOWN


Places = frozenset[Place]
UNKNOWN = Place("unknown", "")
NOWHERE: Places = frozenset({UNKNOWN})
NONE: Places = frozenset()


@dataclass(frozen=True)
class Bound:
    """What a parameter stands for in a call: its type, where it leads as a pointer, where it lies as a reference."""

    type: Type | None
    leads: Places
    lies: Places


@dataclass(eq=False)
class Program:
    """A source with its types and its variables at namespace scope."""

    source: Source
    types: Types
    variables: dict[str, tuple[str, Type | None]] = field(default_factory=dict)  # name: (kind of place, type)
    functions: dict[str, list[Function]] = field(default_factory=dict)
    # The calls that were followed; those whose result is being looked for; questions (Typed.remember) that met
    # themselves before they were answered; how many are open now, and how many may still be looked into: then all
    # is unknown, so that every search ends soon.
    frames: dict[tuple[object, ...], Any] = field(default_factory=dict)
    active: set[Any] = field(default_factory=set)
    cuts: list[object] = field(default_factory=list)
    nesting: int = 0
    steps_left: int = 10_000

    def nodes(self, function: Function) -> list[Node]:
        """All nodes of a function's body."""
        if function not in self._nodes:
            self._nodes[function] = list(walk(function.body)) if function.body is not None else []
        return self._nodes[function]

    def __post_init__(self) -> None:
        self._nodes: dict[Function, list[Node]] = {}
        for variable in self.source.variables:
            kind = (
                "shared"
                if variable.has("__shared__")
                else "managed"
                if variable.has("__managed__")
                else "variable"
            )
            named = variable.node.child_by_field_name("type")
            for declarator in variable.node.children_by_field_name("declarator"):
                name = declared_name(declarator)
                if name is not None:
                    self.variables[text(name)] = (kind, declarator_type(self.types, named, declarator, {}))
        for function in self.source.functions:
            if function.body is not None:
                self.functions.setdefault(function.name, []).append(function)
