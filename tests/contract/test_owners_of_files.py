"""Pages of files with several owners: private mappings, huge pages, system calls, truncation, another process.

What is written through one owner is read through the others; a private mapping keeps what it showed.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from forking import in_child
from several_views import INTS, SIZE, numbers, read, write

import hmmemu as hmm

# ------------------------------------------------------------------------------------- private mappings


@pytest.mark.parametrize("writer", ["cpu", "device"])
@pytest.mark.parametrize("first", ["private", "shared"])
def test_a_private_mapping_keeps_what_it_showed(
    space: hmm.AddressSpace, tmp_path: Path, first: str, writer: str
) -> None:
    numbers().tofile(tmp_path / "data")
    x, private = np.memmap(tmp_path / "data", np.int32, "r+"), np.memmap(tmp_path / "data", np.int32, "c")
    for y in (private, x) if first == "private" else (x, private):
        space.register(y)
    want = numbers()
    private[: 2 * INTS] = want[: 2 * INTS] = -1  # has pages of its own now
    space.devices[0].read(private[3 * INTS : 5 * INTS])
    space.dirty(private)
    assert len(space.record(x, 9)) == 2
    write(space, x[INTS : 20 * INTS], writer, 7)
    assert space.dirty(private).tolist() == [] and space.record(x, 9)[0].address == x.ctypes.data + 9 * 4096
    np.testing.assert_array_equal(private, want)
    np.testing.assert_array_equal(space.devices[0].read(private), want)
    space.devices[0].write(private[8 * INTS : 30 * INTS], 5)
    want[8 * INTS : 30 * INTS] = 5
    np.testing.assert_array_equal(private, want)
    shared = numbers()
    shared[INTS : 20 * INTS] = 7
    np.testing.assert_array_equal(x, shared)
    np.testing.assert_array_equal(space.devices[0].read(x), shared)
    space.unregister(x)
    np.testing.assert_array_equal(private, want)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "data", np.int32), shared)


def test_a_private_mapping_shows_what_was_written_before(space: hmm.AddressSpace, tmp_path: Path) -> None:
    numbers().tofile(tmp_path / "data")
    x = space.register(np.memmap(tmp_path / "data", np.int32, "r+"))
    space.devices[0].write(x, 4)
    private = space.register(np.memmap(tmp_path / "data", np.int32, "c"))
    assert (private == 4).all()
    private[0] = 5
    assert x[0] == 4 and space.devices[0].read(x)[0] == 4


def test_huge_pages(space: hmm.AddressSpace, huge_pages: None) -> None:
    fd = os.memfd_create("huge", os.MFD_HUGETLB)
    os.ftruncate(fd, 4 << 20)
    a, b = (np.frombuffer(mmap.mmap(fd, 4 << 20), np.int32) for _ in range(2))
    space.register(a), space.register(b[600 * INTS : 700 * INTS])
    want = np.zeros(a.size, np.int32)
    for value, (x, where) in enumerate(((a, "cpu"), (b, "device"), (a, "device"), (b, "cpu")), 1):
        want[500 * INTS + 3 : 620 * INTS] = value
        write(space, x[500 * INTS + 3 : 620 * INTS], where, value)
        for y in (a, b):
            np.testing.assert_array_equal(y, want)
            np.testing.assert_array_equal(space.devices[0].read(y), want)
    os.close(fd)


# ------------------------------------------------------------------------------------------ SharedFile


@pytest.fixture
def file(space: hmm.AddressSpace, tmp_path: Path) -> Iterator[hmm.SharedFile]:
    numbers().tofile(tmp_path / "data")
    with hmm.SharedFile(tmp_path / "data", "r+", np.int32, space=space) as opened:
        yield opened


@pytest.mark.parametrize("where", ["cpu", "device"])
def test_a_system_call_writes(space: hmm.AddressSpace, file: hmm.SharedFile, where: str) -> None:
    x = space.register(np.memmap(file.path, np.int32, "r+"))
    write(space, x[INTS : 3 * INTS], where, -1)
    space.dirty(x)
    assert file.pread(4, 4096) == b"\xff" * 4
    file.pwrite(np.full(INTS, 5, np.int32), 4096 + 2048)
    want = numbers()
    want[INTS : 3 * INTS] = -1
    want[INTS + INTS // 2 :][:INTS] = 5
    np.testing.assert_array_equal(read(space, x, where), want)
    np.testing.assert_array_equal(read(space, file.array, where), want)
    assert space.dirty(x).tolist() == [1, 2]


def test_truncation_reaches_every_owner(
    space: hmm.AddressSpace, file: hmm.SharedFile, kernels: hmm.RawModule
) -> None:
    x = space.register(np.memmap(file.path, np.int32, "r+"))
    space.devices[0].write(x, 1)
    assert (space.devices[0].read(file.array) == 1).all()
    file.truncate(4 * 4096)
    assert (space.devices[0].read(x[: 4 * INTS]) == 1).all()
    for array in (x, file.array):
        with pytest.raises(hmm.TruncatedError, match="behind the end"):
            space.devices[0].read(array[5 * INTS :])
    with pytest.raises(hmm.TruncatedError, match="behind the end"):
        for _ in range(1000):
            assert x[7 * INTS] == 0
    file.truncate(SIZE)
    assert not x[4 * INTS :].any()
    x[7 * INTS] = 5
    assert file.array[7 * INTS] == 5 == space.devices[0].read(x)[7 * INTS]
    file.array[7 * INTS] = 6
    assert x[7 * INTS] == 6


def test_two_shared_files(space: hmm.AddressSpace, file: hmm.SharedFile) -> None:
    with hmm.SharedFile(file.path, "r+", np.int32, space=space) as other:
        space.devices[0].write(other.array[: 2 * INTS], 3)
        assert file.pread(4, 0) == np.int32(3).tobytes()
        file.pwrite(np.int32(4).tobytes(), 0)
        assert other.array[0] == 4 and space.devices[0].read(other.array)[0] == 4
    assert (file.array[1 : 2 * INTS] == 3).all()


def test_another_process_writes(
    space: hmm.AddressSpace, file: hmm.SharedFile, kernels: hmm.RawModule
) -> None:
    x, y = space.register(np.memmap(file.path, np.int32, "r+")), space.zeros(file.array.size, np.int32)
    for value, source in enumerate((x, file.array, x)):
        kernels.get_function("copy")(4, 64, (source, y, y.size))
        space.synchronize()

        def child(value: int = value) -> bool:
            fd = os.open(file.path, os.O_WRONLY)
            return os.pwrite(fd, np.int32(-value).tobytes(), 5 * 4096) == 4

        assert in_child(child) == 0
        kernels.get_function("copy")(4, 64, (source, y, y.size))
        assert y[5 * INTS] == -value
