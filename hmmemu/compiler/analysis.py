"""Who needs a context, and how each kernel can run.

Both follow from which names a function mentions, itself or through what it mentions (matched by spelling). A name that
might mean two things is taken to mean both: a kernel then runs in a slower way than it could, never in a wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from hmmemu.compiler.parse import Function, Node, Source, Variable, mentions, text, walk

INDICES = {
    "threadIdx": ("uint3", "thread"),
    "blockIdx": ("uint3", "block"),
    "blockDim": ("dim3", "block_dim"),
    "gridDim": ("dim3", "grid_dim"),
}
BARRIERS = {"__syncthreads", "__syncthreads_count", "__syncthreads_and", "__syncthreads_or"}
WARP = {
    "__syncwarp", "__activemask", "__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync",
    "__ballot_sync",
    "__any_sync", "__all_sync", "__match_any_sync", "__match_all_sync", "__reduce_add_sync", "__reduce_min_sync",
    "__reduce_max_sync", "__reduce_and_sync", "__reduce_or_sync", "__reduce_xor_sync",
}  # fmt: skip
# What ends or reports a thread tells which one it was, so the thread loop must keep its index.
TELLS_THREAD = {"assert", "__assert_fail", "__assertfail", "__trap", "hmm_here"}
_CONTEXT = INDICES.keys() | BARRIERS | WARP
_LOOPS = {"while_statement", "do_statement", "for_statement"}
_ATOMIC_METHODS = {"load", "exchange", "compare_exchange_weak", "compare_exchange_strong"}
_MEETS_OTHERS = {"__ldcg", "__nanosleep", "__threadfence", "__threadfence_system"}


@dataclass
class Analysis:
    """What the rewriter does to each function, and each kernel's way to run."""

    source: Source
    parameter: set[str] = field(default_factory=set)  # names of functions that get the context as a parameter
    needs: set[Function] = field(default_factory=set)  # functions that use the context
    recursive: set[str] = field(default_factory=set)
    spins: dict[Function, list[Node]] = field(default_factory=dict)
    shared: dict[str, Variable] = field(
        default_factory=dict
    )  # __shared__ variables at namespace scope, by name
    ways: dict[Function, str] = field(default_factory=dict)
    closures: dict[Function, set[str]] = field(default_factory=dict)
    turns: dict[Function, list[Node]] = field(default_factory=dict)  # loops that may wait, and do not `spin`
    waits: set[Function] = field(default_factory=set)  # kernels whose blocks may wait for one another

    def takes_parameter(self, function: Function) -> bool:
        """Whether this function is rewritten to take the context as its first parameter."""
        return function.is_kernel or (function.name in self.parameter and not function.owner)


def analyse(source: Source, name_expressions: Sequence[str] = ()) -> Analysis:
    """Finds the functions that need a context and the way each kernel runs.

    Templates may reach what only a name expression mentions, as the functor in `apply<Square>`.
    """
    instances = set(re.findall(r"[A-Za-z_]\w*", " ".join(name_expressions)))
    found = Analysis(source)
    found.shared = {
        text(n): v for v in source.variables if v.function is None and v.has("__shared__") for n in v.names
    }
    volatile = volatile_names(source)
    looking = _looking(source, volatile)
    for function in source.functions:
        loops = _loops(function)
        if spins := [loop for loop in loops if _waits(loop, volatile)]:
            found.spins[function] = spins
        if turns := [loop for loop in loops if loop not in spins and _may_wait(loop, volatile, looking)]:
            found.turns[function] = turns
    _find_needs(found)
    graph = mention_graph(source)
    waiting = {f.name for f in (*found.spins, *found.turns)}
    found.recursive = {f.name for f in source.functions if f.name in reach(graph, graph.get(f.name, set()))}
    for kernel in source.functions:
        if kernel.is_kernel and kernel.body is not None:
            closure = reach(graph, kernel.mentions | (instances if kernel.is_template else set()))
            found.closures[kernel] = closure
            found.ways[kernel] = _way(found, kernel, closure)
            if waiting & (closure | {kernel.name}):
                found.waits.add(kernel)
    return found


def _way(found: Analysis, kernel: Function, closure: set[str]) -> str:
    waiting = {f.name for f in found.spins} & (closure | {kernel.name})
    if closure & WARP or waiting:
        return "HMM_WAY_COUNTED"
    if closure & BARRIERS:
        return "HMM_WAY_RING"
    if closure & TELLS_THREAD or asks_here(found, closure):
        return "HMM_WAY_LOOP_STORED"
    return "HMM_WAY_LOOP"


