"""Device views on a GPU: CuPy arrays over the very memory that kernels of hmmemu use.

The helper process keeps the granules while a view is open, whoever takes pages away (native/device/cuda/views.cpp),
and passes them on; this process maps them at addresses of its own. A page that the CPU wants meanwhile comes home at
once, as it is: the thread may be the one that has the view open, and would wait for itself. So it is not prevented but
found out, at the end: pages that the device has no more the only copy of.

LOCK: none of its own; a view belongs to the thread that opened it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from hmmemu.arguments import Pointer
from hmmemu.cuda_driver import GRANULE, ImportedMemory
from hmmemu.errors import DeviceError, KernelTimeout, UnsupportedError, ViewError
from hmmemu.ranges import Array, PageRange, describe, extent
from hmmemu.trace import CAUSES

if TYPE_CHECKING:
    from hmmemu.cuda import CudaDevice

_EXCLUSIVE = 2
_HOLD_SECONDS = 60.0
_SUCCESS, _NOT_READY = 0, 600  # CUresult
_LOOK_SECONDS = 50e-6  # a stream is looked at so long before the thread sleeps in between
_SLEEP_SECONDS = 200e-6


@contextmanager
def open_view(device: CudaDevice, pointer: Pointer) -> Iterator[Any]:
    """The body gets a `cupy.ndarray` of the array's shape, dtype and strides.

    Raises:
        UnsupportedError: CuPy or the driver cannot be used in this process.
        OutOfMemoryError: the GPU has no room for the array, or this process for its mapping.
        ViewError: at the end: pages were used by others, or the device failed meanwhile.
        DeviceError: at the end: CuPy's work failed.
        KernelTimeout: at the end: CuPy's work did not end within the space's timeout.
    """
    array, gpu = pointer.array, device.gpu.index
    cupy = _cupy(gpu)
    if not array.size:
        with cupy.cuda.Device(gpu):
            yield cupy.ndarray(array.shape, array.dtype)
        return
    pages = extent(array).pages
    device.check_room([pages])
    generation = device.generation
    _hold(device, pages, pointer.writes)
    streams = [cupy.cuda.get_current_stream(gpu)]
    try:
        yield _mirror(cupy, device, array)
    finally:
        try:
            _wait(cupy, [*streams, cupy.cuda.get_current_stream(gpu)], device.space.timeout)
        finally:
            _release(device, pointer, generation)


def _cupy(gpu: int) -> Any:
    try:
        cupy = import_module("cupy")
        with cupy.cuda.Device(gpu):
            cupy.cuda.runtime.free(0)  # makes the context
    except Exception as error:  # CuPy raises many kinds
        raise UnsupportedError(
            f"a device view is a CuPy array, and CuPy cannot be used in this process: {error}"
        ) from error
    return cupy


def _hold(device: CudaDevice, pages: PageRange, writes: bool) -> None:
    """Brings the pages there and keeps their memory. From the mark on only who asks for such a page takes it away."""
    begin, end = pages
    session, deadline = device.space.session, time.monotonic() + _HOLD_SECONDS
    while True:
        # A prefetch takes pages from where the CPU and kernels share them.
        device.ask(session.access, begin, end, device.processor, writes, CAUSES.index("prefetch"))
        session.mark_viewed(begin, end, True)
        if not (missing := device.ask(device.process.hold, begin, end - begin, writes)):
            return
        if time.monotonic() > deadline:
            raise DeviceError(
                f"page {missing:#x} of a device view was taken away faster than it came, for {_HOLD_SECONDS:.0f} s: "
                "does another thread write to the array all the time?"
            )


def _mirror(cupy: Any, device: CudaDevice, array: Array) -> Any:
    """The device's memory of an array. CuPy keeps it mapped as long as an array of it is there."""
    begin, end = extent(array).pages
    first = begin // GRANULE * GRANULE
    blocks = range(first, end, GRANULE)
    gpu = device.gpu.index
    with cupy.cuda.Device(gpu):
        memory = ImportedMemory(
            gpu, len(blocks), (device.ask(device.process.share, block) for block in blocks)
        )
        raw = cupy.cuda.UnownedMemory(memory.address, memory.bytes, memory, gpu)
        place = cupy.cuda.MemoryPointer(raw, array.ctypes.data - first)
        return cupy.ndarray(array.shape, array.dtype, place, strides=array.strides)


def _wait(cupy: Any, streams: list[Any], limit: float | None) -> None:
    begin = time.monotonic()
    for stream in streams:
        while (result := cupy.cuda.runtime.streamQuery(stream.ptr)) != _SUCCESS:  # `done` hides failures
            if result != _NOT_READY:
                raise DeviceError(
                    f"CuPy's work on a device view failed (CUDA's result {result}): CUDA cannot be used in this "
                    "process any more; the space goes on, but for views"
                )
            waited = time.monotonic() - begin
            if limit is not None and waited > limit:
                raise KernelTimeout(
                    f"CuPy's work on a device view did not end within {limit} s; what it still writes may be lost"
                )
            if waited > _LOOK_SECONDS:
                time.sleep(_SLEEP_SECONDS)


def _release(device: CudaDevice, pointer: Pointer, generation: int) -> None:
    """Gives the memory free. Raises ViewError if others used pages, or if the device is another one by now."""
    begin, end = pointer.pages
    session, what = device.space.session, describe(pointer.array)
    if not session.open:
        raise ViewError(f"the address space was closed while a device view of the {what} was open")
    words = np.frombuffer(session.snapshot(begin, end), np.uint64)
    if generation == device.generation:
        device.ask(device.process.release, begin, end - begin)
    if generation != device.generation:
        raise ViewError(
            f"{device.name} was started again while a device view of the {what} was open: what was written in it may "
            "be lost"
        )
    holds = words >> np.uint64(2 * device.processor) & np.uint64(3)
    used = np.flatnonzero(holds != _EXCLUSIVE)
    if pointer.writes and len(used):
        raise ViewError(
            f"{len(used)} of {len(words)} pages of the {what} (the first: page {used[0]}) were used by the CPU or "
            "another device while a device view had them: what was read there may be old, and what the GPU wrote there "
            "afterwards is lost. Use the array before or after the `with` block, or pass hmm.In(array) if the view "
            "only reads"
        )
