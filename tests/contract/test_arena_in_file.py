"""Arrays that lie in a file, as those of every space with a GPU do: memory comes and goes, and a fork copies.

The rest of the suite runs over such an arena with HMMEMU_ARENA=file.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from forking import in_child
from running import run_python

import hmmemu as hmm

PAGE = 4096
SIZE = 8 << 20
N = SIZE // 4


@pytest.fixture(autouse=True)
def arena_in_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HMMEMU_ARENA", "file")


@pytest.fixture
def space(arena_in_file: None) -> Iterator[hmm.AddressSpace]:
    with hmm.AddressSpace(timeout=60) as made:
        yield made


def mapping_of(array: np.ndarray) -> str:
    """The line of /proc/self/maps in which an array begins."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(x, 16) for x in line.split(maxsplit=1)[0].split("-"))
        if begin <= array.ctypes.data < end:
            return line
    raise AssertionError("not mapped")


def file_bytes(array: np.ndarray) -> int:
    """Memory of the file that an array lies in."""
    inode = int(mapping_of(array).split()[4])
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found = entry.stat()
        except OSError:
            continue
        if found.st_ino == inode and "memfd:hmmemu" in os.readlink(entry):
            return found.st_blocks * 512
    raise AssertionError("no descriptor of the file")


# -------------------------------------------------------------------------------------------------- memory


def test_memory_is_there_where_it_was_written(space: hmm.AddressSpace) -> None:
    x, y = space.zeros(256 << 20, np.uint8), space.empty(N, np.int32)
    assert file_bytes(x) == 0
    y[:] = 7
    x[5] = 1
    assert SIZE + PAGE <= file_bytes(x) <= SIZE + (4 << 20)
    del y
    space.zeros(1, np.uint8)  # collects
    assert file_bytes(x) <= 4 << 20
    space.discard(x)
    assert file_bytes(x) <= PAGE and x[5] == 0