def asks_here(found: Analysis, closure: set[str]) -> bool:
    """Whether code in reach uses the context and cannot be given it."""
    if any(found.source.entities.get(name, set()) & INDICES.keys() for name in closure):
        return True  # initial values of members
    if any(f.name in closure and _defaults(f) & _CONTEXT for f in found.source.functions):
        return True
    for function in found.needs:
        if not found.takes_parameter(function) and closure & {function.name, function.owner or function.name}:
            return True
    return any(_captures_nothing(n) and uses_context(found, n) for f in found.source.functions
               if f.name in closure or f.is_kernel for n in walk(f.node) if n.type == "lambda_expression")  # fmt: skip


def _defaults(function: Function) -> set[str]:
    """What a function's default arguments mention; they are evaluated outside of any function."""
    listing = function.declarator.child_by_field_name("parameters")
    nodes = (
        [n for c in listing.named_children for n in c.children_by_field_name("default_value")]
        if listing
        else []
    )
    return set().union(*(mentions(n) for n in nodes))


def mention_graph(source: Source) -> dict[str, set[str]]:
    """Name to mentioned names. Members without a usable name (operators, constructors) hang on their class."""
    graph: dict[str, set[str]] = {name: set(found) for name, found in source.entities.items()}
    for function in source.functions:
        graph.setdefault(
            function.owner if function.is_operator and function.owner else function.name, set()
        ).update(
            function.mentions - {function.name} if not _calls(function, function.name) else function.mentions
        )
    return graph


def _calls(function: Function, name: str) -> bool:
    body = function.body
    return body is not None and any(n.type == "identifier" and text(n) == name for n in walk(body))


def reach(graph: dict[str, set[str]], start: set[str]) -> set[str]:
    """The names that are mentioned from some names on, those included."""
    seen: set[str] = set()
    todo = list(start)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(graph.get(name, ()))
    return seen


# -- contexts -------------------------------------------------------------------------------------------------------


def _find_needs(found: Analysis) -> None:
    source = found.source
    direct = _CONTEXT | found.shared.keys()
    has_shared = {v.function for v in source.variables if v.function is not None and v.has("__shared__")}
    found.needs = {
        f
        for f in source.functions
        if f.body is not None and (f.mentions & direct or f in has_shared or f in found.spins)
    }
    while True:
        wanted = {f.name for f in found.needs if not f.is_kernel and not f.owner and not f.is_operator}
        found.parameter = {name for name in wanted if name and name not in _not_passable(found, wanted)}
        callers = {
            f for f in source.functions if f.body is not None and f.mentions & found.parameter - {f.name}
        }
        if callers <= found.needs:
            return
        found.needs |= callers


def _not_passable(found: Analysis, wanted: set[str]) -> set[str]:
    """Names with a use that cannot be given one more argument: taken as a value, a member, used outside functions."""
    source = found.source
    refused = {f.name for f in source.functions if f.owner or f.is_operator or f.is_kernel} & wanted
    declared = {
        n.id
        for f in source.functions
        for n in walk(f.declarator.child_by_field_name("declarator") or f.declarator)
        if n.type in ("identifier", "field_identifier")
    }
    for node in walk(source.root):
        if (
            node.type in ("identifier", "field_identifier", "type_identifier")
            and text(node) in wanted
            and node.id not in declared
        ):
            call = called_by(node)
            if call is None or not _inside_function(call):
                refused.add(text(node))
    return refused


def called_by(name: Node) -> Node | None:
    """The call_expression whose function this identifier names, if it is one."""
    node = name
    while node.parent is not None:
        parent = node.parent
        if parent.type == "call_expression":
            function = parent.child_by_field_name("function")
            return parent if function is not None and function.id == node.id else None
        last = (
            parent.type == "qualified_identifier"
            and (parent.child_by_field_name("name") or parent).id == node.id
        )
        templated = (
            parent.type == "template_function"
            and (parent.child_by_field_name("name") or parent).id == node.id
        )
        if not last and not templated:
            return None
        node = parent
    return None


def _inside_function(node: Node) -> bool:
    """Whether a node stands in a function's body (and not in a default argument, say)."""
    current = node
    while current.parent is not None:
        parent = current.parent
        if parent.type == "function_definition":
            return (parent.child_by_field_name("body") or parent).id == current.id
        current = parent
    return False


