"""The rewriting: each function keeps its body as written; what the body uses is put in scope around it.

"Shadow, do not wrap": kernels and the functions that need it get a parameter `hmm_ctx& hmm_c`, and at the opening brace
locals `threadIdx` ... made from it. Variables in shared, constant and device memory become references. Edits never
add or remove a line, so messages keep the user's line numbers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hmmemu.compiler.analysis import INDICES, Analysis, called_by, uses_context
from hmmemu.compiler.parse import Function, Node, Variable, declared_name, function_declarator, text, walk

_CONTEXT_PARAMETER = "const hmm_ctx& hmm_c"
_STORAGE = ("static", "extern", "inline", "thread_local")


@dataclass
class Edits:
    """Replacements of [start, end) by text; applied together, those at one place in the order given."""

    made: list[tuple[int, int, str, bool]] = field(default_factory=list)

    def insert(self, at: int, what: str, *, around: bool = False) -> None:
        """Puts text at a position; `around` if it belongs to a function's braces and to no statement in them."""
        self.made.append((at, at, what, around))

    def replace(self, start: int, end: int, what: str) -> None:
        """Replaces a range; its line breaks must be in `what`."""
        self.made.append((start, end, what, False))

    def apply(self, source: bytes, start: int = 0, end: int | None = None) -> str:
        """The text with all edits, or that of the statement at [start, end) with its own."""
        part = end is not None
        end = len(source) if end is None else end
        out: list[bytes] = []
        at = start
        for first, last, what, around in sorted(self.made, key=lambda e: (e[0], e[1])):
            if first < at or last > end or (part and around):
                continue
            out += [source[at:first], what.encode()]
            at = last
        out.append(source[at:end])
        return b"".join(out).decode()


@dataclass
class Global:
    """A variable in shared memory, for the module's table."""

    name: str  # qualified
    type: str
    constant: bool


@dataclass
class Rewritten:
    """The edits, and what they found on the way."""

    edits: Edits
    globals: list[Global]


def tag(analysis: Analysis, kernel: Function) -> str:
    """The type that stands for a kernel in shared-memory offsets."""
    return f"::hmm_k_{analysis.source.functions.index(kernel)}"


def rewrite(analysis: Analysis) -> Rewritten:
    """All edits of a source."""
    done = Rewritten(Edits(), [])
    for function in analysis.source.functions:
        _function(analysis, function, done.edits)
    _calls(analysis, done.edits)
    for variable in analysis.source.variables:
        _variable(analysis, variable, done)
    for loops in analysis.spins.values():
        for loop in loops:
            _begin_body(loop, "HMM_SPIN();", done.edits)
    _turns([loop for loops in analysis.turns.values() for loop in loops], done.edits)
    return done


# -- functions --------------------------------------------------------------------------------------------------


def _function(analysis: Analysis, function: Function, edits: Edits) -> None:
    gets_parameter = analysis.takes_parameter(function)
    if gets_parameter:
        _add_parameter(function.declarator, edits)
    _attributes(analysis, function, gets_parameter, edits)
    body = function.body
    if body is None or body.type != "compound_statement":
        return
    needed = function in analysis.needs
    if needed:
        head = "" if gets_parameter else " hmm_ctx hmm_c = hmm_here();"
        head += _locals(analysis, function, {p.name for p in function.parameters})
        edits.insert(body.start_byte + 1, head + " {", around=True)
        edits.insert(body.end_byte - 1, "} ", around=True)
    if needed or function.is_kernel:
        for node in walk(body):
            if node.type == "lambda_expression":
                _lambda(analysis, function, node, edits)


def _add_parameter(declarator: Node, edits: Edits) -> None:
    listing = declarator.child_by_field_name("parameters")
    if listing is None:
        return
    if listing.named_child_count and text(listing).strip("() \t\n") != "void":
        edits.insert(listing.start_byte + 1, _CONTEXT_PARAMETER + ", ")
    else:
        lines = "\n" * text(listing).count("\n")
        edits.replace(listing.start_byte + 1, listing.end_byte - 1, _CONTEXT_PARAMETER + lines)