def test_memory_that_is_used_again_is_zero(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    for by_device in (False, True, False):
        x = space.zeros(N, np.int32)
        assert not x.any()
        if by_device:
            kernels.get_function("fill")((8,), (256,), (x, np.int64(N), np.int32(9)))
        else:
            x[:] = 7
        assert (x == (9 if by_device else 7)).all()
        address = x.ctypes.data
        del x
    assert space.zeros(N, np.int32).ctypes.data == address


def test_locked_memory_that_is_used_again_is_zero(space: hmm.AddressSpace) -> None:
    x = space.full(N, 7, np.int32)
    address = x.ctypes.data
    if ctypes.CDLL(None).mlock(ctypes.c_void_p(address), ctypes.c_size_t(SIZE)) != 0:
        pytest.skip("memory cannot be locked here (`ulimit -l`)")
    del x
    y = space.zeros(N, np.int32)
    assert y.ctypes.data == address and not y.any()


def test_merged_pages_leave_the_file(space: hmm.AddressSpace) -> None:
    data = np.random.default_rng(1).integers(0, 256, SIZE // 4, np.uint8)
    x, y, zeros = space.array(data), space.array(data), space.empty(SIZE, np.uint8)
    zeros[:] = 0
    before = file_bytes(zeros)
    result = space.merge()
    assert result.merged == 2 * data.size // PAGE and result.zeros == SIZE // PAGE
    assert file_bytes(zeros) <= before - 2 * data.size - SIZE
    y[::PAGE] ^= 1  # breaks all of them
    assert (x == data).all() and (y[::PAGE] == data[::PAGE] ^ 1).all() and not zeros.any()
    y[::PAGE] ^= 1
    assert (y == data).all()


# -------------------------------------------------------------------------------------------------- forks


def test_a_child_has_a_copy(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    x, y, untouched = space.full(N, 1, np.int32), space.full(N, 2, np.int32), space.zeros(N, np.int32)
    gone = space.full(N, 3, np.int32)
    kernels.get_function("add")((8,), (256,), (x, np.int64(N), np.int32(4)))
    space.synchronize()
    del gone

    def child() -> bool:
        right = (x == 5).all() and (y == 2).all() and not untouched.any()
        x[:], untouched[0] = 6, 7
        return bool(right and (x == 6).all() and untouched[0] == 7 and (y == 2).all())

    assert in_child(child) == 0
    assert (x == 5).all() and not untouched.any()
    kernels.get_function("add")((8,), (256,), (x, np.int64(N), np.int32(4)))
    assert (x == 9).all()


def hand_over(x: np.ndarray, pipe: Connection) -> None:
    pipe.recv()  # the parent has written
    seen = int(x[0]), int(x[-1])
    x[0] = 100
    pipe.send(seen)
    pipe.recv()


def test_neither_sees_what_the_other_stores_later(space: hmm.AddressSpace) -> None:
    x = space.array(np.arange(N, dtype=np.int32))
    here, there = multiprocessing.get_context("fork").Pipe()
    child = multiprocessing.get_context("fork").Process(target=hand_over, args=(x, there))
    child.start()
    x[0], x[-1] = 50, 51
    here.send("written")
    assert here.poll(60) and here.recv() == (0, N - 1)
    assert (x[0], x[-1]) == (50, 51)
    here.send("end")
    child.join(60)
    assert child.exitcode == 0


def test_a_grandchild_has_a_copy_of_its_own(space: hmm.AddressSpace) -> None:
    x = space.full(N, 1, np.int32)

    def child() -> bool:
        x[0] = 2
        inner = in_child(lambda: x[0] == 2 and not x.__setitem__(0, 3) and x[0] == 3)
        return inner == 0 and bool(x[0] == 2)

    assert in_child(child) == 0 and x[0] == 1


def test_the_copy_is_of_one_moment(space: hmm.AddressSpace) -> None:
    x = space.zeros(4 * N, np.int32)
    stop = threading.Event()

    def write() -> None:
        for value in range(1, 1 << 30):
            x[:] = value  # from the first to the last, without the GIL
            if stop.is_set():
                return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            assert in_child(lambda: bool((x[:-1] >= x[1:]).all() and x[0] - x[-1] <= 1)) == 0
    finally:
        stop.set()
        writer.join(60)
    assert (x == x[0]).all()


def test_watched_pages_are_copied_and_stay_watched(space: hmm.AddressSpace) -> None:
    x = space.full(N, 1, np.int32)
    space.dirty(x)
    frozen = space.snapshot_of(x)
    assert in_child(lambda: bool((x == 1).all())) == 0
    x[0] = 2
    assert 0 in space.dirty(x)
    assert np.asarray(frozen)[0] == 1


def test_a_program_that_is_started_costs_no_copy(space: hmm.AddressSpace) -> None:
    x = space.full(N, 1, np.int32)
    space.prefetch(x, space.devices[0])
    before = space.residency(x)
    subprocess.run([sys.executable, "-c", ""], check=True, timeout=60)
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    assert os.waitpid(pid, 0)[1] == 0
    assert np.array_equal(space.residency(x), before)


def test_without_memory_for_a_copy_a_child_has_none() -> None:
    done = run_python(
        """
        import os, resource, signal, numpy as np, hmmemu as hmm
        with hmm.AddressSpace(device="emulated", timeout=60) as space:
            x = space.full(1 << 20, 7, np.int32)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
            child = os.fork()
            if child == 0:
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                os._exit(int(x[0]))
            ended = os.waitpid(child, 0)[1]
            assert os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGSEGV, ended
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            x[0] = 8
            child = os.fork()
            if child == 0:
                os._exit(int(x[0]))
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 8
        print("as said", x[0], x[1])
        """
    )
    assert done.stdout == "as said 8 7\n", done.stderr
    assert done.stderr.startswith(
        "hmmemu: a fork child gets no copy of 4 MiB of shared arrays (File too large)"
    )


# ------------------------------------------------------------------------------------------------- closing


def test_arrays_of_a_closed_space_are_plain_memory(kernels: hmm.RawModule) -> None:
    with hmm.AddressSpace(timeout=60) as space:
        x = space.full(N, 1, np.int32)
        assert mapping_of(x).split()[1].endswith("s") and "memfd:hmmemu-common" in mapping_of(x)
        kernels.get_function("add")((8,), (256,), (x, np.int64(N), np.int32(4)))
    assert mapping_of(x).split()[1] == "rw-p"
    assert (x == 5).all()
    x[0] = 6

    def child() -> bool:
        right = x[0] == 6 and x[1] == 5
        x[1] = 7
        return bool(right and x[1] == 7)

    assert in_child(child) == 0 and x[1] == 5


def test_a_page_that_devices_use_stays_where_it_is(arena_in_file: None) -> None:
    add = hmm.RawKernel('extern "C" __global__ void add(unsigned* x) { atomicAdd_system(x, 1u); }', "add")
    with hmm.AddressSpace(timeout=60, link="pcie4") as space:
        x = space.full(1024, 7, np.uint32)
        before = file_bytes(x)
        add((1,), (32,), (x,))
        space.synchronize()
        assert space.stats().processors[1].remote_pages == 1
        assert file_bytes(x) == before and x[0] == 39 and x[1] == 7
