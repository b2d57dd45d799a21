"""Same-page merging of shared memory and files: what is stored reaches them, and who else writes is heard."""

from __future__ import annotations

import os
from collections.abc import Iterator
from multiprocessing import shared_memory
from pathlib import Path

import numpy as np
import pytest
from merging import PAGE, PAGES, noise, owners

import hmmemu as hmm
from hmmemu.mappings import all_mappings


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[shared_memory.SharedMemory]:
    memory = shared_memory.SharedMemory(create=True, size=PAGES * PAGE)
    yield memory
    memory.close()
    memory.unlink()


def test_shared_memory(space: hmm.AddressSpace, shared: shared_memory.SharedMemory) -> None:
    x = space.array(noise(5))
    y = np.ndarray(x.shape, x.dtype, shared.buf)
    y[:] = noise(5)
    assert space.merge(x, y).merged == 2 * PAGES
    assert np.array_equal(y, noise(5))
    (own,) = (owner for owner in space.record(y, 3) if owner.address == y.ctypes.data + 3 * PAGE)
    assert own.offset == 3 * PAGE and own.private != 0
    y[3 * 1024] = 77
    y[PAGES * 1024 - 1] = 78

    def others_see_it() -> bool:
        with (Path("/dev/shm") / shared.name).open("rb") as file:
            there = np.frombuffer(file.read(), np.int32)
        return bool(there[3 * 1024] == 77 and there[-1] == 78)

    assert others_see_it() and np.array_equal(x, noise(5))
    assert owners(space, y, 3) == [] and len(owners(space, x, 4)) == 2
    space.unregister(y)
    y[0] = 79
    with (Path("/dev/shm") / shared.name).open("rb") as file:
        assert int.from_bytes(file.read(4), "little") == 79
    del y


def test_shared_memory_at_two_addresses_is_left_alone(
    space: hmm.AddressSpace, shared: shared_memory.SharedMemory
) -> None:
    other = shared_memory.SharedMemory(shared.name)
    x, y = (np.ndarray(PAGES * 1024, np.int32, memory.buf) for memory in (shared, other))
    x[:] = noise(6)
    result = space.merge(x, y)
    assert result.merged == 0 and result.skipped == 2 * PAGES
    del x, y
    other.close()


MODES = ("r+", "c", "r")


@pytest.fixture
def maps(space: hmm.AddressSpace, tmp_path: Path) -> list[np.ndarray]:
    """Copies of the same file, mapped in every mode."""
    for mode in MODES:
        noise(7).tofile(tmp_path / mode)
    try:
        return [space.register(np.memmap(tmp_path / mode, np.int32, mode)) for mode in MODES]
    except hmm.UnsupportedError as error:
        pytest.skip(str(error))


def test_copies_of_a_file_and_what_was_read_from_it(
    space: hmm.AddressSpace, maps: list[np.ndarray], kernels: hmm.RawModule, tmp_path: Path
) -> None:
    x = space.empty(PAGES * 1024, np.int32)
    space.prefetch(x, hmm.cpu)  # for trackers that do not catch system calls
    with (tmp_path / "r").open("rb", buffering=0) as file:
        assert file.readinto(memoryview(x).cast("B")) == PAGES * PAGE
    arrays = [*maps, x]
    result = space.merge(*arrays)
    assert (result.merged, result.frames) == (4 * PAGES, PAGES)
    assert abs(result.saved - 3 * PAGES * PAGE) < PAGES * PAGE / 10
    assert all(np.array_equal(a, noise(7)) for a in arrays)
    assert len(space.record(x, 5)) == 4
    want = [noise(7) for _ in arrays]
    for i in (0, 1, 3):
        arrays[i][i] = want[i][i] = i + 10
        arrays[i][5000 + i] = want[i][5000 + i] = i + 20
    kernels.get_function("add")((1,), (32,), (arrays[0][9000:], 100, 1))
    want[0][9000:9100] += 1
    space.synchronize()
    assert all(np.array_equal(a, w) for a, w in zip(arrays, want, strict=True))
    assert len(space.record(x, 5)) == 4
    maps[0].flush()
    assert np.array_equal(np.fromfile(tmp_path / "r+", np.int32), want[0])  # stores reached the file
    assert np.array_equal(np.fromfile(tmp_path / "c", np.int32), noise(7))  # and these did not


