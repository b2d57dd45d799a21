"""Each kind of memory under each tracker: what is caught, what stays as it was, and what is said of the rest."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from multiprocessing import shared_memory
from pathlib import Path

import numpy as np
import pytest
from forking import in_child

import hmmemu as hmm
from hmmemu import trackers
from hmmemu.mappings import mappings_of

N = 5 * 1024 + 100  # int32: pages, the last one not full


def anonymous(folder: Path) -> np.ndarray:
    return np.frombuffer(mmap.mmap(-1, 4 * N, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.int32)


def anonymous_shared(folder: Path) -> np.ndarray:
    return np.frombuffer(mmap.mmap(-1, 4 * N), np.int32)


def heap(folder: Path) -> np.ndarray:
    return np.empty(N, np.int32)


def memfd(folder: Path) -> np.ndarray:
    fd = os.memfd_create("test")
    os.truncate(fd, 4 * N)
    memory = mmap.mmap(fd, 4 * N)
    os.close(fd)
    return np.frombuffer(memory, np.int32)


def file_shared(folder: Path) -> np.ndarray:
    return np.memmap(folder / "file", np.int32, "w+", shape=N)


def file_private(folder: Path) -> np.ndarray:
    np.zeros(N, np.int32).tofile(folder / "file")
    return np.memmap(folder / "file", np.int32, "c", shape=N)


def transparent_huge(folder: Path) -> np.ndarray:
    memory = mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.int32)[:N]


KINDS = [anonymous, anonymous_shared, heap, memfd, file_shared, file_private, transparent_huge]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def x(request: pytest.FixtureRequest, tmp_path: Path, space: hmm.AddressSpace) -> np.ndarray:
    make: Callable[[Path], np.ndarray] = request.param
    array = make(tmp_path)
    array[:] = np.arange(N)
    space.register(array)
    return array


# ------------------------------------------------------------------------------------ each way of writing


class Listener:
    """Keeps what it is told: page numbers, and what the pages held before."""

    def __init__(self) -> None:
        self.before: dict[int, np.ndarray] = {}

    def on_write(self, pages: hmm.WrittenPages) -> None:
        for index, content in zip(pages.indices, pages.before, strict=True):
            self.before[int(index)] = content.view(np.int32)


def store(space: hmm.AddressSpace, x: np.ndarray) -> None:
    x[:] = -1


def system_call(space: hmm.AddressSpace, x: np.ndarray) -> None:
    """read(2) into the page; where the kernel's accesses are not caught, an error and nothing changed, then `prefetch`."""
    reader, writer = os.pipe()
    os.write(writer, np.full(x.size, -1, np.int32).tobytes())
    with os.fdopen(reader, "rb", buffering=0) as pipe, os.fdopen(writer, "wb"):
        try:
            pipe.readinto(memoryview(x))
        except OSError as error:
            watched_by_protection = space.memory.registry.file_at(x.ctypes.data) is not None
            assert error.errno == errno.EFAULT
            assert watched_by_protection or not trackers.probe(space.tracker).system_calls
            np.testing.assert_array_equal(x, ITEM)
            space.prefetch(x, hmm.cpu)
            pipe.readinto(memoryview(x))


def device_write(space: hmm.AddressSpace, x: np.ndarray) -> None:
    space.devices[0].write(x, -1)


ITEM = 100 + np.arange(8, dtype=np.int32)


