"""What becomes of each statement and each local of a kernel that is cut into pieces (see fission.py).

Pieces are loops over the threads of a block. Outside them stays what all threads do alike: uniform variables and the
control flow around barriers. Loops without barriers are taken outside too where that lets the pieces inside be
vectorised: loops with a uniform number of rounds, and loops that walk an array in strides of the block or grid. Threads
between two barriers are independent, so any order of their steps is right; in lock step, neighbours touch neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hmmemu.compiler.analysis import BARRIERS, Analysis
from hmmemu.compiler.parse import Function, Node, declared_name, text, walk
from hmmemu.compiler.uniform import LOOPS, Uniform, is_left_early

CONTROL = LOOPS | {"if_statement"}
TYPES = {"type_definition", "alias_declaration", "using_declaration", "static_assert_declaration", "struct_specifier",
         "class_specifier", "union_specifier", "enum_specifier"}  # fmt: skip
_UNCLEAR = {"goto_statement", "labeled_statement", "try_statement", "lambda_expression"}


class GiveUp(Exception):
    """The kernel is not of the supported form."""


@dataclass(eq=False)
class Local:
    """A local that is declared outside the pieces' inner scopes."""

    name: str
    kind: str  # "uniform"; "again": computed in each piece; "array": one element a thread; "piece": lives in one piece
    specifiers: str
    declarator: Node | None
    index: int
    again: str = ""  # the text that computes it, where that is not its declaration
    needs: set[str] = field(default_factory=set)  # names that computing it again needs


@dataclass(frozen=True)
class Stride:
    """`for (T i = start; condition; i += step)` with a start of the thread's own and a uniform step."""

    name: str
    type: str
    start: Node
    step: Node
    condition: Node


