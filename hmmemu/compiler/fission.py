"""Cuts a kernel at its barriers, for runtime_fission.h: a second function that runs a whole block.

A kernel qualifies if its barriers are plain `__syncthreads();` statements at the top level of its body or inside `if`,
`for`, `while` and `do` whose conditions are uniform. The body becomes a tree of uniform control flow whose leaves are
pieces: loops over the threads. A local that lives across pieces is, in this order of preference, uniform (one value,
outside the loops), computed again in each piece (from threadIdx and uniform values), or kept in an array.
Anything unclear makes `fission` give up (None), and the kernel runs as fibers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hmmemu.compiler.analysis import BARRIERS, TELLS_THREAD, Analysis, asks_here
from hmmemu.compiler.parse import Function, Node, declared_name, text, walk
from hmmemu.compiler.rewrite import Edits
from hmmemu.compiler.uniform import Uniform

_CONTROL = {"if_statement", "for_statement", "while_statement", "do_statement"}
_TYPES = {"type_definition", "alias_declaration", "using_declaration", "static_assert_declaration", "struct_specifier", "enum_specifier"}


class _GiveUp(Exception):
    """The kernel is not of the supported form."""


@dataclass(eq=False)
class _Local:
    """A local of the kernel at statement level, outside the pieces' inner scopes."""

    name: str
    kind: str  # "uniform", "again", "array" or "piece" (lives in one piece only)
    specifiers: str
    declarator: Node
    index: int
    again_needs: set[str] = field(default_factory=set)


@dataclass(eq=False)
class _Piece:
    """Statements between barriers, with the locals in scope that they mention."""

    statements: list[Node | tuple[_Local, Node]] = field(default_factory=list)
    scope: list[_Local] = field(default_factory=list)


def fission(analysis: Analysis, kernel: Function, edits: Edits) -> str | None:
    """The text of the kernel's block function, or None."""
    if analysis.ways.get(kernel) != "HMM_WAY_RING" or kernel.body is None:
        return None
    if analysis.closures[kernel] & TELLS_THREAD or asks_here(analysis, analysis.closures[kernel]):
        return None  # nothing keeps the thread's index where these look for it
    try:
        return _Cutter(analysis, kernel, edits).cut()
    except _GiveUp:
        return None