def _attributes(analysis: Analysis, function: Function, gets_parameter: bool, edits: Edits) -> None:
    """Functions of the device are inline: unused ones cost nothing, used ones disappear into their callers."""
    device = function.is_kernel or function.has("__device__")
    if function.body is None or function.owner or not device:
        return
    words = ""
    head = (
        analysis.source.masked[function.node.start_byte : function.body.start_byte]
        .decode(errors="replace")
        .split("(")[0]
        .split()
    )
    if "inline" not in head and not function.has("__forceinline__") and not function.has("__inline__"):
        words = "inline "
    if function.has("__noinline__"):
        words += "__attribute__((noinline)) "
    elif function.is_kernel or (gets_parameter and function.name not in analysis.recursive):
        words += "__attribute__((always_inline)) " if not function.has("__forceinline__") else ""
    if words:  # standard attributes come first
        first = next(c for c in function.node.children if c.type != "attribute_declaration")
        edits.insert(first.start_byte, words)


def _locals(analysis: Analysis, function: Function, taken: set[str]) -> str:
    """Declarations of the built-in variables and namespace-scope shared variables that a function mentions."""
    made = ""
    for name in INDICES:
        if name in function.mentions and name not in taken:
            made += _index(name)
    for name, variable in analysis.shared.items():
        if name in function.mentions and name not in taken:
            made += _reference(analysis, variable, name, "::".join(("", *variable.scope, "")))
    return made


def _lambda(analysis: Analysis, function: Function, node: Node, edits: Edits) -> None:
    """A lambda that copies what it captures must not copy shared arrays; one without captures has no context."""
    captures, body = node.child_by_field_name("captures"), node.child_by_field_name("body")
    default = (
        next((text(c) for c in captures.children if c.type == "lambda_default_capture"), "")
        if captures
        else ""
    )
    if default == "&" or body is None:
        return
    used = {text(n) for n in walk(body) if n.type == "identifier"}
    shared = [(v, n) for v in analysis.source.variables if v.function is function and v.has("__shared__")
              and v.node.end_byte <= node.start_byte for n in map(text, v.names) if n in used]  # fmt: skip
    made = ""
    if default != "=" and (shared or uses_context(analysis, body)):
        made = " hmm_ctx hmm_c = hmm_here();" + "".join(_index(name) for name in INDICES if name in used)
    made += "".join(_reference(analysis, variable, name, "") for variable, name in shared)
    if made:
        edits.insert(body.start_byte + 1, made + " {")
        edits.insert(body.end_byte - 1, "} ")


def _index(name: str) -> str:
    kind, member = INDICES[name]
    return f" [[maybe_unused]] const {kind} {name} = hmm_c.{member};"


def _calls(analysis: Analysis, edits: Edits) -> None:
    """Passes the context at each call of a function that takes it."""
    for node in walk(analysis.source.root):
        if node.type == "identifier" and text(node) in analysis.parameter:
            call = called_by(node)
            arguments = call.child_by_field_name("arguments") if call is not None else None
            if arguments is not None:
                edits.insert(arguments.start_byte + 1, "hmm_c, " if arguments.named_child_count else "hmm_c")
        elif node.type == "template_instantiation":
            _instantiation(analysis, node, edits)
        elif node.type == "qualified_identifier":
            _qualified_shared(analysis, node, edits)


def _instantiation(analysis: Analysis, node: Node, edits: Edits) -> None:
    """`template void k<float>(float*);`"""
    declarator = function_declarator(node)
    name = declared_name(declarator)
    plain = text(name).split("<")[0].split("::")[-1].strip() if name is not None else ""
    if declarator is not None and any(f.is_kernel and f.name == plain for f in analysis.source.functions):
        _add_parameter(declarator, edits)


def _qualified_shared(analysis: Analysis, node: Node, edits: Edits) -> None:
    """`tile::data` of a __shared__ variable at namespace scope: what is in scope is the plain name."""
    *scope, name = text(node).replace(" ", "").split("::")
    variable = analysis.shared.get(name)
    if (
        variable is not None
        and tuple(s for s in scope if s)
        == variable.scope[len(variable.scope) - len([s for s in scope if s]) :]
    ):
        edits.replace(node.start_byte, node.end_byte, name)


def _begin_body(loop: Node, what: str, edits: Edits) -> None:
    body = loop.child_by_field_name("body")
    if body is None:
        return
    if body.type == "compound_statement":
        edits.insert(body.start_byte + 1, f" {what}")
    else:
        edits.insert(body.start_byte, f"{{ {what} ")
        edits.insert(body.end_byte, " }")


def _turns(loops: list[Node], edits: Edits) -> None:
    """Loops that may wait for other blocks give way to them now and then; each counts its turns."""
    ends: Counter[int] = Counter()
    last: dict[int, str] = {}
    for loop in loops:
        edits.insert(loop.start_byte, "{ unsigned hmm_turns = 0; ")
        _begin_body(loop, "HMM_TURN(hmm_turns);", edits)
        ends[loop.end_byte] += 1
        last[loop.end_byte] = text(loop)[-1]
    for end, count in ends.items():
        edits.replace(end - 1, end, last[end] + " }" * count)


