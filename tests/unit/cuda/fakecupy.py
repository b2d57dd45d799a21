"""As much of CuPy as device views use, on the stand-in for libcuda: the real one makes no array without a GPU.

Arrays are read and written by copies of streams, which run late (libcuda.cpp), at the very addresses that hmmemu gives.
"""

from __future__ import annotations

import contextlib
import ctypes
import types

import numpy as np


class Stream:
    """A stream of the stand-in; `done` asks it."""

    def __init__(self, library):
        self._library, self.handle = library, ctypes.c_void_p()
        assert library.cuStreamCreate(ctypes.byref(self.handle), 1) == 0
        self.ptr = self.handle.value

    @property
    def done(self):
        return self._library.cuStreamQuery(self.handle) == 0

    def synchronize(self):
        assert self._library.cuStreamSynchronize(self.handle) == 0


class UnownedMemory:
    def __init__(self, ptr, size, owner, device_id=-1):
        self.ptr, self.size, self.owner, self.device_id = ptr, size, owner, device_id


class MemoryPointer:
    def __init__(self, mem, offset):
        self.mem, self.ptr = mem, mem.ptr + offset


def make(library_path):
    """A module to put in the place of `cupy`."""
    library = ctypes.CDLL(str(library_path))
    library.cuMemcpyDtoHAsync_v2.argtypes = (
        ctypes.c_void_p,
        ctypes.c_ulonglong,
        ctypes.c_size_t,
        ctypes.c_void_p,
    )
    library.cuMemcpyHtoDAsync_v2.argtypes = (
        ctypes.c_ulonglong,
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_void_p,
    )
    library.cuMemsetD8Async.argtypes = (ctypes.c_ulonglong, ctypes.c_ubyte, ctypes.c_size_t, ctypes.c_void_p)
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
            assert library.cuMemsetD8Async(self.data.ptr, value, self.nbytes, current[-1].handle) == 0

        def set(self, values):
            raw = np.ascontiguousarray(values, self.dtype)
            assert raw.nbytes == self.nbytes
            assert (
                library.cuMemcpyHtoDAsync_v2(self.data.ptr, raw.ctypes.data, raw.nbytes, current[-1].handle)
                == 0
            )

        def get(self):
            """A numpy array; elements one after the other only."""
            raw = np.empty(self.shape, self.dtype)
            assert (
                library.cuMemcpyDtoHAsync_v2(raw.ctypes.data, self.data.ptr, raw.nbytes, current[-1].handle)
                == 0
            )
            current[-1].synchronize()
            return raw

    @contextlib.contextmanager
    def use(stream):
        current.append(stream)
        yield stream
        current.pop()

    cupy = types.ModuleType("cupy")
    cupy.ndarray, cupy.use, cupy.Stream = ndarray, use, lambda: Stream(library)
    cupy.cuda = types.SimpleNamespace(
        Device=lambda index: contextlib.nullcontext(index),
        UnownedMemory=UnownedMemory,
        MemoryPointer=MemoryPointer,
        get_current_stream=lambda device_id=-1: current[-1],
        runtime=types.SimpleNamespace(free=lambda pointer: None),
    )
    return cupy
