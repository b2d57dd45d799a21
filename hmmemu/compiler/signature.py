"""Kernels and their parameters as the parser finds them, without compiling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hmmemu.compiler.options import parse_options
from hmmemu.compiler.parse import Parameter, Source, parse
from hmmemu.compiler.preprocess import preprocess
from hmmemu.compiler.toolchain import find_compiler


@dataclass(frozen=True)
class KernelSignature:
    """A `__global__` function: its name in the source, and its parameters in order."""

    name: str  # without namespaces
    qualified_name: str
    parameters: tuple[Parameter, ...]
    is_template: bool


def signatures(
    code: str, *, filename: str | None = None, options: Sequence[str] = ()
) -> list[KernelSignature]:
    """All kernels of a source, in order. Raises CompileError, NoCompilerError (the preprocessor is needed)."""
    prepared = preprocess(code, filename or "kernel.cu", parse_options(options), find_compiler())
    return kernels_of(parse(prepared))


def kernels_of(source: Source) -> list[KernelSignature]:
    """All kernels of a parsed source, in order; a prototype and its definition count once."""
    found: dict[tuple[str, tuple[str, ...]], KernelSignature] = {}
    for f in source.functions:
        if f.is_kernel and (f.body is not None or not any(k[0] == f.qualified for k in found)):
            key = (f.qualified, tuple(p.type for p in f.parameters))
            found[key] = KernelSignature(f.name, f.qualified, tuple(f.parameters), f.is_template)
    return list(found.values())
