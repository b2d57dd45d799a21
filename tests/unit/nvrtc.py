"""NVRTC through ctypes: compiles CUDA C++ to PTX without a GPU, to show that a source is valid CUDA.

The library comes from the package nvidia-cuda-nvrtc-cu12 (part of the `test` extra).
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path


class NvrtcError(Exception):
    """NVRTC refused a source; the message is its log."""


@cache
def library() -> ctypes.CDLL:
    """The NVRTC library. Raises ImportError where its package is not installed."""
    spec = importlib.util.find_spec("nvidia.cuda_nvrtc")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("nvidia-cuda-nvrtc-cu12 is not installed: pip install 'hmmemu[test]'")
    (path,) = Path(spec.submodule_search_locations[0], "lib").glob("libnvrtc.so.*")
    return ctypes.CDLL(str(path))


def compile_ptx(source: str, name: str, arch: str, expressions: tuple[str, ...] = ()) -> str:
    """The PTX of `source` for `arch` (such as "sm_75"), C++17, with the given name expressions instantiated.

    Raises `NvrtcError` with the compiler's log.
    """
    nvrtc = library()
    program = ctypes.c_void_p()
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None))
    try:
        for expression in expressions:
            _check(nvrtc.nvrtcAddNameExpression(program, expression.encode()))
        options = [f"--gpu-architecture={arch.replace('sm', 'compute')}".encode(), b"--std=c++17"]
        status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        if status != 0:
            raise NvrtcError(_text(program, "ProgramLog"))
        return _text(program, "PTX")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _text(program: ctypes.c_void_p, what: str) -> str:
    nvrtc = library()
    size = ctypes.c_size_t()
    _check(getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(nvrtc, f"nvrtcGet{what}")(program, buffer))
    return buffer.value.decode()


def _check(status: int) -> None:
    if status != 0:
        raise NvrtcError(f"NVRTC error {status}")
