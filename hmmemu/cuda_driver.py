"""The CUDA driver in the user's own process, for what CuPy has no functions for: memory that another process made.

Only device views use this, so a program that opens none has never called CUDA (hmmemu/gpus.py says why that matters).
Functions of libcuda are called without the GIL. No lock: what is here belongs to one object or never changes.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Iterable
from functools import lru_cache

from hmmemu.errors import DeviceError, OutOfMemoryError, UnsupportedError

GRANULE = 2 << 20  # bytes; what a GPU device maps at a time (native/device/cuda/gpu_memory.h)

_OUT_OF_MEMORY = 2
_FILE_DESCRIPTOR = 1  # CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
_READ_WRITE = 3  # CU_MEM_ACCESS_FLAGS_PROT_READWRITE
_DEVICE = 1  # CU_MEM_LOCATION_TYPE_DEVICE

_Address = ctypes.c_ulonglong
_Size = ctypes.c_size_t


class _Access(ctypes.Structure):
    """CUmemAccessDesc."""

    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int), ("rights", ctypes.c_int))


# CUDA 11.2 has all of them.
_SIGNATURES = {
    "cuInit": (ctypes.c_uint,),
    "cuDeviceGet": (ctypes.POINTER(ctypes.c_int), ctypes.c_int),
    "cuGetErrorName": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
    "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
    "cuCtxGetCurrent": (ctypes.POINTER(ctypes.c_void_p),),
    "cuCtxPushCurrent_v2": (ctypes.c_void_p,),
    "cuCtxPopCurrent_v2": (ctypes.POINTER(ctypes.c_void_p),),
    "cuCtxSynchronize": (),
    "cuMemAddressReserve": (ctypes.POINTER(_Address), _Size, _Size, _Address, _Address),
    "cuMemAddressFree": (_Address, _Size),
    "cuMemImportFromShareableHandle": (ctypes.POINTER(_Address), ctypes.c_void_p, ctypes.c_int),
    "cuMemRelease": (_Address,),
    "cuMemMap": (_Address, _Size, _Size, _Address, _Address),
    "cuMemUnmap": (_Address, _Size),
    "cuMemSetAccess": (_Address, _Size, ctypes.POINTER(_Access), _Size),
}


class Driver:
    """libcuda, loaded and initialised; a call that fails is an error in words.

    Raises:
        UnsupportedError: the library or a function of it is missing, or there is no GPU.
    """

    def __init__(self, path: str) -> None:
        try:
            library = ctypes.CDLL(path)
            self._calls = {name: getattr(library, name) for name in _SIGNATURES}
        except (OSError, AttributeError) as error:
            raise UnsupportedError(
                f"a device view needs the CUDA driver in this process, and {path} does not do: {error}"
            ) from None
        for name, types in _SIGNATURES.items():
            self._calls[name].argtypes = types
        if result := self._calls["cuInit"](0):
            raise UnsupportedError(f"CUDA cannot be used in this process: {self._words(result)}")

    def ask(self, name: str, *args: object) -> int:
        """Calls a function, and returns its result; 0 is success."""
        return int(self._calls[name](*args))

    def call(self, doing: str, name: str, *args: object) -> None:
        """Calls a function. `doing`, in words: "map memory of GPU 0".

        Raises:
            OutOfMemoryError: for CUDA_ERROR_OUT_OF_MEMORY.
            DeviceError: for every other result but success.
        """
        if result := self.ask(name, *args):
            kind = OutOfMemoryError if result == _OUT_OF_MEMORY else DeviceError
            raise kind(f"cannot {doing}: {name}: {self._words(result)}")

    def _words(self, result: int) -> str:
        name, text = ctypes.c_char_p(), ctypes.c_char_p()
        self._calls["cuGetErrorName"](result, ctypes.byref(name))
        self._calls["cuGetErrorString"](result, ctypes.byref(text))
        words = text.value.decode() if text.value else "a result that this driver has no words for"
        return f"{words} ({name.value.decode() if name.value else result})"


@lru_cache
def _load(path: str) -> Driver:
    return Driver(path)


def driver() -> Driver:
    """libcuda.so.1, or the file that HMMEMU_LIBCUDA names. Raises UnsupportedError."""
    return _load(os.environ.get("HMMEMU_LIBCUDA") or "libcuda.so.1")


class ImportedMemory:
    """Granules that another process made, side by side in this process's addresses.

    They stay mapped until nobody refers to the object and the GPU has done what this process gave it until then (as
    `cudaFree` has it): a kernel that uses an address which is not mapped would end the whole CUDA context. The memory
    itself is free when the other process has given it up, too. The calling thread has the GPU's context.

    Attributes:
        address: of the first byte. bytes: all of them, a multiple of GRANULE.

    Args:
        gpu: CUDA's number of the GPU.
        count: how many granules there are.
        descriptors: one a granule; each is closed.

    Raises:
        UnsupportedError, OutOfMemoryError, DeviceError: the driver cannot; nothing stays mapped.
    """

    def __init__(self, gpu: int, count: int, descriptors: Iterable[int]) -> None:
        self.bytes = count * GRANULE
        cuda, what = driver(), f"{self.bytes >> 20} MiB of GPU {gpu}"
        address, device, context = _Address(), ctypes.c_int(), ctypes.c_void_p()
        cuda.call(f"look for the context of GPU {gpu}", "cuCtxGetCurrent", ctypes.byref(context))
        cuda.call(f"open GPU {gpu}", "cuDeviceGet", ctypes.byref(device), gpu)
        cuda.call(
            f"reserve addresses for {what}",
            "cuMemAddressReserve",
            ctypes.byref(address),
            self.bytes,
            GRANULE,
            0,
            0,
        )
        self.address = address.value
        mapped: list[int] = []
        self._end = weakref.finalize(self, _unmap, cuda, context, self.address, self.bytes, mapped)
        self._end.atexit = False  # the driver ends with the process, and may have ended before Python
        try:
            for number, descriptor in enumerate(descriptors):
                at = self.address + number * GRANULE
                _map(cuda, descriptor, at, what)
                mapped.append(at)
            access = _Access(_DEVICE, device.value, _READ_WRITE)
            cuda.call(f"open {what}", "cuMemSetAccess", self.address, self.bytes, ctypes.byref(access), 1)
        except BaseException:
            self._end()
            raise


def _map(cuda: Driver, descriptor: int, at: int, what: str) -> None:
    """Maps a granule; the mapping keeps it, and the descriptor is closed."""
    handle = _Address()
    try:
        cuda.call(
            f"take over {what}",
            "cuMemImportFromShareableHandle",
            ctypes.byref(handle),
            descriptor,
            _FILE_DESCRIPTOR,
        )
    finally:
        os.close(descriptor)
    try:
        cuda.call(f"map {what}", "cuMemMap", at, GRANULE, 0, handle, 0)
    finally:
        cuda.call(f"let go of a handle of {what}", "cuMemRelease", handle)


def _unmap(cuda: Driver, context: ctypes.c_void_p, address: int, size: int, mapped: list[int]) -> None:
    """What fails here is left to the end of the process: after a failed kernel CUDA refuses every call.

    Whether cuMemUnmap waits for the GPU is not said; PyTorch found that it does not "in all cases"
    (c10/cuda/CUDACachingAllocator.cpp, unmapHandles).
    """
    if mapped and cuda.ask("cuCtxPushCurrent_v2", context) == 0:
        cuda.ask("cuCtxSynchronize")
        cuda.ask("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
    for at in mapped:
        cuda.ask("cuMemUnmap", at, GRANULE)
    cuda.ask("cuMemAddressFree", address, size)