class _Cutter:
    """The work on one kernel. First `_plan` finds the pieces and each local's kind; then text is made."""

    def __init__(self, analysis: Analysis, kernel: Function, edits: Edits) -> None:
        assert kernel.body is not None
        self.analysis, self.kernel, self.edits, self.body = analysis, kernel, edits, kernel.body
        self.source = analysis.source
        self.shared = {v.node.id for v in self.source.variables if v.has("__shared__")}
        self.uniform = Uniform(analysis, kernel)
        self.locals: list[_Local] = []
        self.by_declarator: dict[int, _Local] = {}
        self.pieces = 0
        self.depth = 0  # of control flow outside the pieces
        self.has_early_end = False  # some thread may return before the block's last piece
        self.returns: list[tuple[int, int]] = []  # piece and depth of each return statement

    def cut(self) -> str:
        self._check()
        self._find_locals(self.body, [])
        self._choose_kinds()
        body = self._block(self.body, [])
        if any(at != (self.pieces, 0) for at in self.returns):
            self.has_early_end, self.pieces = True, 0
            body = self._block(self.body, [])
        ended = ""
        if self.has_early_end:
            ended = " unsigned char hmm_ended[HMM_MAX_THREADS]; __builtin_memset(hmm_ended, 0, hmm_b.rt->threads);"
        names = self.kernel.mentions | {"blockIdx", "blockDim", "gridDim"}
        head = " [[maybe_unused]] const hmm_ctx hmm_c = hmm_block_context(hmm_b);"
        for name, kind, member in (("blockIdx", "uint3", "block"), ("blockDim", "dim3", "block_dim"), ("gridDim", "dim3", "grid_dim")):
            if name in names:
                head += f" [[maybe_unused]] const {kind} {name} = hmm_b.{member};"
        return f"{self._signature()} {{{head}{ended}\n{body}}}"

    # -- what qualifies

    def _check(self) -> None:
        for n in walk(self.body):
            if n.type in ("goto_statement", "labeled_statement", "try_statement", "lambda_expression"):
                raise _GiveUp
            if n.type == "identifier" and text(n) in BARRIERS and not self._plain_barrier(n):
                raise _GiveUp
        if self.analysis.shared.keys() & self.kernel.mentions:
            raise _GiveUp  # shared variables at namespace scope get their reference at the kernel's brace
        for function in self.source.functions:
            if function is not self.kernel and function.name in self.analysis.closures[self.kernel] and not function.is_kernel:
                if function.mentions & BARRIERS:
                    raise _GiveUp

    def _plain_barrier(self, name: Node) -> bool:
        call = name.parent
        statement = call.parent if call is not None else None
        return text(name) == "__syncthreads" and statement is not None and statement.type == "expression_statement" and (
            self.uniform.executed_together(statement)
        )

    def _has_barrier(self, node: Node) -> bool:
        return any(n.type == "identifier" and text(n) == "__syncthreads" for n in walk(node))

    # -- locals

    def _find_locals(self, block: Node, outer: list[_Local]) -> None:
        scope = list(outer)
        for statement in block.named_children:
            if statement.type == "declaration" and statement.id not in self.shared:
                for local in self._declare(statement):
                    if any(local.name == other.name for other in scope):
                        raise _GiveUp  # a name that hides another: not worth the care
                    scope.append(local)
            elif statement.type in _CONTROL and self._has_barrier(statement):
                for part in _bodies(statement):
                    self._find_locals(part if part.type == "compound_statement" else _Lone(part), scope)  # type: ignore[arg-type]
            elif statement.type == "compound_statement" and self._has_barrier(statement):
                self._find_locals(statement, scope)

    def _declare(self, statement: Node) -> list[_Local]:
        declarators = statement.children_by_field_name("declarator")
        if not declarators:
            return []
        specifiers = self.source.text[statement.start_byte : declarators[0].start_byte].decode()
        if "static" in specifiers.split() or "extern" in specifiers.split():
            raise _GiveUp
        made = []
        for d in declarators:
            name = declared_name(d)
            if name is None or d.type == "function_declarator":
                raise _GiveUp
            local = _Local(text(name), "piece", specifiers, d, len(self.locals))
            self.locals.append(local)
            self.by_declarator[d.id] = local
            made.append(local)
        return made

    def _choose_kinds(self) -> None:
        again: set[str] = set()
        counts: dict[str, int] = {}
        for local in self.locals:
            counts[local.name] = counts.get(local.name, 0) + 1
        for local in self.locals:
            value = local.declarator.child_by_field_name("value")
            plain = local.declarator.type == "init_declarator" and value is not None and value.type not in ("initializer_list", "argument_list")
            if self.uniform.is_uniform(local.name) and plain:
                local.kind = "uniform"
            elif plain and counts[local.name] == 1 and local.name not in self.uniform.changed and self.uniform.pure(value, again):
                inner = local.declarator.child_by_field_name("declarator")
                if inner is not None and inner.type in ("identifier", "pointer_declarator"):
                    local.kind = "again"
                    again.add(local.name)
                    local.again_needs = {text(n) for n in walk(value) if n.type == "identifier"} if value is not None else set()
            if local.kind == "piece" and self._crosses(local):
                if "auto" in local.specifiers.split() or "reference_declarator" in {n.type for n in walk(local.declarator)}:
                    raise _GiveUp
                local.kind = "array"

    def _crosses(self, local: _Local) -> bool:
        """Whether a barrier, or a place where pieces end, lies between a local's declaration and its last use."""
        statement = local.declarator.parent
        block = statement.parent if statement is not None else None
        if statement is None or block is None:
            return True
        later = [n for n in block.named_children if n.start_byte > statement.start_byte]
        ended = False
        for n in later:
            if not self._stays_in_piece(n):
                ended = True
            if ended and any(m.type == "identifier" and text(m) == local.name for m in walk(n)):
                return True
        return False

    def _stays_in_piece(self, statement: Node) -> bool:
        """Whether a statement joins the piece before it."""
        return not self._has_barrier(statement) and not self._changes_uniform(statement)

    def _changes_uniform(self, statement: Node) -> bool:
        """An assignment to a uniform variable: made once, outside the pieces."""
        for n in walk(statement):
            if n.type in ("assignment_expression", "update_expression"):
                target = n.child_by_field_name("left") or n.child_by_field_name("argument")
                if target is not None and target.type == "identifier" and text(target) in self.uniform.names:
                    return True
        return False

    # -- text

    def _block(self, block: Node, outer: list[_Local]) -> str:
        scope, out = list(outer), ""
        piece = _Piece()
        for statement in block.named_children:
            kind = statement.type
            if kind == "comment":
                continue
            if kind == "declaration" and statement.id in self.shared or kind in _TYPES:
                out += f"{self._lines(statement)}{self._text(statement)};\n"
            elif kind == "declaration":
                out += self._declaration(statement, piece, scope)
            elif self._stays_in_piece(statement):
                piece.statements.append(statement)
            else:
                out += self._piece(piece, scope)
                piece = _Piece()
                if not _is_barrier(statement):
                    out += self._control(statement, scope)
        return out + self._piece(piece, scope)

    def _declaration(self, statement: Node, piece: _Piece, scope: list[_Local]) -> str:
        """Uniform variables go before the piece, the others into it or into arrays."""
        out = ""
        for d in statement.children_by_field_name("declarator"):
            local = self.by_declarator[d.id]
            if local.kind == "uniform":
                out += f"{self._lines(d)}{local.specifiers}{self._text(d)};\n"
            elif local.kind != "again":
                piece.statements.append((local, d))
                out += self._array(local) + "\n" if local.kind == "array" else ""
            scope.append(local)
        if not statement.children_by_field_name("declarator"):
            out += self._text(statement) + "\n"
        return out

    def _piece(self, piece: _Piece, scope: list[_Local]) -> str:
        if not piece.statements:
            return ""
        self.pieces += 1
        made = ""
        for item in piece.statements:
            if isinstance(item, tuple):
                made += self._lines(item[1]) + self._local(*item) + "\n"
            else:
                made += self._lines(item) + self._with_returns(item) + "\n"
        mentioned = {text(n) for item in piece.statements for n in walk(item[1] if isinstance(item, tuple) else item) if n.type == "identifier"}
        head = " if (hmm_ended[hmm_t]) continue;" if self.has_early_end else ""
        head += self._before(scope, mentioned)
        return f"HMM_PIECE_BEGIN{head} {{\n{made}}}\nhmm_next_{self.pieces}:;\nHMM_PIECE_END\n"

    def _before(self, scope: list[_Local], mentioned: set[str]) -> str:
        """Values computed again and references into arrays, for the names that a piece mentions."""
        wanted = set(mentioned)
        for local in reversed(scope):
            if local.kind == "again" and local.name in wanted:
                wanted |= local.again_needs
        made = ""
        for local in scope:
            if local.name not in wanted:
                continue
            if local.kind == "again":
                made += f" {local.specifiers}{self._text(local.declarator, flat=True)};"
            elif local.kind == "array":
                made += f" [[maybe_unused]] hmm_e_{local.index}& {local.name} = hmm_a_{local.index}[hmm_t];"
        return made

    def _array(self, local: _Local) -> str:
        """One element a thread; the element's type is named by a typedef, whatever its declarator looks like."""
        name = declared_name(local.declarator)
        declarator = local.declarator
        if declarator.type == "init_declarator":
            declarator = declarator.child_by_field_name("declarator") or declarator
        assert name is not None
        before = self.source.text[declarator.start_byte : name.start_byte].decode()
        after = self.source.text[name.end_byte : declarator.end_byte].decode()
        words = " ".join(w for w in local.specifiers.split() if w not in ("const", "constexpr", "register"))
        flat = f" typedef {words} {before}hmm_e_{local.index}{after};".replace("\n", " ")
        return f"{flat} alignas(64) hmm_e_{local.index} hmm_a_{local.index}[HMM_MAX_THREADS];"

    def _local(self, local: _Local, declarator: Node) -> str:
        if local.kind == "piece":
            return f"{local.specifiers}{self._text(declarator)};"
        value = declarator.child_by_field_name("value") if declarator.type == "init_declarator" else None
        if value is None:
            return ""
        inner = declarator.child_by_field_name("declarator")
        if inner is not None and inner.type in ("identifier", "pointer_declarator") and value.type not in ("initializer_list", "argument_list"):
            return f"{local.name} = {self._text(value)};"
        name = declared_name(declarator)
        assert name is not None
        whole = self._text(declarator)
        at = name.start_byte - declarator.start_byte
        first = f"{local.specifiers}{whole[:at]}hmm_first_{local.index}{whole[at + len(local.name) :]};"
        return f"{first} __builtin_memcpy((void*)&{local.name}, (const void*)&hmm_first_{local.index}, sizeof {local.name});"

    def _control(self, statement: Node, scope: list[_Local]) -> str:
        """Uniform control flow, or a change of uniform variables, outside the pieces."""
        lines = self._lines(statement)
        if statement.type not in _CONTROL and statement.type != "compound_statement":
            if statement.type == "expression_statement" and self.uniform.executed_together(statement.named_children[0]):
                self._only_uniform(statement)
                return lines + self._text(statement) + "\n"
            raise _GiveUp
        if statement.type == "compound_statement":
            return f"{{\n{self._block(statement, scope)}}}\n"
        self._check_control(statement)
        self.depth += 1
        bodies = _bodies(statement)
        out, at = "", statement.start_byte
        for part in bodies:
            inner = part if part.type == "compound_statement" else _Lone(part)
            out += self.edits.apply(self.source.text, at, part.start_byte) + "{\n" + self._block(inner, scope) + "}\n"  # type: ignore[arg-type]
            at = part.end_byte
        self.depth -= 1
        return lines + out + self.edits.apply(self.source.text, at, statement.end_byte) + "\n"

    def _check_control(self, statement: Node) -> None:
        """Conditions must be uniform, also where no barrier is inside; `break` and the like are not followed."""
        if not self.uniform.expression(statement.child_by_field_name("condition")):
            raise _GiveUp
        for part in ("initializer", "update"):
            node = statement.child_by_field_name(part)
            if node is not None:
                self._only_uniform(node)
        for n in walk(statement):
            if n.type in ("break_statement", "continue_statement") and self._leaves(n, statement):
                raise _GiveUp

    def _only_uniform(self, node: Node) -> None:
        """All variables that a node declares or changes are uniform, and it does nothing else."""
        for n in walk(node):
            if n.type == "init_declarator" or n.type in ("assignment_expression", "update_expression"):
                target = declared_name(n) if n.type == "init_declarator" else n.child_by_field_name("left") or n.child_by_field_name("argument")
                value = n.child_by_field_name("value") or n.child_by_field_name("right")
                if target is None or text(target) not in self.uniform.names or not self.uniform.expression(value):
                    raise _GiveUp
            elif n.type in ("call_expression", "subscript_expression") or (n.type == "pointer_expression"):
                raise _GiveUp

    def _leaves(self, jump: Node, loop: Node) -> bool:
        """Whether a break or continue belongs to a loop that runs outside the pieces."""
        node = jump.parent
        while node is not None and node.id != loop.id:
            if node.type in ("for_statement", "while_statement", "do_statement", "switch_statement", "for_range_loop"):
                return self._has_barrier(node)
            node = node.parent
        return loop.type != "if_statement"

    def _with_returns(self, statement: Node) -> str:
        """A statement's text in which `return` ends the thread's part of the piece."""
        returns = [n for n in walk(statement) if n.type == "return_statement"]
        if not returns:
            return self._text(statement)
        self.returns.append((self.pieces, self.depth))
        end = "hmm_ended[hmm_t] = 1; " if self.has_early_end else ""
        out, at = "", statement.start_byte
        for n in returns:
            out += self.edits.apply(self.source.text, at, n.start_byte) + f"{{ {end}goto hmm_next_{self.pieces}; }}"
            at = n.end_byte
        return out + self.edits.apply(self.source.text, at, statement.end_byte)

    def _text(self, node: Node, flat: bool = False) -> str:
        made = self.edits.apply(self.source.text, node.start_byte, node.end_byte)
        return " ".join(line for line in made.split("\n") if not line.lstrip().startswith("#")) if flat else made

    def _lines(self, node: Node) -> str:
        line, name = self.source.line(node.start_byte)
        return f'# {line} "{name}"\n'

    def _signature(self) -> str:
        kernel = self.kernel
        listing = kernel.declarator.child_by_field_name("parameters")
        inner = self.source.text[listing.start_byte + 1 : listing.end_byte - 1].decode() if listing is not None and kernel.parameters else ""
        flat = " ".join(line for line in inner.split("\n") if not line.lstrip().startswith("#"))
        template = ""
        parent = kernel.node.parent
        if kernel.is_template and parent is not None and parent.type == "template_declaration":
            template = self.source.text[parent.start_byte : kernel.node.start_byte].decode()
            template = template[: template.rindex(">") + 1].replace("\n", " ") + " "
        return f"{template}inline __attribute__((always_inline)) void hmm_block_{kernel.name}(const hmm_block& hmm_b{', ' if flat else ''}{flat})"


class _Lone:
    """A single statement in the place of a block."""

    def __init__(self, statement: Node) -> None:
        self.named_children = [statement]


def _is_barrier(statement: Node) -> bool:
    return statement.type == "expression_statement" and text(statement).replace(" ", "").startswith("__syncthreads(")


def _bodies(statement: Node) -> list[Node]:
    """The sub-statements of a control statement, in order."""
    if statement.type != "if_statement":
        body = statement.child_by_field_name("body")
        return [body] if body is not None else []
    found = [n for n in [statement.child_by_field_name("consequence")] if n is not None]
    other = statement.child_by_field_name("alternative")
    if other is not None:
        inner = [c for c in other.named_children if c.type != "comment"] if other.type == "else_clause" else [other]
        found += inner[:1]
    return found