def test_another_writer_of_a_merged_file(
    space: hmm.AddressSpace, maps: list[np.ndarray], kernels: hmm.RawModule, tmp_path: Path
) -> None:
    x = space.array(noise(7))
    assert space.merge(x, *maps).merged == 4 * PAGES
    with (tmp_path / "r").open("r+b", buffering=0) as file:
        file.seek(3 * PAGE)
        file.write(b"\x05\0\0\0")
    out = space.zeros(1, np.int32)
    kernels.get_function("peek")((1,), (1,), (maps[2], 3 * 1024, out))  # noticed at the launch
    space.synchronize()
    want = noise(7)
    want[3 * 1024] = 5
    assert out[0] == 5 and np.array_equal(maps[2], want)
    assert np.array_equal(x, noise(7)) and np.array_equal(maps[0], noise(7))


@pytest.fixture
def file(space: hmm.AddressSpace, tmp_path: Path) -> Iterator[hmm.SharedFile]:
    noise(7).tofile(tmp_path / "shared")
    with hmm.SharedFile(tmp_path / "shared", "r+", np.int32, space=space) as opened:
        yield opened


@pytest.mark.parametrize("copies", [False, True], ids=["at the CPU", "with copies"])
def test_a_write_of_the_file_breaks(
    space: hmm.AddressSpace, file: hmm.SharedFile, tmp_path: Path, copies: bool
) -> None:
    x, y = file.array, space.array(noise(7))
    if copies:
        for array in (x, y):
            space.prefetch(array, space.devices[0], write=False)
    assert space.merge(x, y).merged == 2 * PAGES
    space.dirty(x)
    data = np.arange(1024, dtype=np.int32)
    assert file.pwrite(data, 3 * PAGE + 8) == PAGE  # of two pages
    want = noise(7)
    want[3 * 1024 + 2 :][:1024] = data
    assert space.dirty(x).tolist() == [3, 4]
    assert [len(space.record(x, i)) for i in (2, 3, 4, 5)] == [2, 0, 0, 2]
    assert np.array_equal(x, want) and np.array_equal(y, noise(7))
    assert np.array_equal(space.devices[0].read(x), want)
    assert np.array_equal(np.fromfile(tmp_path / "shared", np.int32), want)


def test_a_merged_file_is_truncated_and_grows(space: hmm.AddressSpace, file: hmm.SharedFile) -> None:
    x, y = file.array, space.array(noise(7))
    assert space.merge(x, y).merged == 2 * PAGES
    file.truncate(5 * PAGE + 8)
    want = noise(7)
    want[5 * 1024 + 2 :] = 0
    assert np.array_equal(x[: 6 * 1024], want[: 6 * 1024]) and np.array_equal(y, noise(7))
    assert len(space.record(x, 4)) == 2 and space.record(x, 5) == space.record(x, 9) == []
    with pytest.raises(hmm.TruncatedError, match="behind the end"):
        for _ in range(1000):
            assert x[9 * 1024] == 0
    file.truncate(PAGES * PAGE)
    assert np.array_equal(x, want)
    y[:] = x
    assert space.merge(x, y).merged >= 12  # pages of zeros that are y's alone go to the zero page
    x[0] = y[4 * 1024] = 1
    assert x[4 * 1024] == want[4 * 1024] and y[0] == want[0]


def test_a_mapped_file_whose_name_is_no_text(space: hmm.AddressSpace, tmp_path: Path) -> None:
    """File names are bytes. The mappings of the process name this file, whatever array is asked about."""
    path = os.fsencode(tmp_path) + b"/caf\xe9"
    noise(8).tofile(os.fsdecode(path))
    mapped = np.memmap(os.fsdecode(path), np.int32, "c")
    assert any(m.path == os.fsdecode(path) for m in all_mappings())
    assert space.merge(space.array(mapped), space.array(mapped)).merged == 2 * PAGES
    space.register(np.ones(PAGES * PAGE))
