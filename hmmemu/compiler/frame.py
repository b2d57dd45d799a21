"""Which memory a pointer in a kernel leads to: the array behind which argument, a __shared__ or __device__ variable.

A `Frame` is one function in one call. Answers are sets of places that are never too small.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hmmemu.compiler.overloads import callee, fits, plain, takes
from hmmemu.compiler.parse import Function, Node, text
from hmmemu.compiler.places import NONE, NOWHERE, Bound, Place, Places, Program
from hmmemu.compiler.typed import DEPTH, Typed, cast_to, is_atomic_ref, is_temporary
from hmmemu.compiler.types import ARITHMETIC, Type, base_name, deduce, split_arguments, template_parameters


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
    return Frame(program, function, bound, {}, this)


_NO_POINTERS = {"number_literal", "null", "nullptr", "true", "false", "char_literal", "sizeof_expression",
                "string_literal", "lambda_expression", "unary_expression"}  # fmt: skip
_LVALUES = {
    "identifier",
    "field_expression",
    "subscript_expression",
    "pointer_expression",
    "parenthesized_expression",
}
# Too narrow for an address. (A wider integer may be a pointer on its way through a cast.)
_NARROW = {name for name in ARITHMETIC if "long" not in name}
_NEVER_POINTERS = {"*", "/", "%", "<<", ">>", "==", "!=", "<", ">", "<=", ">=", "&&", "||", "^"}


class Frame(Typed):
    """One call of a function. Answers are not kept."""

    # -- places ---------------------------------------------------------------------------------------------------

    def leads(self, node: Node | None) -> Places:
        """The places that a pointer may lead to. Empty for what is no pointer."""
        return self._guarded("leads", node)

    def lies(self, node: Node | None) -> Places:
        """The places that an lvalue may lie in."""
        return self._guarded("lies", node)

    def _guarded(self, what: str, node: Node | None) -> Places:
        if node is None:
            return NOWHERE
        if (what, node.id) in self._busy:
            return NONE  # a variable given a value that depends on itself: p = p + 1
        if not self._enter(what, node):
            return NOWHERE
        try:
            return self._leads(node) if what == "leads" else self._lies(node)
        finally:
            self._busy.discard((what, node.id))

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
            if known is not None and not known.points and known.name in _NARROW:
                return NONE
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
        if function is not None and is_temporary(function):
            kind = self._call_type(node)
            return frozenset().union(*(self._referred(a, kind) for a in given)) if given else NOWHERE
        if function is not None and cast_to(function):
            return frozenset().union(*(self.leads(a) for a in given)) if given else NOWHERE
        known = self._call_type(node)
        if known is not None and not known.points and known.name in _NARROW:
            return NONE
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
        cut = not frames or any(frame.key in self.program.active for frame in frames)
        found = NOWHERE if cut else NONE
        for frame, value in self.returned(call):
            found |= frame._guarded(what, value)
        return found

    def returned(self, call: Node) -> Iterator[tuple[Frame, Node]]:
        """What a call may give: each frame with each of its returned values. A call within itself gives none."""
        for frame in self.calls(call):
            if frame.key not in self.program.active:
                self.program.active.add(frame.key)
                try:
                    yield from ((frame, value) for value in frame.returns())
                finally:
                    self.program.active.discard(frame.key)

    def calls(self, call: Node) -> list[Frame]:
        """Frames of the functions of this source that a call may mean; none for CUDA's own."""
        function = call.child_by_field_name("function")
        if function is None or self.depth > DEPTH or self.program.frames_left <= 0:
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

    def special_members(self) -> list[Frame]:
        """Frames of the constructors, destructors and operators of the objects among the locals."""
        found = []
        for name, kind in self.kinds.items():
            if kind is None or kind.points:
                continue
            this = Bound(kind.address(), self._made_of(frozenset({Place("local", name)})), NONE)
            for function in self.program.source.functions:
                if function.is_operator and function.body is not None and function.owner == plain(kind):
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
        return Frame(self.program, function, bound, {}, this, self.depth + 1)

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
            lies = self.lies(node) if "&" in parameter.type else self._contents(node)
            bound[parameter.name] = Bound(told, self.leads(node), lies)
        self.program.frames_left -= 1
        return Frame(self.program, function, bound, templates, this, self.depth + 1)

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
        if not self._enter("contents", node):
            return NONE
        try:
            known = self.type(node)
            if (
                node.type in _LVALUES
                and known is not None
                and not known.points
                and known.name not in ARITHMETIC
            ):
                return self._made_of(self.lies(node))
            return frozenset(replace(p, kind=f"made of {p.kind}") for p in self.leads(node))
        finally:
            self._busy.discard(("contents", node.id))


def _within(places: Places, name: str) -> Places:
    """Where a field lies in an object."""
    named = {"parameter", "local"} if name else set()
    return frozenset(replace(p, name=f"{p.name}.{name}") if p.kind in named else p for p in places)
