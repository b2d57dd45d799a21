"""NVRTC through ctypes: is this text valid CUDA C++? Needs no GPU and no driver.

The library comes from the package `nvidia-cuda-nvrtc-cu12` or from an installed CUDA toolkit. Nothing is kept
between calls, so any thread may call `compile_to_ptx`.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
import pathlib
from collections.abc import Sequence

INSTALL_HINT = "NVRTC is absent: pip install nvidia-cuda-nvrtc-cu12"


class NvrtcError(Exception):
    """NVRTC refused a source; the message is its log."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the loaded NVRTC library, or None where it is not installed."""
    for candidate in _candidates():
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    return None


def _candidates() -> list[str]:
    found: list[str] = []
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        found += sorted(str(p) for p in pathlib.Path(root).glob("**/libnvrtc.so.*"))
    system = ctypes.util.find_library("nvrtc")
    return [*found, system] if system else found


def version() -> tuple[int, int]:
    """Return NVRTC's version, for example (12, 9)."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(_loaded().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
    return major.value, minor.value


def compile_to_ptx(
    source: str,
    *,
    name: str = "source.cu",
    arch: int = 75,
    options: Sequence[str] = (),
    expressions: Sequence[str] = (),
) -> str:
    """Compile CUDA C++ and return the PTX.

    `arch` is the compute capability without its dot; `expressions` are name expressions, to instantiate
    templates. Raises NvrtcError with the compiler's log.
    """
    lib = _loaded()
    program = ctypes.c_void_p()
    result = lib.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
    _check(result, "nvrtcCreateProgram")
    try:
        for expression in expressions:
            _check(lib.nvrtcAddNameExpression(program, expression.encode()), expression)
        flags = [f"--gpu-architecture=compute_{arch}", "--std=c++17", *options]
        array = (ctypes.c_char_p * len(flags))(*[flag.encode() for flag in flags])
        if lib.nvrtcCompileProgram(program, len(flags), array) != 0:
            raise NvrtcError(_text(lib, program, "ProgramLog"))
        return _text(lib, program, "PTX")
    finally:
        lib.nvrtcDestroyProgram(ctypes.byref(program))


def _loaded() -> ctypes.CDLL:
    lib = library()
    if lib is None:
        raise NvrtcError(INSTALL_HINT)
    lib.nvrtcGetErrorString.restype = ctypes.c_char_p
    return lib


def _text(lib: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> str:
    size = ctypes.c_size_t()
    _check(getattr(lib, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), what)
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(lib, f"nvrtcGet{what}")(program, buffer), what)
    return buffer.value.decode(errors="replace")


def _check(result: int, what: str) -> None:
    if result != 0:
        raise NvrtcError(f"{what}: {_loaded().nvrtcGetErrorString(result).decode()}")
