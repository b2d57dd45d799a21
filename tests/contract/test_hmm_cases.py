"""Twins of the Linux kernel's own HMM tests (tools/testing/selftests/mm/hmm-tests.c), case by case, from their
descriptions. Names are the kernel's.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from multiprocessing import shared_memory
from pathlib import Path

import numpy as np
import pytest
from forking import in_child

import hmmemu as hmm
from hmmemu import trackers

INTS = 1024
PAGES = 1024  # 4 MiB, as there
REPEATS = 10

needs_files = pytest.mark.skipif(
    "signal" not in trackers.IMPLEMENTED, reason="no tracker for pages of files yet"
)


def numbers(n: int = PAGES * INTS) -> np.ndarray:
    return np.arange(n, dtype=np.int32)


def anonymous(n: int = PAGES * INTS) -> np.ndarray:
    """Private anonymous memory that no library touched."""
    return np.frombuffer(mmap.mmap(-1, n * 4, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.int32)


def protect(x: np.ndarray, rights: int) -> None:
    """mprotect(2) of an array's pages."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert libc.mprotect(x.ctypes.data, x.nbytes, rights) == 0, os.strerror(ctypes.get_errno())


def test_open_close() -> None:
    for _ in range(3):
        hmm.AddressSpace().close()


def test_anon_read(space: hmm.AddressSpace) -> None:
    x = anonymous()
    assert x[INTS] == 0  # page 1 is the zero page, page 0 untouched
    x[2 * INTS :] = numbers()[2 * INTS :]
    x.flags.writeable = False
    space.register(x)
    seen = space.devices[0].read(x)
    assert not seen[: 2 * INTS].any()
    np.testing.assert_array_equal(seen[2 * INTS :], numbers()[2 * INTS :])


def test_anon_write(space: hmm.AddressSpace) -> None:
    x = space.register(anonymous())
    space.devices[0].write(x, numbers())
    np.testing.assert_array_equal(x, numbers())


def test_anon_write_prot(space: hmm.AddressSpace) -> None:
    x = space.register(anonymous(2 * INTS))
    x.flags.writeable = False
    assert not space.devices[0].read(x).any()
    with pytest.raises(hmm.ArgumentError, match="read-only"):
        space.devices[0].write(x, 1)
    assert not x.any()
    x.flags.writeable = True
    space.devices[0].write(x, 1)
    assert x.all()


def test_anon_read_prot(space: hmm.AddressSpace) -> None:
    x = anonymous()
    x[:] = numbers()
    protect(x, 0)
    with pytest.raises(hmm.RangeError, match="cannot be read"):
        space.register(x)
    protect(x, mmap.PROT_READ | mmap.PROT_WRITE)
    np.testing.assert_array_equal(x, numbers())


def test_anon_write_mprotected(space: hmm.AddressSpace) -> None:
    """The half of anon_write_prot that is about mprotect."""
    x = anonymous(2 * INTS)
    protect(x, mmap.PROT_READ)
    space.register(x)
    assert not space.devices[0].read(x).any()
    with pytest.raises(hmm.RangeError, match="mapped read-only"):
        space.devices[0].write(x, 1)
    assert not x.any()
    space.unregister(x)
    protect(x, mmap.PROT_READ | mmap.PROT_WRITE)
    space.devices[0].write(space.register(x), 1)
    assert x.all()


@pytest.mark.parametrize("migrate", [False, True])
def test_anon_write_child(space: hmm.AddressSpace, migrate: bool) -> None:
    x = space.register(anonymous())
    x[:] = numbers()
    if migrate:
        space.devices[0].migrate(x)

    def child() -> bool:  # writes of the child's own device are the child's own
        with hmm.AddressSpace() as mine:
            right = np.array_equal(x, numbers())
            mine.devices[0].write(mine.register(x), -numbers())
            return right and np.array_equal(x, -numbers())

    assert in_child(child) == 0
    np.testing.assert_array_equal(x, numbers())
    np.testing.assert_array_equal(space.devices[0].read(x), numbers())