class Plan:
    """Decisions for one kernel. Raises GiveUp if it does not qualify."""

    def __init__(self, analysis: Analysis, kernel: Function) -> None:
        if kernel.body is None:
            raise GiveUp
        self.analysis, self.kernel, self.body = analysis, kernel, kernel.body
        self.source = analysis.source
        self.shared = {v.node.id for v in self.source.variables if v.has("__shared__")}
        self.uniform = Uniform(analysis, kernel)
        self.locals: list[Local] = []
        self.by_declarator: dict[int, Local] = {}
        self.parameters: list[Local] = []  # parameters that threads change, each for itself
        self.lifted = 0  # loops without barriers that run outside the pieces
        self._check()
        self._take_parameters()
        self._find_locals(self.body, list(self.parameters))
        self._choose_kinds()

    # -- statements

    def has_barrier(self, node: Node) -> bool:
        """Whether a barrier lies below a node."""
        return any(n.type == "identifier" and text(n) == "__syncthreads" for n in walk(node))

    def stays_in_piece(self, statement: Node) -> bool:
        """Whether a statement joins the piece before it."""
        return (
            not self.has_barrier(statement)
            and not self._changes_uniform(statement)
            and not self._lifts(statement)
        )

    def is_uniform_control(self, statement: Node) -> bool:
        """Whether all threads take the same way through a control statement."""
        return self.uniform.expression(statement.child_by_field_name("condition")) and not is_left_early(
            statement
        )

    def stride(self, loop: Node) -> Stride | None:
        """A loop's stride form, if it has it."""
        start, condition, update = (
            loop.child_by_field_name(f) for f in ("initializer", "condition", "update")
        )
        if (
            loop.type != "for_statement"
            or start is None
            or condition is None
            or update is None
            or is_left_early(loop)
        ):
            return None
        declarators = start.children_by_field_name("declarator") if start.type == "declaration" else []
        if len(declarators) != 1 or declarators[0].type != "init_declarator":
            return None
        inner, value = (declarators[0].child_by_field_name(f) for f in ("declarator", "value"))
        step, target = update.child_by_field_name("right"), update.child_by_field_name("left")
        if inner is None or inner.type != "identifier" or value is None or step is None or target is None:
            return None
        name, kind = text(inner), text(start)[: declarators[0].start_byte - start.start_byte].strip()
        plus = update.type == "assignment_expression" and any(c.type == "+=" for c in update.children)
        if not plus or text(target) != name or step.type == "number_literal" or "auto" in kind.split():
            return None
        known = {local.name for local in self.locals if local.kind == "again"}
        pure = self.uniform.pure(value, known) and self.uniform.pure(condition, known | {name})
        body = loop.child_by_field_name("body") or loop
        same = self.uniform.stable(step, loop) and all(
            self.uniform.stable(n, body) for n in (value, condition)
        )
        if not pure or not same or not self.uniform.expression(step):
            return None
        return Stride(name, kind, value, step, condition)

    def is_unit(self, start: Node) -> bool:
        """Whether a pure expression is threadIdx.x plus something uniform, through locals that are computed again."""
        if start.type == "parenthesized_expression":
            return self.is_unit(start.named_children[0])
        if start.type == "field_expression":
            return text(start).replace(" ", "") == "threadIdx.x"
        if start.type == "identifier":
            local = next(
                (one for one in self.locals if one.name == text(start) and one.kind == "again"), None
            )
            value = (
                local.declarator.child_by_field_name("value")
                if local is not None and local.declarator is not None
                else None
            )
            return value is not None and self.is_unit(value)
        left, right = start.child_by_field_name("left"), start.child_by_field_name("right")
        if (
            start.type != "binary_expression"
            or left is None
            or right is None
            or not any(c.type == "+" for c in start.children)
        ):
            return False
        return (self.is_unit(left) and self.uniform.expression(right)) or (
            self.uniform.expression(left) and self.is_unit(right)
        )

    def _lifts(self, statement: Node) -> bool:
        """Whether a statement without barriers runs outside the pieces: a loop worth it, or an `if` around one."""
        if statement.type in LOOPS:
            if self.stride(statement) is not None:
                return self._is_simple(statement, atomics=True)
            return (
                self.is_uniform_control(statement)
                and self._counts_uniformly(statement)
                and self._is_simple(statement)
            )
        if statement.type == "if_statement" and statement.child_by_field_name("alternative") is None:
            body = statement.child_by_field_name("consequence")
            return body is not None and self._guards(statement) and self._lifts(body)
        if statement.type == "compound_statement":
            return any(self._lifts(c) for c in statement.named_children)
        return False

    def _guards(self, statement: Node) -> bool:
        """Whether an `if` can be made a condition of the pieces inside: evaluated again in each."""
        condition = statement.child_by_field_name("condition")
        known = {local.name for local in self.locals if local.kind == "again"}
        pure = condition is not None and self.uniform.pure(condition, known)
        return pure and self.uniform.stable(condition, statement)

    def header_is_uniform(self, statement: Node) -> bool:
        """Whether what a loop's header declares and changes is uniform, and it does nothing else."""
        parts = (statement.child_by_field_name(part) for part in ("initializer", "update"))
        return all(part is None or self._only_uniform(part) for part in parts)

    def _counts_uniformly(self, loop: Node) -> bool:
        return loop.type == "for_statement" and self.header_is_uniform(loop)

    def _is_simple(self, loop: Node, atomics: bool = False) -> bool:
        """Whether the pieces inside a loop have a chance to be vectorised."""
        for n in walk(loop):
            if n.type in (
                "return_statement",
                "break_statement",
                "continue_statement",
                "switch_statement",
                "gnu_asm_expression",
            ):
                return False
            if (
                n.type in LOOPS
                and n.id != loop.id
                and not (self.is_uniform_control(n) and self._counts_uniformly(n))
            ):
                return atomics and self.stride(loop) is not None
            if n.type == "array_declarator":
                return False
            if n.type == "identifier" and text(n).startswith("atomic") and not atomics:
                return False
        return True

    def _changes_uniform(self, statement: Node) -> bool:
        """An assignment to a uniform variable of the statement level: made once, outside the pieces."""
        names = {local.name for local in self.locals if local.kind == "uniform"}
        names |= {n for n in self.uniform.parameters if n in self.uniform.changed and n in self.uniform.names}
        for n in walk(statement):
            if n.type in ("assignment_expression", "update_expression"):
                target = n.child_by_field_name("left") or n.child_by_field_name("argument")
                if target is not None and target.type == "identifier" and text(target) in names:
                    return True
        return False

    def _only_uniform(self, node: Node) -> bool:
        """Whether a node declares and changes uniform variables, and does nothing else."""
        for n in walk(node):
            if n.type in ("init_declarator", "assignment_expression", "update_expression"):
                target = declared_name(n) if n.type == "init_declarator" else n.child_by_field_name("left")
                target = target or n.child_by_field_name("argument")
                value = n.child_by_field_name("value") or n.child_by_field_name("right")
                if (
                    target is None
                    or text(target) not in self.uniform.names
                    or not self.uniform.expression(value)
                ):
                    return False
            elif n.type in ("call_expression", "subscript_expression", "pointer_expression"):
                return False
        return True

    def is_uniform_step(self, statement: Node) -> bool:
        """Whether an expression statement only changes uniform variables, for all threads at once."""
        return statement.type == "expression_statement" and self._only_uniform(statement)

    # -- what qualifies

    def _check(self) -> None:
        for n in walk(self.body):
            if n.type in _UNCLEAR or (
                n.type == "identifier" and text(n) in BARRIERS and not self._plain_barrier(n)
            ):
                raise GiveUp
        if self.analysis.shared.keys() & self.kernel.mentions:
            raise GiveUp  # shared variables at namespace scope get their reference at the kernel's brace
        reached = self.analysis.closures[self.kernel]
        if any(f.name.startswith("~") and f.owner in reached for f in self.source.functions):
            raise GiveUp  # a destructor must run once, when its thread leaves the scope
        for f in self.source.functions:
            if f is not self.kernel and not f.is_kernel and f.name in reached and f.mentions & BARRIERS:
                raise GiveUp

    def _plain_barrier(self, name: Node) -> bool:
        statement = name.parent.parent if name.parent is not None else None
        plain = (
            text(name) == "__syncthreads"
            and statement is not None
            and statement.type == "expression_statement"
        )
        return plain and statement is not None and self.uniform.made_together(statement, set())

    # -- locals

    def _take_parameters(self) -> None:
        for parameter in self.kernel.parameters:
            if (
                parameter.name
                and parameter.name in self.uniform.changed
                and not self.uniform.is_uniform(parameter.name)
            ):
                local = Local(parameter.name, "array", "", None, len(self.locals))
                self.locals.append(local)
                self.parameters.append(local)

    def _find_locals(self, block: Block, outer: list[Local]) -> None:
        scope = list(outer)
        for statement in block.named_children:
            if statement.type == "declaration" and statement.id not in self.shared:
                scope += self._declare(statement, scope)
            elif self._may_hold_pieces(statement):
                for part in bodies(statement):
                    self._find_locals(as_block(part), scope)

    def _may_hold_pieces(self, statement: Node) -> bool:
        if statement.type == "compound_statement":
            return True
        return statement.type in CONTROL and any(
            n.type in LOOPS or self.has_barrier(n) for n in walk(statement)
        )

    def _declare(self, statement: Node, scope: list[Local]) -> list[Local]:
        declarators = statement.children_by_field_name("declarator")
        if not declarators:
            return []
        specifiers = self.source.text[statement.start_byte : declarators[0].start_byte].decode()
        if {"static", "extern"} & set(specifiers.split()):
            raise GiveUp
        made: list[Local] = []
        for d in declarators:
            name = declared_name(d)
            if name is None or d.type == "function_declarator" or any(text(name) == o.name for o in scope):
                raise GiveUp  # also for a name that hides another: not worth the care
            local = Local(text(name), "piece", specifiers, d, len(self.locals))
            self.locals.append(local)
            self.by_declarator[d.id] = local
            made.append(local)
        return made

    def _choose_kinds(self) -> None:
        """In order of declaration: each kind may rest on those before it."""
        again: set[str] = set()
        names = [local.name for local in self.locals]
        for local in self.locals:
            if local.declarator is None:
                continue
            value, plain = _value(local.declarator)
            if self.uniform.is_uniform(local.name) and plain:
                local.kind = "uniform"
            elif plain and names.count(local.name) == 1 and local.name not in self.uniform.changed:
                block = _block_of(local.declarator)
                if (
                    self.uniform.pure(value, again)
                    and block is not None
                    and self.uniform.stable(value, block)
                ):
                    local.kind = "again"
                    again.add(local.name)
                    local.needs = (
                        {text(n) for n in walk(value) if n.type == "identifier"}
                        if value is not None
                        else set()
                    )
        for local in self.locals:
            if (
                local.kind == "piece"
                and local.declarator is not None
                and self._crosses(local.declarator, local.name)
            ):
                if "auto" in local.specifiers.split() or any(
                    n.type == "reference_declarator" for n in walk(local.declarator)
                ):
                    raise GiveUp
                local.kind = "array"

    def _crosses(self, declarator: Node, name: str) -> bool:
        """Whether a local is used in another piece than the one that declares it."""
        statement, block = declarator.parent, _block_of(declarator)
        if statement is None or block is None:
            return True
        ended, kept = False, name in self.uniform.addressed
        kept = kept or any(n.type == "array_declarator" for n in walk(declarator))
        for n in block.named_children:
            if n.start_byte > statement.start_byte:
                ended = ended or not self.stays_in_piece(n)
                if ended and kept:
                    return True  # somebody may point to it
                if ended and any(m.type == "identifier" and text(m) == name for m in walk(n)):
                    return True
        return False