# -- variables --------------------------------------------------------------------------------------------------


def _variable(analysis: Analysis, variable: Variable, done: Rewritten) -> None:
    if variable.has("__shared__"):
        _shared(analysis, variable, done.edits)
    elif variable.function is None and not variable.in_class and not stays_plain(variable):
        _global(variable, done)


def stays_plain(variable: Variable) -> bool:
    """Compile-time constants stay what they are: they may be array bounds and template arguments."""
    if variable.has("constexpr"):
        return True
    plain = all(d.type == "init_declarator" and (d.child_by_field_name("declarator") or d).type == "identifier"
                for d in variable.node.children_by_field_name("declarator"))  # fmt: skip
    return variable.has("const") and plain


def _strip(variable: Variable, edits: Edits, storage: tuple[str, ...]) -> None:
    """Takes out storage classes, and the keywords and alignments that stand between the specifiers."""
    for specifier in variable.specifiers:
        if text(specifier) in storage:
            edits.replace(specifier.start_byte, specifier.end_byte, "")
    for mark in variable.marks:
        if mark.keyword not in ("__restrict__", "__restrict"):
            edits.replace(mark.start, mark.end, "")


def _reference(analysis: Analysis, variable: Variable, name: str, scope: str) -> str:
    """A reference to a __shared__ variable whose type is known as hmm_t_NAME."""
    kind = f"{scope}hmm_t_{name}"
    if variable.has("extern"):
        return f" {kind}& {name} = hmm_dynamic_shared<{kind}>(hmm_c);"
    owner = variable.function
    who, which = "::hmm_device_functions", f"{scope}hmm_v_{name}"
    if owner is not None and owner.is_kernel:  # one place, whichever of the kernel's functions asks
        who, which = (
            tag(analysis, owner),
            f"hmm_variable<{analysis.source.variables.index(variable)}, {list(map(text, variable.names)).index(name)}>",
        )
    asked = [m.argument for m in variable.marks if m.keyword in ("__align__", "alignas")]
    last = f", ({asked[0]})" if asked else ""
    return f" {kind}& {name} = hmm_shared<{who}, {which}, {kind}{last}>(hmm_c);"


def _shared(analysis: Analysis, variable: Variable, edits: Edits) -> None:
    edits.insert(variable.node.start_byte, "typedef ")
    _strip(variable, edits, _STORAGE)
    after = ""
    for name in variable.names:
        edits.insert(name.start_byte, "hmm_t_")
        after += f" struct hmm_v_{text(name)};"
        if variable.function is not None:
            after += _reference(analysis, variable, text(name), "")
    edits.insert(variable.node.end_byte, after)


def _global(variable: Variable, done: Rewritten) -> None:
    edits = done.edits
    _strip(variable, edits, _STORAGE)
    constant = variable.has("__constant__")
    const = "const " if constant else ""
    if variable.has("extern"):
        edits.insert(variable.node.start_byte, "typedef ")
        after = "".join(f" extern {const}hmm_t_{text(n)}& {text(n)};" for n in variable.names)
        for name in variable.names:
            edits.insert(name.start_byte, "hmm_t_")
        edits.insert(variable.node.end_byte, after)
        return
    edits.insert(variable.node.start_byte, "static ")
    alignment = next((m.argument for m in variable.marks if m.keyword in ("__align__", "alignas")), "1")
    after = ""
    for name in variable.names:
        plain = text(name)
        qualified = "::".join((*variable.scope, plain))
        edits.insert(name.start_byte, "hmm_init_")
        kind = f"decltype(hmm_init_{plain})"
        after += f' {const}{kind}& {plain} = hmm_global_bind<{kind}, ({alignment})>("{qualified}", hmm_init_{plain});'
        done.globals.append(Global(qualified, _type_text(variable, name), constant))
    edits.insert(variable.node.end_byte, after)


def _type_text(variable: Variable, name: Node) -> str:
    """The variable's type as written, without the name: `float[256]`."""
    kind = variable.node.child_by_field_name("type")
    declarator = name
    while (
        declarator.parent is not None
        and declarator.parent.type.endswith("declarator")
        and declarator.parent.type != "init_declarator"
    ):
        declarator = declarator.parent
    shape = text(declarator).replace(text(name), "", 1).strip()
    return " ".join((text(kind) if kind is not None else "").split()) + shape