def test_anon_write_child_shared(space: hmm.AddressSpace) -> None:
    x = np.frombuffer(mmap.mmap(-1, PAGES * 4096), np.int32)
    space.register(x)
    space.devices[0].write(x, numbers())

    def child() -> bool:
        right = np.array_equal(x, numbers())
        with hmm.AddressSpace() as mine:
            mine.devices[0].write(mine.register(x), -numbers())
        return right

    assert in_child(child) == 0
    np.testing.assert_array_equal(x, -numbers())


@needs_files
def test_file_read(space: hmm.AddressSpace, tmp_path: Path) -> None:
    numbers().tofile(tmp_path / "file")
    x = space.register(np.memmap(tmp_path / "file", np.int32, "r+"))
    np.testing.assert_array_equal(space.devices[0].read(x), numbers())


@needs_files
def test_file_write(space: hmm.AddressSpace, tmp_path: Path) -> None:
    with hmm.SharedFile(tmp_path / "file", "w+", np.int32, PAGES * INTS, space=space) as file:
        space.devices[0].write(file.array, numbers())
        assert file.pread(file.size, 0) == numbers().tobytes()
        np.testing.assert_array_equal(file.array, numbers())


@needs_files
def test_migrate_file_private(space: hmm.AddressSpace, tmp_path: Path) -> None:
    np.zeros(PAGES * INTS, np.int32).tofile(tmp_path / "file")
    x = np.memmap(tmp_path / "file", np.int32, "c")
    x[: 64 * INTS] = numbers()[: 64 * INTS]  # copied on write; the rest are pages of the file
    space.register(x)
    space.devices[0].migrate(x)
    assert set(space.residency(x)) == {"-X"}
    expected = numbers()
    expected[64 * INTS :] = 0
    np.testing.assert_array_equal(space.devices[0].read(x), expected)
    np.testing.assert_array_equal(x, expected)
    assert not np.fromfile(tmp_path / "file", np.int32).any()


def test_migrate(space: hmm.AddressSpace) -> None:
    x = space.register(anonymous())
    x[:] = numbers()
    space.devices[0].migrate(x)
    assert set(space.residency(x)) == {"-X"}
    np.testing.assert_array_equal(space.devices[0].read(x), numbers())


def test_migrate_fault(space: hmm.AddressSpace) -> None:
    x = space.register(anonymous())
    x[:] = numbers()
    space.devices[0].migrate(x)
    half = x.size // 2
    np.testing.assert_array_equal(x[:half], numbers()[:half])
    space.devices[0].migrate(x)
    assert set(space.residency(x)) == {"-X"}
    np.testing.assert_array_equal(x, numbers())


def test_migrate_release(space: hmm.AddressSpace) -> None:
    x = space.register(anonymous())
    x[:] = numbers()
    space.devices[0].migrate(x)
    space.close()
    np.testing.assert_array_equal(x, numbers())


def test_migrate_shared(space: hmm.AddressSpace) -> None:
    """Refused by the kernel; here shared memory migrates like any other."""
    memory = shared_memory.SharedMemory(create=True, size=64 * 4096)
    try:
        x = np.frombuffer(memory.buf, np.int32)
        x[:] = numbers(x.size)
        space.register(x)
        space.devices[0].migrate(x)
        assert set(space.residency(x)) == {"-X"}
        np.testing.assert_array_equal(x, numbers(x.size))
        space.unregister(x)
        del x
    finally:
        memory.close()
        memory.unlink()


def test_migrate_multiple(space: hmm.AddressSpace) -> None:
    x = space.register(anonymous())
    x[:] = numbers()
    for i in range(REPEATS):
        space.devices[0].migrate(x)
        np.testing.assert_array_equal(x, numbers() + i)
        x += 1


