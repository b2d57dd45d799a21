"""Mistakes in CUDA's own part of the language, which a C++ compiler would not know to be any, or explain badly."""

from __future__ import annotations

from typing import NoReturn

from hmmemu.compiler.parse import Function, Node, Source, Variable, text
from hmmemu.errors import CompileError

_NO_VOID = {"int", "unsigned", "long", "char", "bool", "float", "double"}


def check(source: Source) -> None:
    """Raises CompileError, with the user's file and line, for the first mistake."""
    for function in source.functions:
        if function.is_kernel:
            _kernel(source, function)
    for variable in source.variables:
        if variable.has("__shared__"):
            _shared(source, variable)


def _kernel(source: Source, kernel: Function) -> None:
    kind = kernel.node.child_by_field_name("type")
    returned = text(kind) if kind is not None else ""
    declarator = kernel.node.child_by_field_name("declarator")
    pointer = declarator is not None and declarator.type == "pointer_declarator"
    if returned in _NO_VOID or pointer:
        what = f"{returned}{'*' if pointer else ''}"
        _refuse(
            source,
            kernel.declarator,
            f"kernel {kernel.name} returns {what}; a __global__ function returns void",
        )
    for parameter in kernel.parameters:
        if parameter.type.endswith("&"):
            what = f"kernel {kernel.name}, parameter {parameter.type} {parameter.name}".rstrip()
            _refuse(
                source, kernel.declarator, f"{what}: a reference cannot be passed to a kernel; take a pointer"
            )


def _shared(source: Source, variable: Variable) -> None:
    for declarator in variable.node.children_by_field_name("declarator"):
        if declarator.type == "init_declarator":
            name = ", ".join(text(n) for n in variable.names)
            what = f"__shared__ {name} has an initial value, which CUDA does not allow"
            _refuse(source, declarator, f"{what}; let one thread assign it, then __syncthreads()")


def _refuse(source: Source, node: Node, message: str) -> NoReturn:
    line, name = source.line(node.start_byte)
    lines = source.text.decode(errors="replace").split("\n")
    written = lines[source.text.count(b"\n", 0, node.start_byte)].rstrip()
    raise CompileError(f"{name}: the source is not CUDA C++:\n{name}:{line}: error: {message}\n    {written}")
