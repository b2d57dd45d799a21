"""Runs compiled kernel modules in the test's own process, independent of hmmemu's device.

`Module(code)` compiles and loads; `module.kernel(name)(grid, block, *args)` packs arguments by the module's own
tables and runs. NumPy arrays pass their address.
"""

from __future__ import annotations

import ctypes as C
import functools
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from hmmemu.compiler import compile_module, find_compiler
from hmmemu.compiler.preprocess import INCLUDE

FAIL_ASSERT, FAIL_TRAP, FAIL_BARRIER, FAIL_LIMIT = 1, 2, 3, 4
POINTER, INTEGER, FLOATING, BOOL, OTHER = 1, 2, 3, 4, 5
PRECISE = 1


class Dim3(C.Structure):
    _fields_ = (("x", C.c_uint32), ("y", C.c_uint32), ("z", C.c_uint32))


class Param(C.Structure):
    _fields_ = (
        ("name", C.c_char_p), ("type", C.c_char_p), ("offset", C.c_uint32), ("size", C.c_uint32), ("kind", C.c_uint32),
        ("is_signed", C.c_uint32), ("pointee_const", C.c_uint32), ("pointee_size", C.c_uint32),
    )  # fmt: skip


class Kernel(C.Structure):
    _fields_ = (
        ("name", C.c_char_p), ("mode", C.c_char_p), ("params", C.POINTER(Param)), ("param_count", C.c_uint32),
        ("param_bytes", C.c_uint32), ("static_shared", C.c_uint32), ("max_threads", C.c_uint32),
        ("waits", C.c_uint32), ("reserved", C.c_uint32), ("run", C.c_void_p),
    )  # fmt: skip


class Global(C.Structure):
    _fields_ = (
        ("name", C.c_char_p), ("type", C.c_char_p), ("address", C.c_void_p), ("bytes", C.c_uint64),
        ("constant", C.c_uint32), ("reserved", C.c_uint32),
    )  # fmt: skip


class Tables(C.Structure):
    _fields_ = (
        ("abi", C.c_uint32), ("kernel_count", C.c_uint32), ("global_count", C.c_uint32), ("reserved", C.c_uint32),
        ("kernels", C.POINTER(Kernel)), ("globals", C.POINTER(Global)),
    )  # fmt: skip


class Launch(C.Structure):
    _fields_ = (
        ("grid", Dim3), ("block", Dim3), ("dynamic_shared", C.c_uint32), ("flags", C.c_uint32), ("params", C.c_void_p),
    )  # fmt: skip


class KernelFailed(Exception):
    def __init__(self, failure: int, message: str) -> None:
        super().__init__(message)
        self.failure = failure


@functools.cache
def loader() -> C.CDLL:
    source = Path(__file__).parent / "loader.cpp"
    digest = hashlib.sha256(source.read_bytes() + (INCLUDE / "hmmemu/abi.h").read_bytes()).hexdigest()[:16]
    target = Path(tempfile.gettempdir()) / f"hmmemu-test-loader-{digest}.so"
    if not target.exists():
        fresh = target.with_suffix(f".{os.getpid()}.tmp")
        flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-pthread"]
        subprocess.run(
            [*find_compiler().command, *flags, "-I", str(INCLUDE), "-o", str(fresh), str(source)], check=True
        )
        fresh.replace(target)
    return C.CDLL(str(target), mode=C.RTLD_GLOBAL)


class Bound:
    """One kernel of a loaded module."""

    def __init__(self, table: Kernel) -> None:
        self.table = table
        self.mode = table.mode.decode()
        self.params = [table.params[i] for i in range(table.param_count)]

    def pack(self, args: tuple[object, ...]) -> C.Array[C.c_char]:
        assert len(args) == len(self.params), (len(args), len(self.params))
        block = bytearray(max(self.table.param_bytes, 1))
        for param, arg in zip(self.params, args, strict=True):
            raw = self._raw(param, arg)
            assert len(raw) == param.size, (param.name, len(raw), param.size)
            block[param.offset : param.offset + param.size] = raw
        aligned = np.zeros(len(block) + 64, np.uint8)
        shift = -aligned.ctypes.data % 64
        aligned[shift : shift + len(block)] = np.frombuffer(bytes(block), np.uint8)
        self._kept = aligned
        return aligned.ctypes.data + shift

    @staticmethod
    def _raw(param: Param, arg: object) -> bytes:
        if isinstance(arg, np.ndarray):
            return arg.ctypes.data.to_bytes(8, "little")
        if isinstance(arg, (np.generic, bytes)):
            return bytes(arg) if isinstance(arg, bytes) else arg.tobytes()
        if param.kind == FLOATING:
            return np.array(arg, f"f{param.size}").tobytes()
        return int(arg).to_bytes(param.size, "little", signed=bool(param.is_signed))

    def launch(self, grid, block, args, shared=0, flags=0) -> Launch:
        return Launch(Dim3(*_three(grid)), Dim3(*_three(block)), shared, flags, self.pack(args))

    def __call__(self, grid, block, *args, shared=0, flags=0) -> None:
        self.run(self.launch(grid, block, args, shared, flags))

    def run(self, launch: Launch) -> None:
        message = C.create_string_buffer(4096)
        failure = loader().loader_run(C.byref(self.table), C.byref(launch), message, C.c_size_t(4096))
        if failure:
            raise KernelFailed(failure, message.value.decode())


def _three(size: int | tuple[int, ...]) -> tuple[int, int, int]:
    size = (size,) if isinstance(size, int) else size
    return (*size, 1, 1)[:3]


class Module:
    """A compiled and loaded module."""

    def __init__(self, code: str, **kwargs: object) -> None:
        loader()
        self.compiled = compile_module(code, **kwargs)
        self.library = C.CDLL(str(self.compiled.path))
        self.library.hmmemu_module.restype = C.POINTER(Tables)
        self.tables = self.library.hmmemu_module().contents
        self.kernels = {}
        for i in range(self.tables.kernel_count):
            self.kernels[self.tables.kernels[i].name.decode()] = Bound(self.tables.kernels[i])
        self.globals = {
            self.tables.globals[i].name.decode(): self.tables.globals[i]
            for i in range(self.tables.global_count)
        }

    def kernel(self, name: str) -> Bound:
        return self.kernels[name]

    def variable(self, name: str, dtype: object) -> np.ndarray:
        table = self.globals[name]
        raw = (C.c_uint8 * table.bytes).from_address(table.address)
        return np.frombuffer(raw, dtype)


def printed() -> str:
    text = C.create_string_buffer(1 << 20)
    loader().loader_printed.restype = C.c_size_t
    count = loader().loader_printed(text, C.c_size_t(1 << 20))
    return text.raw[:count].decode()


def position(worker: int) -> tuple[int, ...]:
    found = (C.c_uint32 * 7)()
    loader().loader_position(worker, found)
    return tuple(found)
