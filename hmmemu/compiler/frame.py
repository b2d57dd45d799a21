"""Which memory a pointer in a kernel leads to: the array behind which argument, a __shared__ or __device__ variable.

A `Frame` is one function in one call. Answers are sets of places that are never too small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import replace

from hmmemu.compiler.overloads import callee, fits, plain, takes
from hmmemu.compiler.parse import Function, Node, text
from hmmemu.compiler.places import NONE, NOWHERE, Bound, Place, Places, Program
from hmmemu.compiler.typed import Typed, cast_to, is_atomic_ref, temporary
from hmmemu.compiler.types import ARITHMETIC, Type, base_name, deduce, split_arguments, template_parameters


def _key(
    function: Function, bound: dict[str, Bound], templates: Mapping[str, Type], this: Bound
) -> tuple[object, ...]:
    return (
        function,
        tuple(sorted(bound.items(), key=_first)),
        tuple(sorted(templates.items(), key=_first)),
        this,
    )


def _first(item: tuple[str, object]) -> str:
    return item[0]


def _frame_of(
    program: Program,
    function: Function,
    bound: dict[str, Bound],
    templates: Mapping[str, Type],
    this: Bound,
) -> Frame:
    """The frame of a call; the one that there is, if there is one for such a call."""
    key = _key(function, bound, templates, this)
    if key not in program.frames:
        program.frames[key] = Frame(program, function, bound, templates, this)
    frame: Frame = program.frames[key]
    return frame


def unbound(program: Program, function: Function) -> Frame:
    """A frame of a function of whose callers nothing is known; of a kernel, with its arguments."""
    bound = {}
    for parameter in function.parameters:
        kind = program.types.parse(parameter.type)
        if function.is_kernel:
            lies = frozenset({Place("parameter", parameter.name)})
            leads = frozenset(p.behind for p in lies) if kind.points or is_atomic_ref(kind) else NONE
            bound[parameter.name] = Bound(kind, leads, lies)
        else:
            reference = "&" in parameter.type
            lies = NOWHERE if reference else frozenset({Place("local", parameter.name)})
            bound[parameter.name] = Bound(kind, NOWHERE, lies)
    this = Bound(Type(function.owner, 1) if function.owner else None, NOWHERE, NOWHERE)
    return _frame_of(program, function, bound, {}, this)


_NO_POINTERS = {"number_literal", "null", "nullptr", "true", "false", "char_literal", "sizeof_expression",
                "string_literal", "lambda_expression", "unary_expression"}  # fmt: skip
_LVALUES = {
    "identifier",
    "field_expression",
    "subscript_expression",
    "pointer_expression",
    "parenthesized_expression",
}
_NEVER_POINTERS = {"*", "/", "%", "<<", ">>", "==", "!=", "<", ">", "<=", ">=", "&&", "||", "^"}


class Frame(Typed):
    """One call of a function. Calls that cannot differ in what is found in them share a frame."""

    # -- places ---------------------------------------------------------------------------------------------------

    def leads(self, node: Node | None) -> Places:
        """The places that a pointer may lead to. Empty for what is no pointer."""
        return self._ask("leads", node)

    def lies(self, node: Node | None) -> Places:
        """The places that an lvalue may lie in."""
        return self._ask("lies", node)

    def _ask(self, what: str, node: Node | None) -> Places:
        if node is None:
            return NOWHERE
        if what == "leads" and self._is_plain(self.type(node)):
            return NONE
        return self.remember(what, node, self._leads if what == "leads" else self._lies, NONE, NOWHERE)

    def _is_plain(self, known: Type | None) -> bool:
        """Whether a value of that type leads nowhere."""
        return known is not None and not known.dimensions and not self.program.types.holds_pointers(known)

    def _leads(self, node: Node) -> Places:
        kind = node.type
        argument = node.child_by_field_name("argument") or node.child_by_field_name("value")
        if kind in _NO_POINTERS:
            return NONE
        if kind in ("identifier", "type_identifier", "field_identifier"):
            return self._name_leads(text(node))
        if kind == "this":
            return self.this.leads
        if kind in ("parenthesized_expression", "comma_expression"):
            return self.leads(node.named_children[-1]) if node.named_children else NOWHERE
        if kind in ("cast_expression", "update_expression"):
            return self.leads(argument)
        if kind == "assignment_expression":
            return self.leads(node.child_by_field_name("right")) | self.leads(
                node.child_by_field_name("left")
            )
        if kind == "conditional_expression":
            return self.leads(node.child_by_field_name("consequence")) | self.leads(
                node.child_by_field_name("alternative")
            )
        if kind == "pointer_expression" and node.children[0].type == "&":
            return self.lies(argument)
        made = temporary(node)
        if made is not None and made[1]:
            return frozenset().union(*(self._referred(a, self.type(node)) for a in made[1]))
        if kind == "call_expression":
            return self._call_leads(node)
        if kind == "binary_expression":
            return self._binary_leads(node)
        if kind in ("subscript_expression", "pointer_expression", "field_expression"):
            return self._loaded(node, self.type(node))
        if kind == "compound_literal_expression":
            return self.leads(node.child_by_field_name("value"))
        if kind == "initializer_list":
            return frozenset().union(*(self.leads(c) for c in node.named_children))
        return NOWHERE

    def _binary_leads(self, node: Node) -> Places:
        left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
        if any(c.type in _NEVER_POINTERS for c in node.children):
            return NONE
        for side in (left, right):
            known = self.type(side)
            if known is not None and known.points:
                return self.leads(side)  # the other side is a distance
        return self.leads(left) | self.leads(right)

    def _loaded(self, node: Node, known: Type | None) -> Places:
        """Where a pointer leads that is read from memory."""
        if known is not None and known.dimensions:
            return self.lies(node)
        if known is not None and not known.pointers:
            return NONE
        return self._behind(self._made_of(self.lies(node)))

    def _name_leads(self, name: str) -> Places:
        if name in self.kinds or name in self.bound:
            known = self._name_type(name)
            if known is not None and known.dimensions and name not in self.bound:
                return frozenset({Place("local", name)})
            given = frozenset().union(*(self._referred(v, known) for v in self.values.get(name, [])))
            if name in self.bound and name not in self.kinds:
                return given | self.bound[name].leads
            return given or (NONE if name in self.values else NOWHERE)
        if self._is_member(name):
            known = self._name_type(name)
            if known is not None and not known.pointers and not known.dimensions:
                return NONE
            lies = self._member_lies(name)
            return lies if known is not None and known.dimensions else self._behind(lies)
        return self._variable_leads(name)

    def _referred(self, value: Node, known: Type | None) -> Places:
        """Where a variable leads that is given a value. A cuda::atomic_ref is a pointer to what it is made from."""
        made = is_atomic_ref(known) and not is_atomic_ref(self.type(value))
        return self.lies(value) if made else self.leads(value)

    def _variable_leads(self, name: str) -> Places:
        if name not in self.program.variables:
            return NOWHERE
        kind, known = self.program.variables[name]
        place = Place(kind, name)
        if known is None or known.dimensions:
            return frozenset({place})
        return frozenset({place.behind}) if known.pointers else NONE

    def _behind(self, lies: Places) -> Places:
        return frozenset(p.behind for p in lies)

    def _call_leads(self, node: Node) -> Places:
        function = node.child_by_field_name("function")
        arguments = node.child_by_field_name("arguments")
        given = arguments.named_children if arguments is not None else []
        if function is not None and cast_to(function):
            return frozenset().union(*(self.leads(a) for a in given)) if given else NOWHERE
        if function is not None and text(function).startswith("atomic") and given:
            return self._behind(self.leads(given[0]))  # a pointer that was taken out of memory
        return self._through(node, "leads")

    def _lies(self, node: Node) -> Places:
        kind = node.type
        argument = node.child_by_field_name("argument")
        if kind in ("identifier", "type_identifier", "field_identifier"):
            return self._name_lies(text(node))
        if kind == "subscript_expression" or (kind == "pointer_expression" and node.children[0].type == "*"):
            return self.leads(argument)
        if kind == "field_expression":
            if any(c.type == "->" for c in node.children):
                return self.leads(argument)
            name = node.child_by_field_name("field")
            return _within(self.lies(argument), text(name) if name is not None else "")
        if kind in ("parenthesized_expression", "comma_expression"):
            return self.lies(node.named_children[-1]) if node.named_children else NOWHERE
        if kind == "conditional_expression":
            return self.lies(node.child_by_field_name("consequence")) | self.lies(
                node.child_by_field_name("alternative")
            )
        if kind == "call_expression":
            return self._through(node, "lies")
        return NOWHERE

    def _name_lies(self, name: str) -> Places:
        if name in self.references:
            return frozenset().union(*(self.lies(v) for v in self.values.get(name, []))) or NOWHERE
        if name in self.kinds:
            return frozenset({Place("local", name)})
        if name in self.bound:
            return self.bound[name].lies
        if self._is_member(name):
            return self._member_lies(name)
        if name in self.program.variables:
            return frozenset({Place(self.program.variables[name][0], name)})
        return NOWHERE

    def _is_member(self, name: str) -> bool:
        owner = self.this.type.element() if self.this.type is not None else None
        return owner is not None and self.program.types.member(owner, name) is not None

    def _member_lies(self, name: str) -> Places:
        return _within(self.this.leads, name)

    # -- calls ----------------------------------------------------------------------------------------------------

    def _through(self, call: Node, what: str) -> Places:
        """The places of what a call of a function of this source gives. A call within itself may give anything."""
        frames = self.calls(call)
        open_calls = [frame for frame in frames if frame in self.program.active]
        self.program.cuts += open_calls
        found = NOWHERE if open_calls or not frames else NONE
        for frame, value in self.returned(call):
            found |= frame._ask(what, value)
        return found

    def returned(self, call: Node) -> Iterator[tuple[Frame, Node]]:
        """What a call may give: each frame with each of its returned values. A call within itself gives none."""
        for frame in self.calls(call):
            if frame not in self.program.active:
                self.program.active.add(frame)
                try:
                    yield from ((frame, value) for value in frame.returns())
                finally:
                    self.program.active.discard(frame)
                    self.program.cuts[:] = [cut for cut in self.program.cuts if cut is not frame]

    def calls(self, call: Node) -> list[Frame]:
        """Frames of the functions of this source that a call may mean; none for CUDA's own."""
        return self.remember("calls", call, self._calls, [], [])

    def _calls(self, call: Node) -> list[Frame]:
        function = call.child_by_field_name("function")
        if function is None:
            return []
        name, explicit, instance = callee(function)
        if instance is None and (name in self.kinds or name in self.bound):
            name, instance = "operator()", function
        arguments = call.child_by_field_name("arguments")
        given = arguments.named_children if arguments is not None else []
        kinds = [self.type(a) for a in given]
        owner = self._owner(instance, function)
        candidates = [
            f for f in self.program.functions.get(name, [])
            if takes(f, len(given)) and fits(self.program.types, f, kinds) and self._may_be(f, instance, owner)
        ]  # fmt: skip
        return [self._frame(f, given, kinds, explicit, instance, owner, function) for f in candidates]

    def special_members(self, wanted: Set[Function]) -> list[Frame]:
        """Frames of those constructors, destructors and operators of the objects among the locals that are wanted."""
        found = []
        for name, kind in self.kinds.items():
            if kind is None or kind.points:
                continue
            members = [f for f in wanted if f.is_operator and f.owner == plain(kind)]
            if not members:
                continue
            this = Bound(kind.address(), self._made_of(frozenset({Place("local", name)})), NONE)
            for function in members:
                found.append(self._special(function, self.values.get(name, []), this))
        return found

    def _special(self, function: Function, given: list[Node], this: Bound) -> Frame:
        bound = dict(unbound(self.program, function).bound)
        if function.name == function.owner:  # a constructor
            for parameter, node in zip(function.parameters, given, strict=False):
                kind = self.program.types.parse(parameter.type)
                bound[parameter.name] = Bound(
                    kind, self.leads(node), frozenset({Place("local", parameter.name)})
                )
        return _frame_of(self.program, function, bound, {}, this)

    def _owner(self, instance: Node | None, function: Node) -> Type | None:
        if instance is None:
            return self.this.type.element() if self.this.type is not None else None
        found = self.type(instance)
        return (
            found.element() if found is not None and any(c.type == "->" for c in function.children) else found
        )

    def _may_be(self, function: Function, instance: Node | None, owner: Type | None) -> bool:
        if instance is None:
            return (
                not function.owner
                or (owner is not None and function.owner == plain(owner))
                or function.owner == "?"
            )
        return bool(function.owner) and (
            owner is None or function.owner == plain(owner) or self._inherits(owner, function)
        )

    def _inherits(self, owner: Type, function: Function) -> bool:
        record = self.program.types.records.get(plain(owner))
        return record is not None and any(base_name(b).split("<")[0] == function.owner for b in record.bases)

    def _frame(self, function: Function, given: list[Node], kinds: list[Type | None], explicit: list[str],
               instance: Node | None, owner: Type | None, called: Node) -> Frame:  # fmt: skip
        types = self.program.types
        templates = deduce(
            types, function, [str(types.parse(e, self.templates)) for e in explicit], kinds, self.templates
        )
        this = self.this if instance is None else self._this(instance, owner, called)
        if function.owner and owner is not None and "<" in owner.name:
            record = types.records.get(function.owner)
            inside = split_arguments(owner.name.partition("<")[2].rpartition(">")[0])
            names = record.parameters if record is not None else []
            templates |= {n: types.parse(a) for n, a in zip(names, inside, strict=False)}
        bound = {}
        for parameter, node, kind in zip(function.parameters, given, kinds, strict=False):
            written = types.parse(parameter.type, templates)
            told = kind if written.name in ("auto", *template_parameters(function.node)) and kind else written
            if "&" not in parameter.type and self._is_plain(told):
                bound[parameter.name] = Bound(told, NONE, frozenset({Place("local", parameter.name)}))
                continue
            lies = self.lies(node) if "&" in parameter.type else self._contents(node)
            bound[parameter.name] = Bound(told, self.leads(node), lies)
        return _frame_of(self.program, function, bound, templates, this)

    def _this(self, instance: Node, owner: Type | None, called: Node) -> Bound:
        pointer = any(c.type == "->" for c in called.children)
        lies = self.leads(instance) if pointer else self.lies(instance)
        return Bound(owner.address() if owner is not None else None, self._made_of(lies), NONE)

    def _made_of(self, lies: Places) -> Places:
        """The places of an object; in place of a local one, those of what it was made from."""
        found = frozenset(place for place in lies if place.kind != "local")
        for place in lies - found:
            name, _, path = place.name.partition(".")
            values = self.values.get(name, [])
            found |= (
                frozenset().union(*(_within(self._contents(v), path) for v in values)) if values else NOWHERE
            )
        return found

    def _contents(self, node: Node) -> Places:
        """The places of an object that is given a value: pointers in it are the pointers in those."""
        return self.remember("contents", node, self._find_contents, NONE, NOWHERE)

    def _find_contents(self, node: Node) -> Places:
        known = self.type(node)
        if node.type in _LVALUES and known is not None and not known.points and known.name not in ARITHMETIC:
            return self._made_of(self.lies(node))
        return frozenset(replace(p, kind=f"made of {p.kind}") for p in self.leads(node))


def _within(places: Places, name: str) -> Places:
    """Where a field lies in an object."""
    named = {"parameter", "local"} if name else set()
    return frozenset(replace(p, name=f"{p.name}.{name}") if p.kind in named else p for p in places)
