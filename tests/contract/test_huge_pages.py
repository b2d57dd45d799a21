"""Huge pages of hugetlbfs: caught, moved and told about as one page of 2 MiB, private and shared."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from forking import in_child

import hmmemu as hmm

HUGE = 2 << 20
MAP_HUGETLB = 0x40000
INTS = HUGE // 4  # of one huge page
N = 3 * INTS
Make = Callable[[], np.ndarray]

pytestmark = pytest.mark.usefixtures("huge_pages")


def anonymous(sharing: int) -> np.ndarray:
    return np.frombuffer(mmap.mmap(-1, 4 * N, flags=sharing | mmap.MAP_ANONYMOUS | MAP_HUGETLB), np.int32)


def of_memfd(sharing: int) -> np.ndarray:
    fd = os.memfd_create("huge", os.MFD_HUGETLB)
    os.truncate(fd, 4 * N)
    mmap.mmap(fd, 4 * N)[:] = b"\7" * (4 * N)  # what a private page that is dropped would show
    memory = mmap.mmap(fd, 4 * N, flags=sharing)
    os.close(fd)
    return np.frombuffer(memory, np.int32)


KINDS: dict[str, Make] = {
    "private": lambda: anonymous(mmap.MAP_PRIVATE),
    "shared": lambda: anonymous(mmap.MAP_SHARED),
    "memfd": lambda: of_memfd(mmap.MAP_SHARED),
    "private_of_memfd": lambda: of_memfd(mmap.MAP_PRIVATE),
}


@pytest.fixture(params=KINDS)
def x(request: pytest.FixtureRequest, huge_pages: None) -> np.ndarray:
    made = KINDS[request.param]()
    made[:] = np.arange(N)
    return made


def here(space: hmm.AddressSpace, x: np.ndarray) -> np.ndarray:
    """Which pages the CPU has."""
    return np.array([str(code)[0] != "-" for code in space.residency(x)])


def away(space: hmm.AddressSpace, x: np.ndarray) -> None:
    space.prefetch(x, space.devices[0], write=True)
    assert not here(space, x).any()


def test_back_and_forth(space: hmm.AddressSpace, x: np.ndarray) -> None:
    space.register(x)
    device, model = space.devices[0], np.arange(N, dtype=np.int32)
    for i in range(6):
        part = slice(i * 300_000, i * 300_000 + 200_000)
        device.write(x[part], -i)
        model[part] = -i
        np.testing.assert_array_equal(x, model)  # readable copies
        x[i :: INTS // 2] += 100  # stores to them
        model[i :: INTS // 2] += 100
        np.testing.assert_array_equal(device.read(x), model)
    away(space, x)
    space.unregister(x)
    np.testing.assert_array_equal(x, model)
    x[:] = 1  # plain memory again


def test_kernels(space: hmm.AddressSpace, kernels: hmm.RawModule, x: np.ndarray) -> None:
    with space:
        for round_ in range(3):
            kernels.get_function("add")(64, 256, (x, N, 7))
            np.testing.assert_array_equal(x[::1000], (np.arange(N) + 8 * round_ + 7)[::1000])
            x += 1
    space.close()
    np.testing.assert_array_equal(x, np.arange(N) + 24)
    x[:] = 2


def test_a_huge_page_is_one_page(space: hmm.AddressSpace, x: np.ndarray) -> None:
    space.register(x)
    away(space, x)
    assert x[INTS + 5] == INTS + 5
    np.testing.assert_array_equal(here(space, x), np.arange(3 * 512) // 512 == 1)


def test_protectors_hear_of_stores_and_device_writes(space: hmm.AddressSpace, x: np.ndarray) -> None:
    space.register(x)
    space.dirty(x)
    assert len(space.dirty(x)) == 0
    x[3] = 1
    np.testing.assert_array_equal(space.dirty(x), np.arange(512))
    space.devices[0].write(x[2 * INTS :], 4)
    np.testing.assert_array_equal(space.dirty(x), np.arange(1024, 1536))
    with space.snapshot_of(x) as frozen:
        before = x.copy()
        x[INTS] = -1
        space.devices[0].write(x[:10], -2)
        np.testing.assert_array_equal(np.asarray(frozen), before)
    assert x[INTS] == -1 and x[9] == -2


@pytest.mark.parametrize("there", ["away", "copied"])
def test_a_system_call_writes(
    space: hmm.AddressSpace, x: np.ndarray, tmp_path: Path, tracker: str, there: str
) -> None:
    (tmp_path / "file").write_bytes(b"\1" * 8192)
    space.register(x)
    if there == "away":
        away(space, x)
    else:
        space.devices[0].read(x)
    with open(tmp_path / "file", "rb", buffering=0) as file:
        if space.tracker != "uffd":  # watched by protection
            with pytest.raises(OSError, match="Bad address"):
                file.readinto(memoryview(x[INTS : INTS + 2048]).cast("B"))
            space.prefetch(x, hmm.cpu, write=True)
        assert file.readinto(memoryview(x[INTS : INTS + 2048]).cast("B")) == 8192
    assert (space.devices[0].read(x)[INTS : INTS + 2048] == 0x01010101).all()
    assert x[INTS - 1] == INTS - 1 and x[INTS + 2048] == INTS + 2048


def test_arrays_that_share_a_huge_page(space: hmm.AddressSpace, x: np.ndarray) -> None:
    low = np.frombuffer(x.base, np.int32, INTS + 1000)
    high = np.frombuffer(x.base, np.int32, N - INTS - 1000, 4 * (INTS + 1000))
    space.register(low)
    space.register(high)
    space.devices[0].write(low, 5)
    space.devices[0].write(high, 6)
    space.unregister(low)
    assert (low == 5).all()
    away(space, high)
    low[:] = 7  # its last page is still shared with the device
    assert (high == 6).all()
    space.discard(high)
    assert (low == 7).all() and (high[INTS:] == 0).all()
    assert (high[: INTS - 1000] == 6).all()  # its huge page holds others' data too
    space.unregister(high)
    x[:] = 3


def test_discarded_pages_read_as_zeros(space: hmm.AddressSpace, x: np.ndarray) -> None:
    space.register(x)
    away(space, x)
    space.discard(x)
    assert not x[:INTS].any()
    assert not space.devices[0].read(x).any()
    x[N - 1] = 2
    assert space.devices[0].read(x)[N - 1] == 2


def test_a_small_device_evicts_whole_huge_pages(x: np.ndarray) -> None:
    with hmm.AddressSpace(device_memory=2 * HUGE + 4096, timeout=60) as space:
        space.register(x)
        device = space.devices[0]
        for i in range(3):
            device.write(x[i * INTS : (i + 1) * INTS], i)
        for i in range(3):
            assert (device.read(x[i * INTS : (i + 1) * INTS]) == i).all()
            assert (x[i * INTS : (i + 1) * INTS : 1000] == i).all()


@pytest.mark.parametrize("name", ["shared", "memfd"])
def test_another_process_sees_what_the_cpu_has(space: hmm.AddressSpace, huge_pages: None, name: str) -> None:
    x = KINDS[name]()
    x[:] = 3
    space.register(x)
    space.devices[0].write(x, 4)
    space.prefetch(x, hmm.cpu)
    assert in_child(lambda: (x == 4).all()) == 0
    space.devices[0].write(x, 5)
    assert (x == 5).all()


def test_a_fork_child_gets_the_content(space: hmm.AddressSpace, huge_pages: None) -> None:
    x = KINDS["private"]()
    x[:] = 3
    space.register(x)
    space.devices[0].write(x, 4)
    assert in_child(lambda: (x == 4).all()) == 0
    space.devices[0].write(x, 5)
    assert (x == 5).all()


def test_merging_leaves_them_alone(space: hmm.AddressSpace, x: np.ndarray) -> None:
    x[:] = 1
    space.register(x)
    result = space.merge(x)
    assert (result.merged, result.skipped) == (0, N // 1024)
    assert (x == 1).all()
    x[:] = 2


def test_other_sizes_are_refused(huge_pages: None) -> None:
    from hmmemu.mappings import Mapping, _huge_page_of, kind_of

    fd = os.memfd_create("big", os.MFD_HUGETLB | os.MFD_HUGE_1GB)
    found = os.fstat(fd)
    os.close(fd)
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    assert _huge_page_of(device) == 1 << 30
    m = Mapping.parse(f"40000000-80000000 rw-p 00000000 {device} 5 /anon_hugepage (deleted)\n")
    with pytest.raises(hmm.UnsupportedError, match=r"huge pages of 1048576 KiB.*hmm\.asarray"):
        kind_of([m], "data")