def test_anon_read_multiple(space: hmm.AddressSpace) -> None:
    for i in range(REPEATS):
        x = space.register(anonymous())
        x[:] = numbers() + i
        np.testing.assert_array_equal(space.devices[0].read(x), numbers() + i)


def test_anon_teardown(space: hmm.AddressSpace) -> None:
    """The second half leaves the space at a random moment while the device reads: right data or an error."""
    for delay in np.linspace(0, 0.01, REPEATS):
        whole = anonymous()
        whole[:] = numbers()
        halves = [
            space.register(half.view()) for half in (whole[: whole.size // 2], whole[whole.size // 2 :])
        ]
        second = halves[1]
        timer = threading.Timer(delay, space.unregister, (second,))
        timer.start()
        try:
            while timer.is_alive():
                np.testing.assert_array_equal(space.devices[0].read(second), numbers()[whole.size // 2 :])
        except hmm.RangeError:
            pass
        finally:
            timer.join()
        np.testing.assert_array_equal(whole, numbers())


def test_snapshot(two_devices: hmm.AddressSpace) -> None:
    space = two_devices
    x = space.zeros((7, INTS), np.int32)
    x[1] = 1
    for page, device in ((2, 0), (3, 1)):
        space.devices[device].write(x[page], 2)
    x[4] = 4
    space.devices[0].read(x[4])
    x[5] = 5
    space.devices[0].read(x[5])
    space.devices[1].read(x[5])
    space.devices[0].write(x[6], 6)
    space.devices[1].read(x[6])
    assert list(space.residency(x)) == ["---", "X--", "-X-", "--X", "SS-", "SSS", "-SS"]


def test_double_map(two_devices: hmm.AddressSpace) -> None:
    space = two_devices
    x = space.register(anonymous())
    x[:] = numbers()
    for device in space.devices:
        np.testing.assert_array_equal(device.read(x), numbers())
    space.devices[0].migrate(x)
    np.testing.assert_array_equal(space.devices[1].read(x), numbers())


def test_hmm_gup(space: hmm.AddressSpace) -> None:
    """Migrated pages that a system call pins come home, data intact."""
    x = space.register(anonymous())
    x[:] = numbers()
    space.devices[0].migrate(x)
    reader, writer = os.pipe()
    if not trackers.probe(space.tracker).system_calls:  # then an error, never wrong data, and a way to do it
        with pytest.raises(OSError, match="Bad address"):
            os.write(writer, x)
        space.prefetch(x, hmm.cpu)
    received = bytearray()

    def drain() -> None:
        while chunk := os.read(reader, 1 << 16):
            received.extend(chunk)

    thread = threading.Thread(target=drain)
    thread.start()
    view = memoryview(x).cast("B")
    while view:
        view = view[os.write(writer, view) :]
    os.close(writer)
    thread.join(30)
    os.close(reader)
    assert bytes(received) == numbers().tobytes()


def test_hmm_cow_in_device(space: hmm.AddressSpace) -> None:
    x = space.register(anonymous())
    x[:] = numbers()
    space.devices[0].migrate(x)
    assert in_child(lambda: np.array_equal(x, numbers())) == 0
    assert set(space.residency(x)) == {"X-"}
    x += 1
    assert set(space.residency(x)) == {"X-"}
    np.testing.assert_array_equal(x, numbers() + 1)


def test_huge_pages_of_anonymous_memory(space: hmm.AddressSpace) -> None:
    """Transparent huge pages are split as needed: written, migrated half, faulted back."""
    raw = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    raw.madvise(mmap.MADV_HUGEPAGE)
    x = np.frombuffer(raw, np.int32)
    x[:] = numbers(x.size)
    space.register(x)
    space.devices[0].migrate(x[: x.size // 2])
    space.devices[0].write(x[100:200], -1)
    expected = numbers(x.size)
    expected[100:200] = -1
    np.testing.assert_array_equal(x, expected)
