"""As much of CuPy as device views and `bench gpu` use, on the stand-in for libcuda: the real one makes no array without a
GPU.

Arrays are read and written by copies of streams, which run late (libcuda.cpp), at the very addresses that hmmemu gives.
Kernels are compiled for this machine's CPU, and run in this process; so to them "managed" memory is plain memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import types
import weakref

import numpy as np

from hmmemu import compiler

_ADDRESS, _SIZE, _POINTER = ctypes.c_ulonglong, ctypes.c_size_t, ctypes.c_void_p
_GRANULE = 2 << 20
_SIGNATURES = {
    "cuMemcpyDtoHAsync_v2": (_POINTER, _ADDRESS, _SIZE, _POINTER),
    "cuMemcpyHtoDAsync_v2": (_ADDRESS, _POINTER, _SIZE, _POINTER),
    "cuMemsetD8Async": (_ADDRESS, ctypes.c_ubyte, _SIZE, _POINTER),
    "cuMemHostRegister_v2": (_POINTER, _SIZE, ctypes.c_uint),
    "cuMemAddressReserve": (_POINTER, _SIZE, _SIZE, _ADDRESS, _ADDRESS),
    "cuMemMap": (_ADDRESS, _SIZE, _SIZE, _ADDRESS, _ADDRESS),
    "cuMemSetAccess": (_ADDRESS, _SIZE, _POINTER, _SIZE),
    "cuMemCreate": (_POINTER, _SIZE, _POINTER, _ADDRESS),
    "cuModuleGetFunction": (_POINTER, _POINTER, ctypes.c_char_p),
    "cuLaunchKernel": (_POINTER, *[ctypes.c_uint] * 7, _POINTER, _POINTER, _POINTER),
}


class Library:
    """The stand-in; a call that fails is an error."""

    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))

    def ask(self, name, *args):
        function = getattr(self._library, name)
        function.argtypes = _SIGNATURES.get(name)
        return function(*args)

    def __call__(self, name, *args):
        result = self.ask(name, *args)
        assert result == 0, f"{name}: {result}"


class Stream:
    """A stream of the stand-in; `done` asks it."""

    def __init__(self, library):
        self._library, self.handle = library, ctypes.c_void_p()
        library("cuStreamCreate", ctypes.byref(self.handle), 1)
        self.ptr = self.handle.value

    @property
    def done(self):
        return self._library.ask("cuStreamQuery", self.handle) == 0

    def synchronize(self):
        self._library("cuStreamSynchronize", self.handle)


class UnownedMemory:
    def __init__(self, ptr, size, owner, device_id=-1):
        self.ptr, self.size, self.owner, self.device_id = ptr, size, owner, device_id


class MemoryPointer:
    def __init__(self, mem, offset):
        self.mem, self.ptr = mem, mem.ptr + offset


class HostMemory:
    """Pinned or "managed" memory; holds anything but zeros at first."""

    def __init__(self, library, size, pinned):
        self._content = np.full(size, 0xA5, np.uint8)
        self.ptr = self._content.ctypes.data
        if pinned:
            library("cuMemHostRegister_v2", self.ptr, size, 0)
            weakref.finalize(self, library, "cuMemHostUnregister", ctypes.c_void_p(self.ptr)).atexit = False


def _allocate(library, size):
    """Memory of the GPU, for ever."""
    whole = max(-(-size // _GRANULE), 1) * _GRANULE
    memory, address = _ADDRESS(), _ADDRESS()
    library("cuMemAddressReserve", ctypes.byref(address), whole, _GRANULE, 0, 0)
    library("cuMemCreate", ctypes.byref(memory), whole, None, 0)
    library("cuMemMap", address, whole, 0, memory, 0)
    library("cuMemSetAccess", address, whole, None, 1)
    return MemoryPointer(UnownedMemory(address.value, whole, None), 0)


def make(library_path):
    """A module to put in the place of `cupy`."""
    library = Library(library_path)
    library("cuInit", 0)
    current = [Stream(library)]

    class ndarray:
        def __init__(self, shape, dtype=float, memptr=None, strides=None):
            like = np.empty(shape, dtype)
            self.shape, self.dtype, self.data = like.shape, like.dtype, memptr
            self.strides, self.nbytes = strides or like.strides, like.nbytes

        @property
        def __cuda_array_interface__(self):
            return {
                "version": 3,
                "shape": self.shape,
                "typestr": self.dtype.str,
                "data": (self.data.ptr, False),
                "strides": None,
                "stream": current[-1].ptr,
            }

        def fill_bytes(self, value):
            """Some time later, as all that a stream does."""
            library("cuMemsetD8Async", self.data.ptr, value, self.nbytes, current[-1].handle)

        def set(self, values):
            raw = np.ascontiguousarray(values, self.dtype)
            assert raw.nbytes == self.nbytes
            library("cuMemcpyHtoDAsync_v2", self.data.ptr, raw.ctypes.data, raw.nbytes, current[-1].handle)

        def get(self, out=None, blocking=True):
            """A numpy array; elements one after the other only."""
            raw = np.empty(self.shape, self.dtype) if out is None else out
            library("cuMemcpyDtoHAsync_v2", raw.ctypes.data, self.data.ptr, raw.nbytes, current[-1].handle)
            if blocking:
                current[-1].synchronize()
            return raw

    class RawModule:
        def __init__(self, code):
            path = str(compiler.compile_module(code).path).encode()
            self._module = ctypes.c_void_p()
            library("cuModuleLoadData", ctypes.byref(self._module), path)

        def get_function(self, name):
            function = ctypes.c_void_p()
            library("cuModuleGetFunction", ctypes.byref(function), self._module, name.encode())
            return lambda grid, block, args: launch(function, grid, block, args)

    def launch(function, grid, block, args):
        raw = b""
        for value in args:
            value = np.uint64(value.data.ptr) if isinstance(value, ndarray) else value
            raw = raw.ljust(-(-len(raw) // value.nbytes) * value.nbytes, b"\0") + value.tobytes()
        size = ctypes.c_size_t(len(raw))
        block_of_parameters = ctypes.create_string_buffer(raw, len(raw))
        extra = (ctypes.c_void_p * 5)(
            1, ctypes.addressof(block_of_parameters), 2, ctypes.addressof(size), None
        )
        shape = [*grid, *[1] * (3 - len(grid)), *block, *[1] * (3 - len(block))]
        library("cuLaunchKernel", function, *shape, 0, current[-1].handle, None, extra)

    @contextlib.contextmanager
    def use(stream):
        current.append(stream)
        yield stream
        current.pop()

    cupy = types.ModuleType("cupy")
    cupy.ndarray, cupy.use, cupy.Stream, cupy.RawModule = ndarray, use, lambda: Stream(library), RawModule
    cupy.empty = lambda shape, dtype: ndarray(
        shape, dtype, _allocate(library, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    )
    cupy.cuda = types.SimpleNamespace(
        Device=lambda index: contextlib.nullcontext(index),
        UnownedMemory=UnownedMemory,
        MemoryPointer=MemoryPointer,
        get_current_stream=lambda device_id=-1: current[-1],
        malloc_managed=lambda size: HostMemory(library, size, False),
        alloc_pinned_memory=lambda size: HostMemory(library, size, True),
        runtime=types.SimpleNamespace(
            free=lambda pointer: library("cuCtxSetCurrent", ctypes.c_void_p(1)),  # makes the context
            streamQuery=lambda stream: library.ask("cuStreamQuery", ctypes.c_void_p(stream)),
            getDevice=lambda: 0,
            memGetInfo=lambda: (1 << 30, 1 << 30),
        ),
    )
    return cupy
