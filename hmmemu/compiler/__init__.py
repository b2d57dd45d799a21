"""The kernel compiler: CUDA C++ source to a shared object that runs on the CPU (see README.md here)."""

from hmmemu.compiler.build import Compiled, compile_module
from hmmemu.compiler.parse import Parameter
from hmmemu.compiler.signature import KernelSignature, VariableSignature, declarations, signatures
from hmmemu.compiler.toolchain import Toolchain, find_compiler

__all__ = [
    "Compiled",
    "KernelSignature",
    "Parameter",
    "Toolchain",
    "VariableSignature",
    "compile_module",
    "declarations",
    "find_compiler",
    "signatures",
]
