"""Arrays that show the same memory at several addresses, written and read by the CPU or a device as a test says."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np

import hmmemu as hmm

INTS = 1024  # a page of int32
PAGES = 600  # more than a block
SIZE = PAGES * 4096
KINDS = ("memmap", "SharedMemory", "memfd", "SharedFile", "ring")


class Views:
    """Makes arrays that show the same memory, each a mapping of its own."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind = kind
        self.path = path
        self.closing: list[Callable[[], None]] = []
        if kind == "SharedMemory":
            self.memory = SharedMemory(create=True, size=SIZE)
            self.closing.append(self.memory.unlink)
        elif kind == "memfd":
            self.fd = os.memfd_create("owners")
            os.ftruncate(self.fd, SIZE)
            self.closing.append(lambda: os.close(self.fd))
        else:
            path.write_bytes(bytes(SIZE))

    def another(self) -> np.ndarray:
        if self.kind == "memfd":
            return np.frombuffer(mmap.mmap(self.fd, SIZE), np.int32)
        if self.kind == "SharedMemory":
            opened = SharedMemory(self.memory.name)
            array = np.frombuffer(opened.buf, np.int32)
            opened._buf = opened._mmap = None  # it must not close what the array shows, and the array will
            return array
        return np.memmap(self.path, np.int32, "r+")

    def close(self) -> None:
        for close in self.closing:
            close()


def numbers() -> np.ndarray:
    return np.arange(PAGES * INTS, dtype=np.int32)


def write(space: hmm.AddressSpace, array: np.ndarray, where: str, value: int) -> None:
    if where == "cpu":
        array[...] = value
    else:
        space.devices[0].write(array, value)


def read(space: hmm.AddressSpace, array: np.ndarray, where: str) -> np.ndarray:
    return array.copy() if where == "cpu" else space.devices[0].read(array)