def _block_of(declarator: Node) -> Node | None:
    """The block that a local's declaration stands in."""
    return declarator.parent.parent if declarator.parent is not None else None


class Lone:
    """A single statement in the place of a block."""

    def __init__(self, statement: Node) -> None:
        self.named_children = [statement]


Block = Node | Lone


def as_block(statement: Node) -> Block:
    """A statement as something with statements in it."""
    return statement if statement.type == "compound_statement" else Lone(statement)


def bodies(statement: Node) -> list[Node]:
    """The sub-statements of a control statement, in order."""
    if statement.type == "compound_statement":
        return [statement]
    if statement.type != "if_statement":
        body = statement.child_by_field_name("body")
        return [body] if body is not None else []
    found = [n for n in [statement.child_by_field_name("consequence")] if n is not None]
    other = statement.child_by_field_name("alternative")
    if other is not None:
        found += (
            [c for c in other.named_children if c.type != "comment"][:1]
            if other.type == "else_clause"
            else [other]
        )
    return found


def _value(declarator: Node) -> tuple[Node | None, bool]:
    """A declarator's initial value, and whether it is of the form `name = value` or `*name = value`."""
    value, inner = declarator.child_by_field_name("value"), declarator.child_by_field_name("declarator")
    plain = declarator.type == "init_declarator" and value is not None and inner is not None
    plain = plain and value is not None and value.type not in ("initializer_list", "argument_list")
    return value, plain and inner is not None and inner.type in ("identifier", "pointer_declarator")