@pytest.mark.parametrize("way", [store, system_call, device_write], ids=lambda way: way.__name__)
def test_a_write_is_caught(
    space: hmm.AddressSpace, x: np.ndarray, way: Callable[[hmm.AddressSpace, np.ndarray], None]
) -> None:
    """Wherever the page is: protectors hear of it with the content before, `dirty` says it, both sides see it."""
    device = space.devices[0]
    first = -(x.ctypes.data // 4) % 1024 + 2 * 1024 + 200  # wherever malloc put the array
    item = slice(first, first + 8)  # on one page, which is none of the array's ends
    page, at = divmod(x.ctypes.data % 4096 + 4 * item.start, 4096)
    inner = set(range(1, 5))  # the first and the last page of heap memory hold other things, too
    space.dirty(x)
    for copies in ("cpu", "both", "device"):
        x[item] = ITEM
        expected = x.copy()
        if copies != "cpu":
            space.prefetch(x, device, write=copies == "device")
        space.dirty(x)
        listener = Listener()
        with space.protect(x, listener) as protection:
            way(space, x[item])
            protection.flush()
            assert inner & set(listener.before) == inner & set(space.dirty(x).tolist()) == {page}
        np.testing.assert_array_equal(listener.before[page][at // 4 : at // 4 + 8], ITEM)
        expected[item] = -1
        np.testing.assert_array_equal(x, expected)
        np.testing.assert_array_equal(device.read(x), expected)


# ------------------------------------------------------------------------------------------ what stays as it was


def test_back_and_forth(space: hmm.AddressSpace, x: np.ndarray) -> None:
    device, model = space.devices[0], np.arange(N, dtype=np.int32)
    for i in range(6):
        part = slice(i * 700, i * 700 + 2000)
        device.write(x[part], -i)
        model[part] = -i
        np.testing.assert_array_equal(x, model)  # readable copies
        x[i::1024] += 100  # stores to them
        model[i::1024] += 100
        np.testing.assert_array_equal(device.read(x), model)
    device.migrate(x)
    space.unregister(x)
    np.testing.assert_array_equal(x, model)
    x[:] = 1  # plain memory again


def test_a_closed_space_leaves_plain_memory(space: hmm.AddressSpace, x: np.ndarray) -> None:
    space.devices[0].write(x, 5)
    space.close()
    assert (x == 5).all()
    x[:] = 6


def test_discarded_pages_read_as_zeros(space: hmm.AddressSpace, x: np.ndarray) -> None:
    space.devices[0].write(x, 5)
    space.discard(x)
    assert (np.asarray(x[1024:4096]) == 0).all()
    x[2000] = 3
    assert space.devices[0].read(x)[2000] == 3


def test_files_hold_what_the_device_wrote(space: hmm.AddressSpace, tmp_path: Path) -> None:
    x = file_shared(tmp_path)
    space.register(x)
    space.devices[0].write(x, 9)
    space.prefetch(x, hmm.cpu)
    assert (np.fromfile(tmp_path / "file", np.int32) == 9).all()


def test_private_files_stay_as_they_are(space: hmm.AddressSpace, tmp_path: Path) -> None:
    x = file_private(tmp_path)
    space.register(x)
    space.devices[0].write(x, 9)
    x[0] = 4
    assert not np.fromfile(tmp_path / "file", np.int32).any()
    assert (x[1:] == 9).all()


def test_two_mappings_of_one_memory_in_two_processes(space: hmm.AddressSpace) -> None:
    memory = shared_memory.SharedMemory(create=True, size=4 * N)
    x = np.ndarray(N, np.int32, memory.buf)
    x[:] = 3
    space.register(x)
    space.devices[0].write(x, 4)
    space.prefetch(x, hmm.cpu)
    assert in_child(lambda seen=x: (seen == 4).all()) == 0
    space.unregister(x)
    del x
    memory.close()
    memory.unlink()


def test_transparent_huge_pages(space: hmm.AddressSpace) -> None:
    memory = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    x = np.frombuffer(memory, np.int32)
    x[:] = np.arange(x.size)
    space.register(x)
    space.devices[0].write(x[1000:3000], 0)
    assert x[999] == 999
    assert x[3000] == 3000
    assert not x[1000:3000].any()


def test_executable_memory_stays_executable(space: hmm.AddressSpace) -> None:
    memory = mmap.mmap(-1, 8192, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
    x = np.frombuffer(memory, np.int32)
    address = x.ctypes.data
    space.register(x)
    assert (space.devices[0].read(x) == 0).all()
    assert [m.executable for m in mappings_of(address, address + 8192)] == [True]
    x[5] = 1
    space.devices[0].write(x, 5)
    space.unregister(x)
    found = mappings_of(address, address + 8192)
    assert {(m.readable, m.writable, m.executable) for m in found} == {(True, True, True)}


def test_transfers_are_for_devices(space: hmm.AddressSpace, tmp_path: Path) -> None:
    x, data = file_shared(tmp_path), np.full(1024, 5, np.int32)
    space.register(x)
    with pytest.raises(hmm.RangeError, match="processor 0 is the CPU"):
        space.session.transfer(0, x.ctypes.data, data.nbytes, data.ctypes.data, True)
    assert not x.any()
