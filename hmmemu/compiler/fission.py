"""Cuts a kernel into pieces, for runtime_fission.h: a second function that runs a whole block without fibers.

A kernel qualifies if its barriers are plain `__syncthreads();` statements at the top level of its body or inside `if`,
`for`, `while` and `do` whose conditions are uniform; plan.py decides what becomes of each statement and local. Anything
unclear makes `fission` give up (None), and the kernel runs as fibers, or as a plain loop if it has no barriers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from hmmemu.compiler.analysis import TELLS_THREAD, Analysis, asks_here
from hmmemu.compiler.parse import Function, Node, declared_name, text, walk
from hmmemu.compiler.plan import CONTROL, TYPES, Block, GiveUp, Local, Plan, Stride, as_block, bodies
from hmmemu.compiler.rewrite import Edits
from hmmemu.compiler.uniform import LOOPS


@dataclass(eq=False)
class _Piece:
    """Statements between two cuts; a declarator comes with its local."""

    statements: list[tuple[Local | None, Node]] = field(default_factory=list)


@dataclass(frozen=True)
class _Scope:
    """What surrounds a piece: the locals in sight, and the conditions under which a thread takes part."""

    locals: tuple[Local, ...] = ()
    guards: tuple[Node, ...] = ()

    def with_local(self, local: Local) -> _Scope:
        return _Scope((*self.locals, local), self.guards)

    def with_guard(self, guard: Node) -> _Scope:
        return _Scope(self.locals, (*self.guards, guard))


def fission(analysis: Analysis, kernel: Function, edits: Edits) -> str | None:
    """The text of the kernel's block function, or None."""
    way, reached = analysis.ways.get(kernel), analysis.closures.get(kernel, set())
    if way not in ("HMM_WAY_RING", "HMM_WAY_LOOP") or reached & TELLS_THREAD or asks_here(analysis, reached):
        return None  # nothing keeps the thread's index where assert and hmm_here look for it
    try:
        writer = _Writer(Plan(analysis, kernel), edits)
        made = writer.write()
    except GiveUp:
        return None
    return made if way == "HMM_WAY_RING" or writer.lifted else None


