"""Pages of regular files: np.memmap and SharedFile, other writers, ends that move."""

from __future__ import annotations

import gc
import os
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forking import in_child
from running import run_python

import hmmemu as hmm
from hmmemu import trackers

pytestmark = pytest.mark.skipif(
    "signal" not in trackers.IMPLEMENTED, reason="no tracker for pages of files yet"
)

INTS = 1024  # a page of int32
PAGES = 16
PAGE = 4096


def numbers(n: int = PAGES * INTS) -> np.ndarray:
    return np.arange(n, dtype=np.int32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    numbers().tofile(made)
    return made


@pytest.fixture
def file(space: hmm.AddressSpace, path: Path):
    with hmm.SharedFile(path, "r+", np.int32, space=space) as opened:
        yield opened


def add(kernels: hmm.RawModule, x: np.ndarray, value: int) -> None:
    kernels.get_function("add")(4, 64, (x, x.size, value))


def on_disk(path: Path) -> np.ndarray:
    return np.fromfile(path, np.int32)


# ------------------------------------------------------------------------------------------ np.memmap


def test_memmap_r_plus(space: hmm.AddressSpace, kernels: hmm.RawModule, path: Path) -> None:
    x = np.memmap(path, np.int32, "r+")
    add(kernels, x, 1)
    np.testing.assert_array_equal(x, numbers() + 1)
    x[:INTS] = -1
    add(kernels, x, 1)
    space.unregister(x)
    expected = numbers() + 2
    expected[:INTS] = 0
    np.testing.assert_array_equal(on_disk(path), expected)


def test_memmap_r(space: hmm.AddressSpace, kernels: hmm.RawModule, path: Path) -> None:
    x, y = np.memmap(path, np.int32, "r"), space.zeros(PAGES * INTS, np.int32)
    kernels.get_function("copy")(4, 64, (x, y, x.size))
    np.testing.assert_array_equal(y, numbers())
    np.testing.assert_array_equal(x, numbers())
    assert set(space.residency(x)) == {"SS"}
    with pytest.raises(hmm.Error, match="read-only"):
        space.prefetch(x, space.devices[0])
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 1


def test_memmap_c(space: hmm.AddressSpace, kernels: hmm.RawModule, path: Path) -> None:
    """A private mapping: stores of CPU and device are its own, the file never changes."""
    x = np.memmap(path, np.int32, "c")
    x[:INTS] = -5
    add(kernels, x, 1)
    expected = numbers() + 1
    expected[:INTS] = -4
    np.testing.assert_array_equal(x, expected)
    x[3 * INTS] = 7
    np.testing.assert_array_equal(space.devices[0].read(x)[3 * INTS :], np.r_[7, expected[3 * INTS + 1 :]])
    np.testing.assert_array_equal(on_disk(path), numbers())


def test_parts_of_a_file(space: hmm.AddressSpace, kernels: hmm.RawModule, path: Path) -> None:
    x = np.memmap(path, np.int32, "r+", offset=3 * PAGE + 40, shape=(2 * INTS,))
    add(kernels, x, 1)
    assert (x == numbers()[3 * INTS + 10 :][: 2 * INTS] + 1).all()
    whole = np.memmap(path, np.int32, "r+")
    space.unregister(x)
    add(kernels, whole, 1)
    expected = numbers() + 1
    expected[3 * INTS + 10 :][: 2 * INTS] += 1
    np.testing.assert_array_equal(whole, expected)


def test_two_readers_of_one_file(space: hmm.AddressSpace, path: Path) -> None:
    for mode in ("r", "r"):
        x = space.register(np.memmap(path, np.int32, mode))
        np.testing.assert_array_equal(space.devices[0].read(x), numbers())


def test_file_with_a_part_of_a_page(space: hmm.AddressSpace, kernels: hmm.RawModule, tmp_path: Path) -> None:
    numbers(1500).tofile(tmp_path / "odd")
    x = np.memmap(tmp_path / "odd", np.int32, "r+")
    add(kernels, x, 1)
    assert (x == numbers(1500) + 1).all()
    space.unregister(x)
    assert (tmp_path / "odd").stat().st_size == 6000
    np.testing.assert_array_equal(on_disk(tmp_path / "odd"), numbers(1500) + 1)


def test_cpu_threads_and_kernels_on_one_file(
    space: hmm.AddressSpace, kernels: hmm.RawModule, path: Path
) -> None:
    x = space.register(np.memmap(path, np.int32, "r+"))
    half = x.size // 2 + 100  # in the middle of a page
    stop = threading.Event()
    counts = np.zeros(1, np.int64)

    def count() -> None:
        while not stop.is_set():
            x[half:] += 1
            counts[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    for _ in range(10):
        add(kernels, x[:half], 1)
        space.synchronize()
    stop.set()
    thread.join(30)
    expected = numbers()
    expected[:half] += 10
    expected[half:] += counts[0]
    np.testing.assert_array_equal(x, expected)


# ----------------------------------------------------------------------------------------- SharedFile


def test_array_of_a_shared_file(file: hmm.SharedFile, kernels: hmm.RawModule, path: Path) -> None:
    assert file.array.dtype == np.int32 and file.array.shape == (PAGES * INTS,) and file.size == PAGES * PAGE
    add(kernels, file.array, 1)
    assert file.pread(8, PAGE) == (numbers() + 1)[INTS : INTS + 2].tobytes()
    assert file.read(4) == np.int32(1).tobytes() and file.tell() == 4
    file.flush()
    np.testing.assert_array_equal(on_disk(path), numbers() + 1)


def test_made_anew_and_grown(space: hmm.AddressSpace, tmp_path: Path) -> None:
    with hmm.SharedFile(tmp_path / "new", "w+", np.float64, (3, 1000), space=space) as file:
        assert file.size == 24000 and not file.array.any() and "24,000 bytes" in repr(file)
        space.devices[0].write(file.array, 2.5)
    assert file.closed and "closed" in repr(file)
    assert (np.fromfile(tmp_path / "new") == 2.5).all()
    with hmm.SharedFile(tmp_path / "new", "r+", np.float64, 4000, 8, space=space) as file:
        assert file.size == 8 + 32000 and file.array[0] == 2.5 and not file.array[2999:].any()


def test_bad_files(space: hmm.AddressSpace, path: Path) -> None:
    with pytest.raises(hmm.ArgumentError, match="use 'r', 'r\\+' or 'w\\+'"):
        hmm.SharedFile(path, "a", space=space)
    with pytest.raises(hmm.ArgumentError, match="need 80,000"):
        hmm.SharedFile(path, "r", np.int32, 20000, space=space)
    with pytest.raises(hmm.ArgumentError, match="nothing to map"):
        hmm.SharedFile(path, "r", offset=PAGES * PAGE, space=space)
    with pytest.raises(FileNotFoundError):
        hmm.SharedFile(path.with_name("no"), space=space)
    with hmm.SharedFile(path, "r", space=space) as file:
        with pytest.raises(hmm.ArgumentError, match="opened with mode 'r'"):
            file.write(b"x")
        with pytest.raises(hmm.ArgumentError, match="opened with mode 'r'"):
            file.truncate(0)
    with pytest.raises(hmm.ArgumentError, match="is closed"):
        file.pread(1, 0)
    file.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "V0"}, "no size"),
        ({"dtype": object}, "Python objects"),
        ({"shape": -5}, "negative dimensions"),
        ({"shape": 1.5}, "a shape is an integer"),
    ],
)
def test_bad_dtypes_and_shapes(
    space: hmm.AddressSpace, path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(hmm.ArgumentError, match=message):
        hmm.SharedFile(path, "w+", space=space, **changes)
    np.testing.assert_array_equal(on_disk(path), numbers())  # as it was, and not emptied


def test_bad_bytes_and_positions(file: hmm.SharedFile, path: Path) -> None:
    for data in (np.arange(10)[::2], "text", [1, 2], 5):
        with pytest.raises(hmm.ArgumentError, match="pwrite takes contiguous bytes"):
            file.pwrite(data, 0)
    file.seek(40)
    for whence in (7, None):
        with pytest.raises(hmm.ArgumentError, match="whence="):
            file.seek(0, whence)  # type: ignore[arg-type]
    assert file.tell() == 40
    np.testing.assert_array_equal(on_disk(path), numbers())


def test_elements_of_several_numbers(space: hmm.AddressSpace, path: Path) -> None:
    with hmm.SharedFile(path, "r+", "4i4", space=space) as whole:
        np.testing.assert_array_equal(whole.array, numbers().reshape(-1, 4))
    with hmm.SharedFile(path, "r+", "4i4", 8, space=space) as part:
        np.testing.assert_array_equal(part.array, numbers(32).reshape(8, 4))


def test_a_dropped_file_is_closed(space: hmm.AddressSpace, path: Path) -> None:
    """Its descriptor is; the pages are the array's."""
    file = hmm.SharedFile(path, "r+", np.int32, space=space)
    link, array = Path(f"/proc/self/fd/{file.fileno()}"), file.array
    assert link.samefile(path)
    del file
    gc.collect()
    assert not link.exists() or not link.samefile(path)
    space.devices[0].write(array, 3)
    assert (array == 3).all() and (on_disk(path) == 3).all()
    space.unregister(array)


def test_after_the_space(path: Path) -> None:
    with hmm.AddressSpace(device="emulated") as space:
        file = hmm.SharedFile(path, "r+", np.int32, space=space)
        space.devices[0].write(file.array[:INTS], 9)
    assert (file.array[:INTS] == 9).all()
    assert file.pwrite(np.int32(3).tobytes(), 0) == 4 and file.array[0] == 3
    file.truncate(PAGE)
    file.close()
    assert path.stat().st_size == PAGE


@pytest.mark.parametrize("where", ["device", "both", "cpu"])
def test_a_system_call_writes(space: hmm.AddressSpace, file: hmm.SharedFile, where: str) -> None:
    """As a store would: what a device wrote to the same page is kept, and its copy goes."""
    x, device = file.array, space.devices[0]
    if where != "cpu":
        device.write(x[INTS : 3 * INTS], -1)
    if where == "both":
        assert (x[INTS : 3 * INTS] == -1).all()
    data = np.full(INTS, 5, np.int32)
    assert file.pwrite(data, PAGE + PAGE // 2) == PAGE
    expected = numbers()
    if where != "cpu":
        expected[INTS : 3 * INTS] = -1
    expected[INTS + INTS // 2 :][:INTS] = 5
    np.testing.assert_array_equal(device.read(x), expected)
    np.testing.assert_array_equal(x, expected)


def test_a_system_call_writes_what_lies_on_a_device(space: hmm.AddressSpace, file: hmm.SharedFile) -> None:
    source = space.full(PAGES * INTS, 3, np.int32)
    space.devices[0].write(source, 4)
    file.seek(0)
    file.write(source)
    assert (space.devices[0].read(file.array) == 4).all()
    file.write(b"tail")
    assert file.size == PAGES * PAGE + 4 and file.pread(10, PAGES * PAGE) == b"tail"


def test_protectors_hear_of_system_calls(space: hmm.AddressSpace, file: hmm.SharedFile) -> None:
    before = space.snapshot_of(file.array)
    space.dirty(file.array)
    file.pwrite(b"\xff" * 10, 2 * PAGE - 5)
    assert space.dirty(file.array).tolist() == [1, 2]
    file.truncate(5 * PAGE)
    assert space.dirty(file.array).tolist() == list(range(5, PAGES))
    np.testing.assert_array_equal(np.asarray(before), numbers())


# ---------------------------------------------------------------------------------------- truncation


def test_a_device_behind_the_end(
    space: hmm.AddressSpace, file: hmm.SharedFile, kernels: hmm.RawModule
) -> None:
    x = file.array
    space.devices[0].write(x, 1)
    file.truncate(4 * PAGE)
    assert (space.devices[0].read(x[: 4 * INTS]) == 1).all()
    words = rf"offset {4 * PAGE:,} of .*data lies behind the end of the file: it has {4 * PAGE:,} bytes"
    with pytest.raises(hmm.KernelFault, match=words):
        kernels.get_function("poke")(1, 1, (x, 4 * INTS, 1))
        space.synchronize()
    with pytest.raises(hmm.TruncatedError, match="behind the end"):
        space.devices[0].read(x[5 * INTS :])
    add(kernels, x[: 4 * INTS], 1)
    assert (x[: 4 * INTS] == 2).all()


@pytest.mark.parametrize("pages", [1, 3, PAGES - 1])
def test_a_device_behind_the_end_of_pages_it_wrote(
    space: hmm.AddressSpace, file: hmm.SharedFile, kernels: hmm.RawModule, pages: int
) -> None:
    """However few pages are lost: what the device had of them must not answer, nor keep the kernel waiting."""
    space.devices[0].write(file.array, 1)
    file.truncate((PAGES - pages) * PAGE)
    for _ in range(2):  # the second time on a device that was started again
        with pytest.raises(hmm.KernelFault, match="behind the end"):
            add(kernels, file.array, 1)
            space.synchronize()


def test_the_cpu_behind_the_end(
    space: hmm.AddressSpace, file: hmm.SharedFile, kernels: hmm.RawModule
) -> None:
    x = file.array
    file.truncate(4 * PAGE + 8)
    assert x[4 * INTS] == 4 * INTS and x[4 * INTS + 2] == 0  # the rest of the last page is zeros
    with pytest.raises(hmm.TruncatedError, match=rf"offset {7 * PAGE:,} of .*data lies behind the end"):
        for _ in range(1000):  # at once, or at the next bytecode that looks
            assert x[7 * INTS] == 0
    with pytest.raises(hmm.TruncatedError, match="behind the end"):
        for _ in range(1000):
            x[9 * INTS] = 1
    with pytest.raises(hmm.KernelFault, match="behind the end"):  # the zeros are the program's alone
        kernels.get_function("peek")(1, 1, (x, 7 * INTS, space.zeros(1, np.int32)))
        space.synchronize()
    file.truncate(PAGES * PAGE)  # grows: all pages are the file's again
    assert not x[5 * INTS :].any()
    x[7 * INTS] = 5
    space.devices[0].write(x[9 * INTS : 10 * INTS], 6)
    file.flush()
    assert on_disk(file.path)[7 * INTS] == 5 and (on_disk(file.path)[9 * INTS : 10 * INTS] == 6).all()


def test_another_thread_behind_the_end(file: hmm.SharedFile) -> None:
    caught: list[BaseException] = []

    def touch() -> None:
        try:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                assert file.array[-1] == 0
        except BaseException as error:
            caught.append(error)

    file.truncate(PAGE)
    thread = threading.Thread(target=touch)
    thread.start()
    while thread.is_alive():
        thread.join(0.05)
    assert len(caught) == 1 and isinstance(caught[0], hmm.TruncatedError)
    assert "behind the end" in str(caught[0])


def test_truncated_by_somebody_else(
    space: hmm.AddressSpace, file: hmm.SharedFile, kernels: hmm.RawModule
) -> None:
    x = file.array
    space.devices[0].write(x[: 8 * INTS], -1)
    os.truncate(file.path, 6 * PAGE)
    with pytest.warns(hmm.FileConflictWarning, match="2 pages"):
        add(kernels, x[: 6 * INTS], 1)
        space.synchronize()
    assert not x[: 6 * INTS].any()
    with pytest.raises(hmm.KernelFault, match="behind the end"):
        kernels.get_function("poke")(1, 1, (x, 7 * INTS, 1))
        space.synchronize()
    file.close()  # with pages that have nowhere to go
    assert not on_disk(Path(file.path)).any()


def test_a_growing_write_shows_pages_again(file: hmm.SharedFile) -> None:
    file.truncate(2 * PAGE)
    with pytest.raises(hmm.TruncatedError):
        for _ in range(1000):
            assert file.array[3 * INTS] == 0
    file.pwrite(np.int32(8).tobytes(), 3 * PAGE)
    assert file.array[3 * INTS] == 8


def test_behind_the_end_without_a_space(path: Path) -> None:
    """Files that are none of ours crash as they do without hmmemu."""
    done = run_python(f"""
        import os, numpy as np, hmmemu as hmm
        other = np.memmap({str(path)!r}, np.int32, "r+")
        with hmm.AddressSpace(device="emulated") as space:
            space.zeros(10)
            os.truncate({str(path)!r}, 0)
            other[0]
    """)
    assert done.returncode == -7, done.stderr


# -------------------------------------------------------------------------------------- other writers


def rewrite(path: Path, offset: int, data: bytes) -> None:
    def child() -> bool:
        fd = os.open(path, os.O_WRONLY)
        return os.pwrite(fd, data, offset) == len(data)

    assert in_child(child) == 0


def test_another_process_is_noticed_at_the_next_launch(
    space: hmm.AddressSpace, file: hmm.SharedFile, kernels: hmm.RawModule
) -> None:
    x, y = file.array, space.zeros(PAGES * INTS, np.int32)
    copy = kernels.get_function("copy")
    for value in range(3):
        copy(4, 64, (x, y, x.size))
        space.synchronize()
        rewrite(Path(file.path), 5 * PAGE, np.int32(value).tobytes())
        copy(4, 64, (x, y, x.size))
        assert y[5 * INTS] == value
    expected = numbers()
    expected[5 * INTS] = 2
    np.testing.assert_array_equal(y, expected)


def test_two_writers_of_different_pages(
    space: hmm.AddressSpace, file: hmm.SharedFile, kernels: hmm.RawModule
) -> None:
    x = file.array
    add(kernels, x[: 4 * INTS], 1)
    space.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("error", hmm.FileConflictWarning)
        descriptor = os.open(file.path, os.O_WRONLY)
        os.pwrite(descriptor, np.int32(-1).tobytes(), 9 * PAGE)
        os.close(descriptor)
        add(kernels, x[: 4 * INTS], 1)
    expected = numbers()
    expected[: 4 * INTS] += 2
    expected[9 * INTS] = -1
    np.testing.assert_array_equal(x, expected)


def test_two_writers_of_one_page(
    space: hmm.AddressSpace, file: hmm.SharedFile, kernels: hmm.RawModule
) -> None:
    x = file.array
    space.devices[0].write(x[: 2 * INTS], -1)
    descriptor = os.open(file.path, os.O_WRONLY)
    os.pwrite(descriptor, np.int32(77).tobytes(), 4)
    os.close(descriptor)
    with pytest.warns(
        hmm.FileConflictWarning, match="data: 1 pages were written by a device and by somebody"
    ):
        add(kernels, x[8 * INTS :], 0)
    assert x[0] == 0 and x[1] == 77 and (x[INTS : 2 * INTS] == -1).all()
