"""Kernels and their parameters as the parser finds them, without compiling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hmmemu.compiler.options import parse_options
from hmmemu.compiler.parse import Parameter, Source, Variable, parse, text
from hmmemu.compiler.preprocess import preprocess
from hmmemu.compiler.rewrite import stays_plain
from hmmemu.compiler.toolchain import find_compiler


@dataclass(frozen=True)
class KernelSignature:
    """A `__global__` function: its name in the source, and its parameters in order."""

    name: str  # without namespaces
    qualified_name: str
    parameters: tuple[Parameter, ...]
    is_template: bool


@dataclass(frozen=True)
class VariableSignature:
    """A `__device__` or `__constant__` variable at namespace scope."""

    qualified_name: str
    constant: bool


def signatures(
    code: str, *, filename: str | None = None, options: Sequence[str] = ()
) -> list[KernelSignature]:
    """All kernels of a source, in order. Raises CompileError, NoCompilerError (the preprocessor is needed)."""
    return declarations(code, filename=filename, options=options)[0]


def declarations(
    code: str, *, filename: str | None = None, options: Sequence[str] = ()
) -> tuple[list[KernelSignature], list[VariableSignature]]:
    """All kernels and variables of a source, in order; raises as `signatures`."""
    prepared = preprocess(code, filename or "kernel.cu", parse_options(options), find_compiler())
    source = parse(prepared)
    return kernels_of(source), variables_of(source)


def variables_of(source: Source) -> list[VariableSignature]:
    """All variables of a parsed source that have an address, in order; templates are left out."""
    found: dict[str, VariableSignature] = {}
    for v in source.variables:
        inside = v.function is not None or v.in_class or _is_template(v)
        if inside or v.has("__shared__") or v.has("extern") or stays_plain(v):
            continue
        for name in v.names:
            qualified = "::".join(part for part in (*v.scope, text(name)) if part)
            found[qualified] = VariableSignature(qualified, v.has("__constant__"))
    return list(found.values())


def _is_template(variable: Variable) -> bool:
    return variable.node.parent is not None and variable.node.parent.type == "template_declaration"


def kernels_of(source: Source) -> list[KernelSignature]:
    """All kernels of a parsed source, in order; a prototype and its definition count once."""
    found: dict[tuple[str, tuple[str, ...]], KernelSignature] = {}
    for f in source.functions:
        if f.is_kernel and (f.body is not None or not any(k[0] == f.qualified for k in found)):
            key = (f.qualified, tuple(p.type for p in f.parameters))
            found[key] = KernelSignature(f.name, f.qualified, tuple(f.parameters), f.is_template)
    return list(found.values())