class _Writer:
    """Makes the text of one kernel's block function from its plan."""

    def __init__(self, plan: Plan, edits: Edits) -> None:
        self.plan, self.edits, self.source = plan, edits, plan.source
        self.pieces = 0
        self.depth = 0  # of control flow outside the pieces
        self.lifted = 0  # loops without barriers outside the pieces
        self.has_early_end = False  # some thread may return before the block's last piece
        self.returns: list[tuple[int, int]] = []  # piece and depth of each return statement

    def write(self) -> str:
        body = self._body()
        if any(at != (self.pieces, 0) for at in self.returns):
            self.has_early_end, self.pieces, self.lifted = True, 0, 0
            body = self._body()
        head = " [[maybe_unused]] const hmm_ctx hmm_c = hmm_block_context(hmm_b); unsigned hmm_used = 0;"
        for name, kind, member in (
            ("blockIdx", "uint3", "block"),
            ("blockDim", "dim3", "block_dim"),
            ("gridDim", "dim3", "grid_dim"),
        ):
            head += f" [[maybe_unused]] const {kind} {name} = hmm_b.{member};"
        if self.has_early_end:
            head += " unsigned char hmm_ended[HMM_MAX_THREADS]; __builtin_memset(hmm_ended, 0, hmm_b.rt->threads);"
        return f"{self._signature()} {{{head}\n{body}}}"

    def _body(self) -> str:
        own = "".join(
            f"{_cells(p.index, f'decltype(hmm_p_{p.name})')}\n"
            f"HMM_PIECE_BEGIN ::new ((void*)&hmm_a_{p.index}[hmm_t]) hmm_e_{p.index}(hmm_p_{p.name});\nHMM_PIECE_END\n"
            for p in self.plan.parameters
        )
        return own + self._block(self.plan.body, _Scope(tuple(self.plan.parameters)))

    def _signature(self) -> str:
        kernel = self.plan.kernel
        listing = kernel.declarator.child_by_field_name("parameters")
        inner = ""
        if listing is not None and kernel.parameters:
            inner = self._flat(self.source.text[listing.start_byte + 1 : listing.end_byte - 1].decode())
        for parameter in self.plan.parameters:
            inner = re.sub(rf"\b{parameter.name}\b", f"hmm_p_{parameter.name}", inner)
        template, parent = "", kernel.node.parent
        if kernel.is_template and parent is not None and parent.type == "template_declaration":
            template = self.source.text[parent.start_byte : kernel.node.start_byte].decode()
            template = self._flat(template[: template.rindex(">") + 1]) + " "
        first = "const hmm_block& hmm_b" + (", " if inner else "")
        return f"{template}inline __attribute__((always_inline)) void hmm_block_{kernel.name}({first}{inner})"

    # -- statements

    def _block(self, block: Block, scope: _Scope) -> str:
        out, piece = "", _Piece()
        for statement in block.named_children:
            kind = statement.type
            if kind == "comment":
                continue
            if (kind == "declaration" and statement.id in self.plan.shared) or kind in TYPES:
                out += f"{self._lines(statement)}{self._text(statement)};\n"
            elif kind == "declaration":
                made, scope = self._declaration(statement, piece, scope)
                out += made
            elif self.plan.stays_in_piece(statement):
                piece.statements.append((None, statement))
            else:
                out += self._piece(piece, scope)
                piece = _Piece()
                if not _is_barrier(statement):
                    out += self._outside(statement, scope)
        return out + self._piece(piece, scope)

    def _declaration(self, statement: Node, piece: _Piece, scope: _Scope) -> tuple[str, _Scope]:
        """Uniform variables go before the piece, the others into it or into arrays."""
        out, declarators = "", statement.children_by_field_name("declarator")
        for d in declarators:
            local = self.plan.by_declarator.get(d.id)
            if local is None:
                raise GiveUp
            if local.kind == "uniform":
                out += f"{self._lines(d)}{local.specifiers}{self._text(d)};\n"
            elif local.kind != "again":
                piece.statements.append((local, d))
                out += self._array(local, d) + "\n" if local.kind == "array" else ""
            scope = scope.with_local(local)
        return (out if declarators else self._text(statement) + "\n"), scope

    def _outside(self, statement: Node, scope: _Scope) -> str:
        """Control flow outside the pieces, or a change of uniform variables."""
        lines = self._lines(statement)
        if statement.type == "compound_statement":
            return f"{{\n{self._block(statement, scope)}}}\n"
        if statement.type not in CONTROL:
            if not self.plan.is_uniform_step(statement) or scope.guards:
                raise GiveUp
            return lines + self._text(statement) + "\n"
        self.depth += 1
        self.lifted += statement.type != "if_statement" and not self.plan.has_barrier(statement)
        stride = self.plan.stride(statement)
        if stride is not None and not self.plan.is_uniform_control(statement):
            made = self._stride(statement, stride, scope)
        elif self.plan.is_uniform_control(statement):
            if not self.plan.header_is_uniform(statement):
                raise GiveUp
            made = self._control(statement, scope)
        else:
            made = self._guarded(statement, scope)
        self.depth -= 1
        return lines + made + "\n"

    def _control(self, statement: Node, scope: _Scope) -> str:
        """Control flow that is the same for all threads, around its parts."""
        out, at = "", statement.start_byte
        for part in bodies(statement):
            out += self.edits.apply(self.source.text, at, part.start_byte) + "{\n"
            if self.has_early_end and statement.type in LOOPS:
                out += "if (!__builtin_memchr(hmm_ended, 0, hmm_b.rt->threads)) break;\n"  # nobody is left to end it
            out += self._block(as_block(part), scope) + "}\n"
            at = part.end_byte
        return out + self.edits.apply(self.source.text, at, statement.end_byte)

    def _guarded(self, statement: Node, scope: _Scope) -> str:
        """An `if` whose condition each piece inside evaluates again; skipped where no thread takes part."""
        condition = statement.child_by_field_name("condition")
        if condition is None or statement.type != "if_statement" or self.plan.has_barrier(statement):
            raise GiveUp
        return f"{{ {self._count(scope, condition)}if (hmm_any) {{\n{self._both(statement, scope, condition)}}} }}"

    def _stride(self, statement: Node, stride: Stride, scope: _Scope) -> str:
        """A loop with strides in lock step: round k does what each thread does in its round k."""
        self.pieces += 1
        name, round_, first = stride.name, f"hmm_round_{self.pieces}", f"hmm_first_of_{self.pieces}"
        ahead = (
            f"(decltype({name} + 0)){round_} * (decltype({name} + 0))({self._text(stride.step, flat=True)})"
        )
        exact = f" {stride.type} {name} = {self._text(stride.start, flat=True)}; {name} += {ahead};"
        needs = frozenset(text(n) for n in walk(stride.start) if n.type == "identifier")
        inner = scope.with_local(Local(name, "again", "", None, 0, exact, set(needs)))
        fast, before, fits = inner, "", ""
        if self.plan.is_unit(
            stride.start
        ):  # neighbours in the block are neighbours in memory: shown to the compiler
            zero = f" const uint3 threadIdx = hmm_uint3(0, 0, 0);{self._head(scope, set(needs), again_only=True)}"
            before = f"const auto {first} = [&]() {{{zero}{exact} return {name}; }}();\n"
            fits = f" && hmm_index_fits({first})"
            text_ = f" {stride.type} {name} = hmm_index({first}, threadIdx.x);"
            fast = scope.with_local(Local(name, "again", "", None, 0, text_))
        count = self._count(inner, stride.condition)
        body = self._both(statement, inner, stride.condition, fast, fits)
        return f"for (unsigned long long {round_} = 0;; ++{round_}) {{ {before}{count}if (!hmm_any) break;\n{body}}}"

    def _both(
        self, statement: Node, scope: _Scope, condition: Node, fast: _Scope | None = None, fits: str = ""
    ) -> str:
        """The body twice: for the case that all threads take part, which vectorises better, and with the condition."""
        guarded = "".join(
            self._block(as_block(part), scope.with_guard(condition)) for part in bodies(statement)
        )
        if len(scope.guards) > 1:
            return guarded  # each level doubles the text
        free = "".join(self._block(as_block(part), fast or scope) for part in bodies(statement))
        return f"if (hmm_all{fits}) {{\n{free}}} else {{\n{guarded}}}\n"

    def _count(self, scope: _Scope, condition: Node) -> str:
        """Whether some thread takes part, and whether all do."""
        self.pieces += 1
        head = self._head(scope, {text(n) for n in walk(condition) if n.type == "identifier"})
        made = f"const unsigned hmm_on = bool({self._text(condition, flat=True)});"
        made += " hmm_any |= hmm_on; hmm_all &= hmm_on;"
        return f"unsigned hmm_any = 0, hmm_all = 1;\n{_begin(head + made)}{head} {made}\nHMM_PIECE_END\n"

    # -- pieces

    def _piece(self, piece: _Piece, scope: _Scope) -> str:
        if not piece.statements:
            return ""
        self.pieces += 1
        made = ""
        for local, node in piece.statements:
            made += (
                self._lines(node)
                + (self._with_returns(node) if local is None else self._local(local, node))
                + "\n"
            )
        mentioned = {text(n) for _, node in piece.statements for n in walk(node) if n.type == "identifier"}
        head = self._head(scope, mentioned)
        return f"{_begin(head + made)}{head} {{\n{made}}}\nhmm_next_{self.pieces}:;\nHMM_PIECE_END\n"

    def _head(self, scope: _Scope, mentioned: set[str], again_only: bool = False) -> str:
        """What a piece does first: values computed again, references into arrays, and whether the thread takes part."""
        wanted = mentioned | {
            text(n) for guard in scope.guards for n in walk(guard) if n.type == "identifier"
        }
        for local in reversed(scope.locals):
            if local.name in wanted:
                wanted |= local.needs
        made = " if (hmm_ended[hmm_t]) continue;" if self.has_early_end and not again_only else ""
        for local in scope.locals:
            if local.name not in wanted:
                continue
            if local.kind == "again":
                made += local.again or f" {local.specifiers}{self._text(local.declarator, flat=True)};"
            elif local.kind == "array" and not again_only:
                made += f" [[maybe_unused]] hmm_e_{local.index}& {local.name} = hmm_a_{local.index}[hmm_t];"
        if again_only:
            return made
        return made + "".join(f" if (!({self._text(guard, flat=True)})) continue;" for guard in scope.guards)

    def _array(self, local: Local, declarator: Node) -> str:
        """One element a thread; the element's type is named by a typedef, whatever its declarator looks like."""
        name = declared_name(declarator)
        inner = (
            declarator.child_by_field_name("declarator")
            if declarator.type == "init_declarator"
            else declarator
        )
        if name is None or inner is None:
            raise GiveUp
        before = self.source.text[inner.start_byte : name.start_byte].decode()
        after = self.source.text[name.end_byte : inner.end_byte].decode()
        words = " ".join(w for w in local.specifiers.split() if w not in ("constexpr", "register"))
        if "constexpr" in local.specifiers.split():
            words = "const " + words
        named = f"hmm_w_{local.index}"
        return self._flat(f"typedef {words} {before}{named}{after};") + _cells(local.index, named)

    def _local(self, local: Local, declarator: Node) -> str:
        """What a declaration does where it stands."""
        if local.kind == "piece":
            return f"{local.specifiers}{self._text(declarator)};"
        value, kind = declarator.child_by_field_name("value"), f"hmm_e_{local.index}"
        if declarator.type != "init_declarator" or value is None:
            return f"hmm_begin_life({local.name});"
        if any(
            n.type == "array_declarator"
            for n in walk(declarator.child_by_field_name("declarator") or declarator)
        ):
            name = declared_name(declarator)
            if name is None:
                raise GiveUp
            whole = self.edits.apply(self.source.text, declarator.start_byte, name.start_byte)
            whole += f"hmm_first_{local.index}"
            whole += self.edits.apply(self.source.text, name.end_byte, declarator.end_byte)
            return f"{local.specifiers}{whole}; hmm_copy({local.name}, hmm_first_{local.index});"
        initial = self._text(value)
        if value.type not in ("initializer_list", "argument_list"):
            initial = f"({initial})"
        return f"::new ((void*)&{local.name}) {kind}{initial};"

    def _with_returns(self, statement: Node) -> str:
        """A statement's text in which `return` ends the thread's part of the piece."""
        returns = [n for n in walk(statement) if n.type == "return_statement"]
        if not returns:
            return self._text(statement)
        self.returns.append((self.pieces, self.depth))
        end = "hmm_ended[hmm_t] = 1; " if self.has_early_end else ""
        out, at = "", statement.start_byte
        for n in returns:
            out += (
                self.edits.apply(self.source.text, at, n.start_byte)
                + f"{{ {end}goto hmm_next_{self.pieces}; }}"
            )
            at = n.end_byte
        return out + self.edits.apply(self.source.text, at, statement.end_byte)

    def _text(self, node: Node | None, flat: bool = False) -> str:
        if node is None:
            raise GiveUp
        made = self.edits.apply(self.source.text, node.start_byte, node.end_byte)
        return self._flat(made) if flat else made

    @staticmethod
    def _flat(made: str) -> str:
        """On one line, without line markers."""
        return " ".join(line for line in made.split("\n") if not line.lstrip().startswith("#"))

    def _lines(self, node: Node) -> str:
        line, name = self.source.line(node.start_byte)
        return f'# {line} "{name}"\n'


def _cells(index: int, kind: str) -> str:
    """Storage for a local of that type, one element a thread."""
    plain = f" typedef typename hmm_no_const<{kind}>::type hmm_e_{index};"
    return f"{plain} HMM_RAW hmm_cells<hmm_e_{index}> hmm_a_{index}(hmm_b, hmm_used);"


def _begin(content: str) -> str:
    """How a piece counts its threads (runtime_fission.h)."""
    return "HMM_PIECE_BEGIN_GRID" if "blockIdx" in content else "HMM_PIECE_BEGIN"


def _is_barrier(statement: Node) -> bool:
    return statement.type == "expression_statement" and text(statement).replace(" ", "").startswith(
        "__syncthreads("
    )