def _captures_nothing(node: Node) -> bool:
    """Whether a lambda lacks a default capture, so that it does not see its function's locals."""
    captures = node.child_by_field_name("captures")
    return captures is None or not any(c.type == "lambda_default_capture" for c in captures.children)


def uses_context(found: Analysis, node: Node) -> bool:
    """Whether the text below a node needs a context."""
    names = _CONTEXT | found.parameter | found.shared.keys()
    return any(n.type == "identifier" and text(n) in names for n in walk(node))


# -- spinning -------------------------------------------------------------------------------------------------------


def _loops(function: Function) -> list[Node]:
    return [n for n in walk(function.body) if n.type in _LOOPS] if function.body is not None else []


def volatile_names(source: Source) -> set[str]:
    """What is declared volatile, by name."""
    names: set[str] = set()
    for node in walk(source.root):
        if node.type in ("declaration", "parameter_declaration", "field_declaration") and any(
            c.type == "type_qualifier" and text(c) == "volatile" for c in node.children
        ):
            names |= {
                text(n)
                for d in node.children_by_field_name("declarator")
                for n in walk(d)
                if n.type in ("identifier", "field_identifier")
            }
    return names


def _waits(loop: Node, volatile: set[str]) -> bool:
    """Whether a loop looks as if it waited for memory to change: its condition reads volatile or atomically."""
    condition, body = loop.child_by_field_name("condition"), loop.child_by_field_name("body")
    if condition is None or text(condition).strip("() ") in ("true", "1"):
        exits = (
            [
                n
                for n in walk(body)
                if n.type == "if_statement" and any(c.type == "break_statement" for c in walk(n))
            ]
            if body is not None
            else []
        )
        asked = [c for n in exits if (c := n.child_by_field_name("condition")) is not None]
        return any(_reads_volatile(c, volatile) for c in asked) or (
            any(_is_atomic(c) for c in asked) and _does_nothing(body)
        )
    if _reads_volatile(condition, volatile):
        return True
    return _is_atomic(condition) and _does_nothing(body)


def _looking(source: Source, volatile: set[str]) -> set[str]:
    """Functions that look at what others write, by name: a loop may ask one of them whether to go on."""
    return {
        f.name
        for f in source.functions
        if not f.is_kernel and f.body and (_reads_volatile(f.body, volatile) or _meets_others(f.body))
    }


def _may_wait(loop: Node, volatile: set[str], looking: set[str]) -> bool:
    """Whether what others write may decide how often a loop runs.

    Rather yes than no: it costs little (and under tracker `async` what driver/waiting.cpp says).
    """
    parts = [loop.child_by_field_name("condition")]
    if parts[0] is not None and any(n.type == "identifier" and text(n) in looking for n in walk(parts[0])):
        return True
    if loop.type != "for_statement" or parts[0] is None:
        parts.append(loop.child_by_field_name("body"))
    return any(_reads_volatile(p, volatile) or _meets_others(p) for p in parts if p is not None)


def _meets_others(node: Node) -> bool:
    names = {text(n) for n in walk(node) if n.type in ("identifier", "field_identifier")}
    return _is_atomic(node) or not names.isdisjoint(_MEETS_OTHERS)


def _is_atomic(node: Node) -> bool:
    """Whether something is read atomically: by a function, or by a method of cuda::atomic_ref."""
    return any(
        (n.type == "identifier" and text(n).startswith("atomic"))
        or (n.type == "field_identifier" and text(n) in _ATOMIC_METHODS)
        for n in walk(node)
    )


def _reads_volatile(node: Node, volatile: set[str]) -> bool:
    for n in walk(node):
        if n.type == "type_qualifier" and text(n) == "volatile":
            return True
        if n.type in ("identifier", "field_identifier") and (text(n) in volatile or text(n) == "__ldcv"):
            return True
    return False


def _does_nothing(body: Node | None) -> bool:
    """Whether a loop's body only waits, and asks whether to go on."""
    if body is None:
        return True
    asked = {
        a for n in walk(body) if n.type == "if_statement" for a in _below(n.child_by_field_name("condition"))
    }
    names = {text(n) for n in walk(body) if n.type == "identifier" and n.id not in asked}
    return names <= {"__nanosleep", "__threadfence", "__threadfence_block", "__threadfence_system"}


def _below(node: Node | None) -> set[int]:
    return {n.id for n in walk(node)} if node is not None else set()
